"""Cases of a document: what is wrong between their values, and the cases that they are.

Looks at the tree for findings, so that they come in the same run as those about single values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyvisor_policy import fields
from keyvisor_policy.case_grammar import CaseFields, ExpectFields
from keyvisor_policy.case_request_loading import compiled_request
from keyvisor_policy.cases import Case, Expectation, Named, Paired
from keyvisor_policy.errors import Finding
from keyvisor_policy.inventory import hsm_of
from keyvisor_policy.strict_yaml import Document
from keyvisor_policy.strict_yaml.document import Path
from keyvisor_policy.strict_yaml.tree import as_list, as_mapping, as_text
from keyvisor_policy.strict_yaml.wording import nearest, shown

HINT_RULES = 100
"""Of more rules nobody looks for the nearest name: the firmware reads guests' policies, and must not be kept busy."""


def compiled_case(document: Document, number: int, entry: CaseFields) -> Case:
    """The case that `entry` is, number `number` of its document."""
    path: Path = ("cases", number)
    return Case(
        entry.name,
        tuple(map(hsm_of, entry.given.hsms)),
        tuple(entry.given.secrets),
        entry.given.current,
        _expectation(document, (*path, "expect"), entry.expect),
        *document.place(path),
    )


def between_values(document: Document) -> Iterator[Finding]:
    """What is wrong between values of cases that may each be right."""
    tree = as_mapping(document.tree)
    names = {
        name for rule in as_list(tree.get("associations")) if (name := as_text(as_mapping(rule).get("name")))
    }
    lines: dict[str, int] = {}
    for number, case in enumerate(map(as_mapping, as_list(tree.get("cases")))):
        path: Path = ("cases", number)
        name = as_text(case.get("name"))
        if name in lines:
            message = f"name: {shown(name)} is the name of another case already, in line {lines[name]}"
            yield document.finding((*path, "name"), message)
        elif name:
            lines[name] = document.place((*path, "name"))[0]
        yield from _about_apqns(document, path, case)
        yield from _about_rules(document, (*path, "expect", "unmet"), case, names)


def _expectation(document: Document, path: Path, entry: ExpectFields) -> Expectation:
    def named(key: str, names: Iterable[str]) -> tuple[Named, ...]:
        return tuple(Named(name, *document.place((*path, key, number))) for number, name in enumerate(names))

    spelt = {apqn.lower(): apqn for apqn in _keys(document.tree, (*path, "associate"))}
    associate = None
    if entry.associate is not None:
        associate = tuple(
            Paired(apqn, secret, *document.key_place((*path, "associate", spelt.get(apqn, apqn))))
            for apqn, secret in entry.associate.items()
        )
    return Expectation(
        associate,
        None if entry.bind is None else named("bind", entry.bind),
        None if entry.unmet is None else named("unmet", entry.unmet),
        named("unbound", entry.unbound),
        tuple(
            Paired(pair.apqn, pair.secret, *document.place((*path, "refuse", number)))
            for number, pair in enumerate(entry.refuse)
        ),
        tuple(
            compiled_request(document, (*path, "requests", number), request)
            for number, request in enumerate(entry.requests)
        ),
        entry.partly,
        *document.key_place(path),
    )


def _about_apqns(document: Document, path: Path, case: dict[str, object]) -> Iterator[Finding]:
    """Every HSM that a case speaks of is given, and nothing is said of one twice."""
    given, expect = as_mapping(case.get("given")), as_mapping(case.get("expect"))
    there = {_apqn(as_mapping(hsm).get("apqn")) for hsm in as_list(given.get("hsms"))}
    for key, where in (("current", "given"), ("associate", "expect")):
        said: set[str] = set()
        for spelling in as_mapping((given if where == "given" else expect).get(key)):
            place = document.key_place((*path, where, key, spelling))
            apqn = _apqn(spelling)
            if apqn in said:
                yield Finding(document.source, *place, f"{key}: HSM {apqn} is there twice; name it once")
            elif apqn and apqn not in there:
                yield Finding(document.source, *place, f"{key}: {_not_given(apqn)}")
            said.update({apqn} - {""})
    for key in ("bind", "unbound", "refuse"):
        for number, item in enumerate(as_list(expect.get(key))):
            at: Path = (*path, "expect", key, number)
            named = as_mapping(item).get("apqn") if key == "refuse" else item
            apqn = _apqn(named)
            if apqn and apqn not in there:
                where_named: Path = (*at, "apqn") if key == "refuse" else at
                yield document.finding(where_named, f"{key}: {_not_given(apqn)}")


def _about_rules(
    document: Document, path: Path, case: dict[str, object], rules: set[str]
) -> Iterator[Finding]:
    for number, item in enumerate(as_list(as_mapping(case.get("expect")).get("unmet"))):
        name = as_text(item)
        if name and name not in rules:
            meant = nearest(name, sorted(rules)) if len(rules) <= HINT_RULES else None
            hint = f"; did you mean {shown(meant)}?" if meant else ""
            yield document.finding(
                (*path, number), f"unmet: {shown(name)} is not the name of a rule of this policy{hint}"
            )


def _not_given(apqn: str) -> str:
    return f"HSM {apqn} is not among the case's `given.hsms`; add it there"


def _apqn(value: object) -> str:
    """The APQN that `value` spells; nothing where it spells none, which has its finding already."""
    try:
        return fields.apqn(as_text(value))
    except ValueError:
        return ""


def _keys(tree: object, path: Path) -> list[str]:
    for step in path:
        entry = as_list(tree)[step] if isinstance(step, int) else as_mapping(tree).get(step)
        tree = entry
    return list(as_mapping(tree))
