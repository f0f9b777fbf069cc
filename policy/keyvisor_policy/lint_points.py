"""What is surely wrong with a policy's own control points: no request meets one, it never decides, or nothing needs it.

Looks at no HSM and at no case; what holds between two points `point_cover` says. Nothing is said of an `on`: the gate is
told of rules that bind accelerators too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from keyvisor_policy.control_points import Condition, ControlPoint, Is
from keyvisor_policy.pkcs11.calls import WITH_KEY, WITH_MECHANISM, WITH_TEMPLATE, named
from keyvisor_policy.point_cover import apart, calls_met, covers
from keyvisor_policy.policy import Policy
from keyvisor_policy.strict_yaml.wording import shown

Said = tuple[ControlPoint, str, str]
"""A control point, a code of `lint.CODES` and the message."""


def about_points(policy: Policy) -> Iterator[Said]:
    """At most one finding for each of the file's own control points."""
    denied = [point for point in policy.control_points.points if point.profile is not None]
    before = _Before(policy.own_points)
    for point in policy.own_points:
        if calls_met(point) == frozenset():
            yield point, "point-never-matches", f"{_named(point)} {_unmet(point)}"
        elif (first := before.first_deciding(point)) is not None:
            yield point, "point-never-decides", f"{_named(point)} can never decide: {_decided(first, point)}"
        elif point.effect == "allow" and all(apart(point, deny) for deny in denied if deny.effect == "deny"):
            yield (
                point,
                "allow-needless",
                f"{_named(point)} allows what no profile of the policy denies; remove it",
            )


class _Before:
    """The file's own points, by what they ask for, so that not each is held against each."""

    def __init__(self, points: Iterable[ControlPoint]) -> None:
        self._by: dict[object, list[tuple[int, ControlPoint]]] = {}
        self._numbers: dict[int, int] = {}
        for number, point in enumerate(points):
            self._numbers[id(point)] = number
            for asked in _asked_for(point):
                self._by.setdefault(asked, []).append((number, point))

    def first_deciding(self, point: ControlPoint) -> ControlPoint | None:
        """A point that decides whatever this one could: a deny before any allow, and else the first in the file."""
        own = self._numbers[id(point)]
        candidates = (one for given in _given(point) for one in self._by.get(given, ()))
        return next(
            (
                other
                for number, other in candidates
                if (number < own if other.effect == point.effect else other.effect == "deny")
                and covers(other, point)
            ),
            None,
        )


def _asked_for(point: ControlPoint) -> Iterable[object]:
    """One of these has to be given by whatever the point covers: its mechanisms, or the values of an attribute."""
    if point.mechanisms:
        return point.mechanisms
    values = (_values(where, one) for where, conditions in _conditions(point) for one in conditions)
    return next(filter(None, values), [ANYTHING])


def _given(point: ControlPoint) -> Iterator[object]:
    """Of what `_asked_for` may name for a point that covers this one, one for each part of it."""
    yield ANYTHING
    if point.mechanisms:
        yield min(point.mechanisms)
    for where, conditions in _conditions(point):
        for one in conditions:
            yield from _values(where, one)[:1]


ANYTHING: Final = "anything"


def _conditions(point: ControlPoint) -> tuple[tuple[str, tuple[Condition, ...]], ...]:
    return ("template", point.template), ("key", point.key)


def _values(where: str, condition: Condition) -> list[object]:
    """The values of which the condition wants one; nothing where it wants something else."""
    if condition.negated:
        return []
    values = [(where, condition.attribute, one.value) for one in condition.one_of if isinstance(one, Is)]
    return list(values) if len(values) == len(condition.one_of) else []


def _unmet(point: ControlPoint) -> str:
    """What no call that it names has, and the way out."""
    names = {named(call) for call in point.calls}
    parts = [(part, has) for part, looked_at, has in _PARTS if looked_at(point)]
    lacking = [part for part, has in parts if not names & has]
    instead = {"template": ("key", WITH_KEY), "key": ("template", WITH_TEMPLATE)}
    way_out = "leave it out, or name another call"
    if len(lacking) == 1 and lacking[0] in instead:
        other, has = instead[lacking[0]]
        if names & has:
            way_out = f"look at `{other}` instead, or name another call"
    what = " and ".join(f"`{part}`" for part in lacking or [part for part, _ in parts])
    together = "" if lacking else " together"
    return f"looks at {what}, which no call that it names has{together}; {way_out}"


_PARTS: Final[tuple[tuple[str, Callable[[ControlPoint], object], frozenset[str]], ...]] = (
    ("mechanism", lambda point: point.mechanisms, WITH_MECHANISM),
    ("template", lambda point: point.template, WITH_TEMPLATE),
    ("key", lambda point: point.key, WITH_KEY),
)


def _decided(first: ControlPoint, point: ControlPoint) -> str:
    order = "comes first" if first.effect == point.effect else "wins over an allow"
    return f"{shown(first.name)} in line {first.line} matches all that it matches, and {order}; narrow that, or remove this"


def _named(point: ControlPoint) -> str:
    return f"control point {shown(point.name)}"
