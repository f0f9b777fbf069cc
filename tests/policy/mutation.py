"""Mutants of a policy file: its text with one thing changed, as a hand slips, in the parts that decide something.

Works on YAML and knows no field: an operator, a bound or a digit is changed wherever a scalar has one; a scalar takes
the value that another has at the same key; entries are left out, added, doubled and exchanged. So a new part of the
grammar is mutated as soon as it is in DECIDING. The same file gives the same mutants.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

DECIDING = ("associations", "requests")
LONGEST_BOUND = 12  # characters; what is longer and has digits is a serial number or a key
NAMES = ("name",)  # keys of what decides nothing; a doubled entry takes another, where it has one

_OPERATOR = re.compile(r"(>=|<=|==|>|<)(.+)", re.DOTALL)
_RANGE = re.compile(r"(.+)\.\.(.+)", re.DOTALL)
_HEX = re.compile(r"(0x)?[0-9a-fA-F]{32,}")
_NUMBER = re.compile(r"\d+")
_OPPOSITE = {
    "deny": "allow",
    "allow": "deny",
    "true": "false",
    "false": "true",
    "ep11": "accel",
    "accel": "ep11",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """What was done, in words, and the whole text with it."""

    kind: str
    what: str
    text: str


def mutants(text: str) -> Iterator[Mutant]:
    """All of them, each different from the others and from the text."""
    root = yaml.compose(text, Loader=yaml.BaseLoader)
    assert isinstance(root, yaml.MappingNode)
    seen = {yaml.serialize(root, Dumper=yaml.BaseDumper)}
    for place, (key, value) in enumerate(root.value):
        if key.value not in DECIDING:
            continue
        known = _known(value)
        for kind, what, changed in _changes(value, key.value, known):
            mutated = yaml.serialize(_with(root, place, changed), Dumper=yaml.BaseDumper)
            if mutated not in seen:
                seen.add(mutated)
                yield Mutant(kind, what, mutated)


Change = tuple[str, str, yaml.Node]


def _changes(node: yaml.Node, where: str, known: dict[str, dict[str, yaml.Node]]) -> Iterator[Change]:
    """Every change of the node: at itself, or at one below it."""
    if isinstance(node, yaml.MappingNode):
        yield from _of_mapping(node, where, known)
    elif isinstance(node, yaml.SequenceNode):
        yield from _of_sequence(node, where)
    children = node.value if not isinstance(node, yaml.ScalarNode) else ()
    for at, child in enumerate(children):
        key, below = (child[0].value, child[1]) if isinstance(child, tuple) else (str(at), child)
        if isinstance(below, yaml.ScalarNode):
            name = key if isinstance(child, tuple) else where.rpartition(".")[2]
            if name not in NAMES:
                for kind, value in _of_scalar(below.value, list(known.get(name, ()))):
                    what = f"{where}.{key}: {below.value} -> {value}"
                    yield kind, what, _with(node, at, _scalar(below, value))
        else:
            for kind, what, changed in _changes(below, f"{where}.{key}", known):
                yield kind, what, _with(node, at, changed)


def _of_mapping(
    node: yaml.MappingNode, where: str, known: dict[str, dict[str, yaml.Node]]
) -> Iterator[Change]:
    there = {key.value for key, _ in node.value}
    for at, (key, _) in enumerate(node.value):
        if key.value not in NAMES:
            yield (
                "left out",
                f"{where}: without {key.value}",
                _entries(node, node.value[:at] + node.value[at + 1 :]),
            )
        if key.value in _OPPOSITE:
            other = (_scalar(key, _OPPOSITE[key.value]), node.value[at][1])
            entries = [*node.value[:at], other, *node.value[at + 1 :]]
            yield (
                "operator",
                f"{where}: {_OPPOSITE[key.value]} instead of {key.value}",
                _entries(node, entries),
            )
    siblings = known.get(f"keys of {where.rpartition('.')[2]}", {})
    for name in siblings:
        for value in known.get(name, {}).values() if name not in there else ():
            entries = [*node.value, (siblings[name], value)]
            yield "added", f"{where}: with {name}: {value.value}", _entries(node, entries)


def _of_sequence(node: yaml.SequenceNode, where: str) -> Iterator[Change]:
    items = node.value
    for at, item in enumerate(items):
        yield "left out", f"{where}: without entry {at}", _entries(node, items[:at] + items[at + 1 :])
        for to in sorted({0, at + 1, len(items)}):
            yield (
                "doubled",
                f"{where}: entry {at} again at {to}",
                _entries(node, [*items[:to], _again(item), *items[to:]]),
            )
        for to in range(len(items)):
            if to not in (at, at + 1):  # one place further is the exchange of two neighbours
                moved = items[:at] + items[at + 1 :]
                moved.insert(to, item)
                yield "order", f"{where}: entry {at} at {to}", _entries(node, moved)
    for at in range(len(items)):
        for other in range(at):
            swapped = list(items)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            yield "order", f"{where}: entries {other} and {at} exchanged", _entries(node, swapped)


def _of_scalar(value: str, others: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from (("constant", other) for other in others if other != value)
    if value in _OPPOSITE:
        yield "operator", _OPPOSITE[value]
    if _HEX.fullmatch(value):
        yield from (("constant", slip) for slip in _slips(value))
        return
    if found := _OPERATOR.fullmatch(value):
        yield from (("operator", f"{sign}{found[2]}") for sign in (">=", "<=", "==", ">", "<"))
        yield from (("operator", f"{found[2]}..{_raised(found[2], by)}") for by in (0, 1, 2))
    if found := _RANGE.fullmatch(value):
        yield from (("operator", f"{sign}{end}") for sign in (">=", "<=", "==") for end in found.groups())
        yield from (("operator", f"{end}..{end}") for end in found.groups())
    for found in _NUMBER.finditer(value) if len(value) <= LONGEST_BOUND else ():
        for number in sorted({0, *(int(found[0]) + by for by in (-2, -1, 1, 2))}):
            if number >= 0:
                yield "bound", f"{value[: found.start()]}{number}{value[found.end() :]}"
    if not _NUMBER.fullmatch(value) and len(value) > 1:
        yield from (("constant", slip) for slip in _slips(value))
    if value.isdigit() and len(value) < 3:
        yield "constant", "all"


def _slips(value: str) -> Iterator[str]:
    """One character is another, at the end, in front and between; and two neighbours are exchanged there."""
    body = 2 if value.startswith("0x") else 0
    last = len(value) - 1
    for at in dict.fromkeys((last, (3 * last + body) // 4, (last + body) // 2, (last + 3 * body) // 4, body)):
        yield value[:at] + _other(value[at]) + value[at + 1 :]
        if at > body:
            yield value[: at - 1] + value[at] + value[at - 1] + value[at + 1 :]


def _raised(value: str, by: int) -> str:
    """With every number in it so many higher."""
    return _NUMBER.sub(lambda found: str(int(found[0]) + by), value)


def _other(character: str) -> str:
    if character.isdigit():
        return "1" if character == "0" else "0"
    return "b" if character == "a" else "a"


def _known(root: yaml.Node) -> dict[str, dict[str, Any]]:
    """Per key the values that scalars have there; per `keys of` a key those that its mappings have."""
    found: dict[str, dict[str, Any]] = {}

    def look(node: yaml.Node, name: str) -> None:
        if isinstance(node, yaml.ScalarNode):
            found.setdefault(name, {}).setdefault(node.value, node)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                look(item, name)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found.setdefault(f"keys of {name}", {}).setdefault(key.value, key)
                look(value, key.value)

    look(root, "")
    return found


def _again(item: yaml.Node) -> yaml.Node:
    """The entry once more, under another name."""
    if not isinstance(item, yaml.MappingNode):
        return item
    renamed: Callable[[yaml.Node], yaml.Node] = lambda value: _scalar(value, f"{value.value} again")  # noqa: E731
    return _entries(
        item, [(key, renamed(value) if key.value in NAMES else value) for key, value in item.value]
    )


def _with(node: yaml.Node, at: int, changed: yaml.Node) -> yaml.Node:
    entries = list(node.value)
    entries[at] = (entries[at][0], changed) if isinstance(entries[at], tuple) else changed
    return _entries(node, entries)


def _entries(node: yaml.Node, entries: list[Any]) -> yaml.Node:
    made = copy.copy(node)
    made.value = entries
    return made


def _scalar(node: yaml.Node, value: str) -> yaml.Node:
    made = copy.copy(node)
    made.value = value
    return made
