"""`expect.requests` of cases: what is wrong between their values, and the calls that they ask.

Looks at the tree for findings, so that they come in the same run as those about single values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from keyvisor_policy import question_fields
from keyvisor_policy.case_grammar import RequestFields
from keyvisor_policy.cases import Asked
from keyvisor_policy.errors import Finding
from keyvisor_policy.profiles import PROFILES
from keyvisor_policy.questions import Question, wrong_parts
from keyvisor_policy.request_loading import about_attributes, profile_points
from keyvisor_policy.strict_yaml import Document, read_text
from keyvisor_policy.strict_yaml.document import Path
from keyvisor_policy.strict_yaml.tree import as_list, as_mapping, as_text
from keyvisor_policy.strict_yaml.wording import nearest, shown

HINT_NAMES: Final = 200
"""Of more names nobody looks for the nearest: the firmware reads guests' policies, and must not be kept busy."""


def compiled_request(document: Document, path: Path, entry: RequestFields) -> Asked:
    """The call that the entry at `path` asks."""
    question = Question(
        entry.call,
        entry.mechanism,
        question_fields.template(entry.template),
        question_fields.template(entry.key),
        entry.on,
    )
    return Asked(question, entry.outcome == "allowed", entry.by, *document.place(path))


def between_values(document: Document) -> Iterator[Finding]:
    """What is wrong with the values of attributes, and between values that may each be right."""
    tree = as_mapping(document.tree)
    rules = [
        name for rule in as_list(tree.get("associations")) if (name := as_text(as_mapping(rule).get("name")))
    ]
    points = _Points(as_mapping(tree.get("requests")))
    for case, entry in enumerate(as_list(tree.get("cases"))):
        expect = as_mapping(as_mapping(entry).get("expect"))
        for number, request in enumerate(map(as_mapping, as_list(expect.get("requests")))):
            at: Path = ("cases", case, "expect", "requests", number)
            yield from _about_parts(document, at, request)
            for where in ("template", "key"):
                given = as_mapping(request.get(where))
                yield from about_attributes(document, (*at, where), given, question_fields.attribute_value)
            on, by = _read(read_text, request.get("on")), _read(read_text, request.get("by"))
            if on and on not in rules:
                hint = _hint(on, rules)
                message = f"on: {shown(on)} is not the name of an association of this policy{hint}"
                yield document.finding((*at, "on"), message)
            if by and by not in points.labels:
                yield document.finding((*at, "by"), f"by: {points.unknown(by)}")


class _Points:
    """The labels of a policy's control points, as far as its tree tells."""

    def __init__(self, requests: Mapping[str, object]) -> None:
        own = (as_text(as_mapping(point).get("name")) for point in as_list(requests.get("rules")))
        self._profiles = {
            name for name in map(as_text, as_list(requests.get("profiles"))) if name in PROFILES
        }
        of_profiles = (point.label for name in sorted(self._profiles) for point in profile_points(name))
        self.labels = {name for name in (*own, *of_profiles) if name}

    def unknown(self, label: str) -> str:
        """Why there is no such control point, and which was meant."""
        profile, _, name = label.partition("/")
        if name and profile in PROFILES and profile not in self._profiles:
            return f"profile {shown(profile)} is not in `requests.profiles`; add it there"
        behind = next((one for one in sorted(self.labels) if one.endswith(f"/{label}")), None)
        hint = f"; did you mean {shown(behind)}?" if behind else _hint(label, self.labels)
        return f"{shown(label)} is not a control point of this policy{hint}"


def _about_parts(document: Document, at: Path, request: Mapping[str, object]) -> Iterator[Finding]:
    """The call has what it needs, and nothing that no such call has."""
    call = _read(question_fields.call, request.get("call"))
    if call is None:
        return  # which has its finding already
    mechanism = 0 if "mechanism" in request else None
    template, key = ({0: 0} if as_mapping(request.get(where)) else {} for where in ("template", "key"))
    for part, message in wrong_parts(Question(call, mechanism, template, key)):
        yield Finding(document.source, *document.key_place((*at, part)), message)


def _hint(name: str, names: list[str] | set[str]) -> str:
    meant = nearest(name, sorted(names)) if len(names) <= HINT_NAMES else None
    return f"; did you mean {shown(meant)}?" if meant else ""


def _read(read: Callable[[object], str], value: object) -> str | None:
    try:
        return read(value)
    except ValueError:
        return None
