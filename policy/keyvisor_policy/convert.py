"""A pvapconfig list written in this grammar: YAML that loads to the same rules, in the same order.

An entry's description becomes a comment; comments of the list itself are not kept. Names of this grammar are
unique, print and have no blanks at their ends; an entry whose name cannot stay is renamed and a comment says so.
Knows nothing of HSMs: what differs for them is in `differences`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from keyvisor_policy import fields, pvapconfig
from keyvisor_policy.grammar import VERSION
from keyvisor_policy.loading import parse
from keyvisor_policy.matching import generations_text
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml import LIMITS, read_document

COMMENT_WIDTH = 4096  # characters of one line of a comment: a file has no line that no editor shows


def converted(text: str | bytes, source: str = "pvapconfig.yaml") -> str:
    """The policy that the pvapconfig list `text` is. Raises DocumentError; ValueError for what is no such list."""
    policy = parse(text, source)
    if policy.grammar != "pvapconfig":
        raise ValueError("this is a policy already; only a pvapconfig file, a bare list, is converted")
    descriptions = pvapconfig.descriptions(read_document(text, source))
    if not policy.rules:
        return f"version: {VERSION}\nassociations: []\n"
    lines = [f"version: {VERSION}", "associations:"]
    for rule, name, description in zip(policy.rules, _names(policy.rules), descriptions, strict=True):
        lines += [*_comment(description), *_renamed(rule, name), *_entry(rule, name)]
    return _short_enough("\n".join(lines) + "\n")


def _short_enough(text: str) -> str:
    """The text, if it is a file that loads: this grammar needs more words than pvapconfig's."""
    if len(text.encode()) > LIMITS.length:
        raise ValueError(
            f"the policy would have more than the {LIMITS.length} bytes of a file; split the list"
        )
    return text


def _names(rules: tuple[Rule, ...]) -> Iterator[str]:
    """A name for each rule: its own where this grammar takes it and no earlier rule has it."""
    own = {rule.name for rule in rules}
    taken: set[str] = set()
    for number, rule in enumerate(rules, 1):
        name = next(
            name
            for name in _candidates(rule.name if _takes(rule.name) else f"entry {number}", number)
            if name not in taken and (name == rule.name or name not in own)
        )
        taken.add(name)
        yield name


def _candidates(name: str, number: int) -> Iterator[str]:
    """The name, then as often as wanted the name with the entry's number behind it."""
    yield name
    cut = name[: fields.MAX_NAME - 16]
    yield f"{cut} ({number})"
    for again in count(2):
        yield f"{cut} ({number}.{again})"


def _takes(name: str) -> bool:
    """Whether this grammar takes the name."""
    try:
        fields.name(name)
    except ValueError:
        return False
    return True


def _entry(rule: Rule, name: str) -> Iterator[str]:
    yield f"  - name: {_quoted(name)}"
    secret = rule.secret
    if secret is not None and (secret.name is None or not _takes(secret.name)):
        yield f"    secret_id: 0x{secret.id.hex()}"
    elif secret is not None and secret.name is not None and secret.name != name:
        yield f"    secret: {_quoted(secret.name)}"
    yield "    hsm:"
    yield f"      mode: {rule.hsm.mode}"
    if rule.hsm.mkvp is not None:
        yield f"      mkvp: 0x{rule.hsm.mkvp.hex()}"
    if rule.hsm.serial is not None:
        yield f"      serial: {_quoted(rule.hsm.serial)}"
    if rule.hsm.generation is not None:
        yield f"      generation: {_quoted(generations_text(rule.hsm.generation))}"


def _renamed(rule: Rule, name: str) -> Iterator[str]:
    if name != rule.name:
        yield from _comment(f"called {_printed(rule.name)} in the list")


def _comment(text: str) -> Iterator[str]:
    """The text as lines of a comment, one for each of its own."""
    for line in text.splitlines():
        yield f"  # {_printed(line)}".rstrip()


def _printed(line: str) -> str:
    """The line with what does not print escaped, and cut where no editor shows the rest."""
    cut = line if len(line) <= COMMENT_WIDTH else line[:COMMENT_WIDTH] + "…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in cut)


def _quoted(text: str) -> str:
    """In double quotes: all that stands here prints, so nothing but these two characters is special."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
