"""`requests` of a document: what is wrong between its values, and the control points that it is.

Looks at the tree for findings, so that they come in the same run as those about single values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Final, Literal

from keyvisor_policy import request_fields
from keyvisor_policy.control_points import NO_CONTROL_POINTS, Condition, ControlPoint, ControlPoints
from keyvisor_policy.errors import Finding
from keyvisor_policy.profiles import PROFILES, profile_text
from keyvisor_policy.request_grammar import PointFields, ProfileFields, RequestsFields
from keyvisor_policy.strict_yaml import Document, ordered, read_document, validate
from keyvisor_policy.strict_yaml.document import Path, Place
from keyvisor_policy.strict_yaml.tree import as_list, as_mapping
from keyvisor_policy.strict_yaml.wording import nearest, shown

MAX_POINTS: Final = 10_000
HINT_RULES: Final = 100
"""Of more rules nobody looks for the nearest name: the firmware reads guests' policies, and must not be kept busy."""

PATH: Final[Path] = ("requests", "rules")


def compiled_requests(document: Document, requests: RequestsFields | None) -> ControlPoints:
    """The control points: the file's own in their order, then those of its profiles."""
    if requests is None:
        return NO_CONTROL_POINTS
    own = [
        _point(entry, None, document.source, document.place((*PATH, number)))
        for number, entry in enumerate(requests.rules)
    ]
    profiles = [point for name in dict.fromkeys(requests.profiles) for point in profile_points(name)]
    return ControlPoints([*own, *profiles])


@cache
def profile_points(name: str) -> tuple[ControlPoint, ...]:
    """The control points of a profile that ships with the package. Raises LookupError for any other name."""
    document, profile = _profile(name)
    wrong = ordered(_about_points(document, _list(document, "rules"), ("rules",), ()))
    assert not wrong, wrong  # noqa: S101 - tests read every profile
    return tuple(
        _point(entry, name, document.source, document.place(("rules", number)))
        for number, entry in enumerate(profile.rules)
    )


def profile_about(name: str) -> str:
    """What a profile is for, in a line. Raises LookupError for what is no profile."""
    return _profile(name)[1].about


@cache
def _profile(name: str) -> tuple[Document, ProfileFields]:
    if name not in PROFILES:
        raise LookupError(name)
    document = read_document(profile_text(name), f"profile {name}")
    return document, validate(document, ProfileFields)


def entries(document: Document) -> list[object]:
    """What stands in `requests.rules`, whatever it is."""
    return as_list(as_mapping(as_mapping(document.tree).get("requests")).get("rules"))


def between_values(document: Document) -> Iterator[Finding]:
    """What is wrong with conditions, and between values that may each be right."""
    tree = as_mapping(document.tree)
    requests = as_mapping(tree.get("requests"))
    names = [str(as_mapping(rule).get("name")) for rule in as_list(tree.get("associations"))]
    yield from _about_points(document, entries(document), PATH, names)
    seen: set[str] = set()
    for number, name in enumerate(as_list(requests.get("profiles"))):
        if isinstance(name, str) and name in seen:
            yield document.finding(
                ("requests", "profiles", number), f"profiles: {shown(name)} is there already; name it once"
            )
        elif isinstance(name, str):
            seen.add(name)


def _point(entry: PointFields, profile: str | None, source: str, place: Place) -> ControlPoint:
    effect: Literal["deny", "allow"] = "allow" if entry.deny is None else "deny"
    asked = entry.allow if entry.deny is None else entry.deny
    assert asked is not None  # noqa: S101 - `_about_points` has found that
    return ControlPoint(
        entry.name,
        effect,
        asked.call or frozenset(),
        asked.mechanism or frozenset(),
        _conditions(asked.template),
        _conditions(asked.key),
        entry.on,
        profile,
        f"{source}:{place[0]}",
        *place,
    )


def _conditions(given: Mapping[str, object]) -> tuple[Condition, ...]:
    return tuple(request_fields.condition(attribute, wanted) for attribute, wanted in given.items())


def _about_points(
    document: Document, entries: list[object], path: Path, rules: list[str] | tuple[str, ...]
) -> Iterator[Finding]:
    lines: dict[str, int] = {}
    known = set(rules)
    for number, entry in enumerate(map(as_mapping, entries)):
        at: Path = (*path, number)
        name = entry.get("name")
        if isinstance(name, str) and name in lines:
            message = (
                f"name: {shown(name)} is the name of another control point already, in line {lines[name]}"
            )
            yield document.finding((*at, "name"), message)
        elif isinstance(name, str):
            lines[name] = document.place((*at, "name"))[0]
        yield from _about_effect(document, at, entry)
        on = entry.get("on")
        if isinstance(on, str) and on not in known:
            meant = nearest(on, rules) if len(rules) <= HINT_RULES else None
            hint = f"; did you mean {shown(meant)}?" if meant else ""
            message = f"on: {shown(on)} is not the name of an association of this policy{hint}"
            yield document.finding((*at, "on"), message)


def _about_effect(document: Document, at: Path, entry: Mapping[str, object]) -> Iterator[Finding]:
    effects = [effect for effect in ("deny", "allow") if effect in entry]
    if len(effects) != 1:
        found = "found both" if effects else "found neither"
        yield document.finding(at, f"expected `deny` or `allow`, {found}")
    for effect in effects:
        asked = as_mapping(entry[effect])
        if entry[effect] == {}:
            what = "refuse" if effect == "deny" else "allow"
            message = f"{effect}: expected a `call`, a `mechanism`, a `template` or a `key`; this would {what} everything"
            yield document.finding((*at, effect), message)
        for where in ("template", "key"):
            wanted = as_mapping(asked.get(where))
            yield from about_attributes(document, (*at, effect, where), wanted, request_fields.condition)


def about_attributes(
    document: Document,
    path: Path,
    given: Mapping[str, object],
    read: Callable[[str, object], object],
) -> Iterator[Finding]:
    """What is wrong with the attributes at `path` and with what is given for them, which `read` takes or raises ValueError."""
    for attribute, value in given.items():
        place = document.key_place((*path, attribute))
        try:
            request_fields.attribute(attribute)
            place = document.place((*path, attribute))
            read(attribute, value)
        except ValueError as error:
            about = f"{attribute}: {error}" if attribute not in str(error) else str(error)
            yield Finding(document.source, *place, about)


def _list(document: Document, key: str) -> list[object]:
    return as_list(as_mapping(document.tree).get(key))
