"""What one policy lets its HSMs be asked and another does not, over all requests and HSMs there can be (policy.md, 3 and 4).

An HSM is held through the first rule that permits it, and that rule's control points decide; what is bound without a rule is
decided by those that are for any. So two policies are compared rule by rule: for each pair of rules that are the first of
their policies for some HSM with the same secret, and for each call and mechanism, `request_search` looks for a request that
one allows and the other refuses. Accelerators, and HSMs that are bound only, serve some calls and no others.

A request is one call with one mechanism, the object that it makes, changes or lets out, and the key that it uses. Of a pair of
keys each half is looked at by itself. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from keyvisor_policy.control_points import ControlPoint, ControlPoints, Decision
from keyvisor_policy.hsms import Hsm, SecretId
from keyvisor_policy.pkcs11.calls import FORMS, ON_ACCELERATORS, ON_BOUND, WITH_MECHANISM
from keyvisor_policy.policy import Policy
from keyvisor_policy.questions import Question
from keyvisor_policy.region_index import Index
from keyvisor_policy.regions import Box, intersect, left_of, of_pattern
from keyvisor_policy.request_search import Found, allowed_and_refused, kind_of_call, meaning
from keyvisor_policy.rules import Pattern, Rule
from keyvisor_policy.usual_mechanisms import is_unusual, others

_ALL: Final = frozenset(FORMS)


@dataclass(frozen=True, slots=True)
class AllowedRequest:
    """A request that a policy allows on an HSM that is held through its `rule`, and another policy does not.

    There `other` is the rule, and `by` the control point that refuses. None: the HSM is bound without a rule.
    """

    rule: Rule | None
    hsm: Hsm
    request: Question
    other: Rule | None
    by: ControlPoint

    @property
    def secret_id(self) -> SecretId | None:
        """The secret's id; None where an accelerator is bound."""
        return None if self.rule is None or self.rule.secret is None else self.rule.secret.id


@dataclass(frozen=True, slots=True)
class RequestProof:
    """Proved where there is no `counterexample`; `cells` is how many were looked at."""

    cells: int
    counterexample: AllowedRequest | None = None

    @property
    def proved(self) -> bool:
        return self.counterexample is None


def implies_requests(new: Policy, old: Policy) -> RequestProof:
    """Whether `new` lets no HSM be asked what `old` refuses of it where both let it be held. Raises Undecidable."""
    return _Comparison(new, old).first()


def requests_newly_allowed(new: Policy, old: Policy) -> tuple[AllowedRequest, ...]:
    """One example for each control point of `old` that decides against something that `new` allows, in `old`'s order.

    Raises Undecidable.
    """
    comparison = _Comparison(new, old)
    if comparison.first().proved:
        return ()
    found = [comparison.first(point) for point in old.control_points.points if point.effect == "deny"]
    return tuple(one.counterexample for one in found if one.counterexample is not None)


@dataclass(frozen=True, slots=True)
class _Place:
    """A rule, its region, and how many stand before it. Behind all rules is none, for what is bound without."""

    number: int
    rule: Rule | None
    box: Box

    @property
    def secret(self) -> SecretId | None:
        return None if self.rule is None or self.rule.secret is None else self.rule.secret.id

    @property
    def serves(self) -> frozenset[str]:
        """The calls that get through to such an HSM."""
        if self.box.mode == "accel":
            return ON_ACCELERATORS
        return ON_BOUND if self.secret is None else _ALL


class _Comparison:
    """Two policies, and what was found about pairs of their rules so far. `new` is to allow, `old` to refuse."""

    def __init__(self, new: Policy, old: Policy) -> None:
        self._points = new.control_points, old.control_points
        self._named = tuple(
            frozenset(point.on for point in points.points if point.on is not None) for points in self._points
        )
        self._new, self._old = _places(new.rules), _places(old.rules)
        self._near = _by_secret(self._old)
        self._mechanisms = sorted(
            {number for points in self._points for point in points.points for number in point.mechanisms}
        )
        self._known: dict[_Asked, Found] = {}
        numbers: dict[object, int] = {}
        self._meanings = {
            id(point): numbers.setdefault(meaning(point), len(numbers))
            for points in self._points
            for point in points.points
        }

    def first(self, by: ControlPoint | None = None) -> RequestProof:
        """The first request that is allowed by the one and refused by the other; by that point, if one is given."""
        looked_at: dict[_Asked, int] = {}
        earlier: dict[SecretId | None, list[Box]] = {}
        for place in self._new:
            before = earlier.setdefault(place.secret, [])
            for box, other in (
                self._near[place.secret].meeting(place.box) if place.secret in self._near else ()
            ):
                asked = _Asked(self._as_named(0, place), self._as_named(1, other), place.serves, by)
                found = self._requests(asked)
                looked_at[asked] = found.cells
                if found.request is None:
                    continue
                hsm = self._held_through(place, box, other, before)
                if hsm is not None:
                    example = self._example(place.rule, other.rule, hsm, found.request)
                    return RequestProof(sum(looked_at.values()), example)
            before.append(place.box)
        return RequestProof(sum(looked_at.values()))

    def _as_named(self, side: int, place: _Place) -> str | None:
        """The rule's name where control points tell it from others."""
        name = None if place.rule is None else place.rule.name
        return name if name in self._named[side] else None

    def _requests(self, asked: _Asked) -> Found:
        known = self._known.get(asked)
        if known is None:
            known = self._known[asked] = self._search(asked)
        return known

    def _search(self, asked: _Asked) -> Found:
        new, old = self._points
        cells = 0
        nothing: set[object] = set()
        for call, mechanism in sorted(self._calls(asked.serves, asked.by), key=is_unusual):
            allow = new.concerning(call, mechanism, asked.allowing)
            refuse = old.concerning(call, mechanism, asked.refusing)
            if asked.by is not None and asked.by not in refuse:
                continue
            same = (self._meant(allow), self._meant(refuse), asked.by, kind_of_call(call, mechanism))
            if same in nothing:
                continue
            nothing.add(same)
            found = allowed_and_refused(call, mechanism, allow, refuse, asked.by)
            cells += found.cells
            if found.request is not None:
                return Found(found.request, cells)
        return Found(None, cells)

    def _meant(self, points: Sequence[ControlPoint]) -> tuple[int, ...]:
        return tuple([self._meanings[id(point)] for point in points])

    def _calls(self, served: frozenset[str], by: ControlPoint | None) -> Iterator[tuple[str, int | None]]:
        """Every call that is served; with every mechanism that a point names, and one that stands for all others.

        With `by` only those that it is about.
        """
        for call in FORMS:
            if call not in served:
                continue
            if by is not None and by.calls and call not in by.calls:
                continue
            if call not in WITH_MECHANISM:
                yield call, None
                continue
            if by is None or not by.mechanisms:
                yield call, self._another(call)
            named = self._mechanisms if by is None or not by.mechanisms else by.mechanisms
            yield from ((call, mechanism) for mechanism in named)

    def _another(self, call: str) -> int:
        """A mechanism that no point names."""
        return next(number for number in others(call) if number not in self._mechanisms)

    def _held_through(self, place: _Place, box: Box, other: _Place, before: Sequence[Box]) -> Hsm | None:
        """An HSM for which both rules are their policy's first."""
        common = intersect(place.box, box)
        if common is None:
            return None
        others = [
            there for there, one in self._near[other.secret].meeting(common) if one.number < other.number
        ]
        left = left_of(common, [*before, *others])
        return None if left.box is None else left.box.witness()

    def _example(self, rule: Rule | None, other: Rule | None, hsm: Hsm, request: Question) -> AllowedRequest:
        """The request, put to `decide`, which alone decides."""
        new, old = self._points
        asked = dataclasses.replace(request, on=None if rule is None else rule.name)
        allowed, refused = _decided(new, asked, rule), _decided(old, asked, other)
        assert allowed.allowed, asked  # noqa: S101 - else the search and `decide` disagree
        assert refused.point is not None, asked  # noqa: S101 - the same
        assert not refused.allowed, asked  # noqa: S101 - the same
        return AllowedRequest(rule, hsm, asked, other, refused.point)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One search: the rules' names where points tell them from others, the calls that get through, the point that decides."""

    allowing: str | None
    refusing: str | None
    serves: frozenset[str]
    by: ControlPoint | None


def _decided(points: ControlPoints, asked: Question, rule: Rule | None) -> Decision:
    on = None if rule is None else rule.name
    return points.decide(asked.call, asked.mechanism, asked.template, asked.key, on)


def _places(rules: Sequence[Rule]) -> tuple[_Place, ...]:
    held = [
        _Place(number, rule, box)
        for number, rule in enumerate(rules)
        if (box := of_pattern(rule.hsm)) is not None
    ]
    bound = [of_pattern(Pattern(mode)) for mode in ("ep11", "accel")]
    return (*held, *(_Place(len(rules), None, box) for box in bound if box is not None))


def _by_secret(places: Iterable[_Place]) -> dict[SecretId | None, Index[_Place]]:
    listed: dict[SecretId | None, list[tuple[Box, _Place]]] = {}
    for place in places:
        listed.setdefault(place.secret, []).append((place.box, place))
    return {secret: Index(its) for secret, its in listed.items()}
