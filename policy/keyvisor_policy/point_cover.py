"""Which requests a control point can be about at all, and whether one matches everything that another does.

Pure, and by plain containment: where it says yes it is so for every request whose values are of their attributes' kinds,
where it says no nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyvisor_policy.control_points import Between, Condition, ControlPoint, Is, Like, Match
from keyvisor_policy.pkcs11.calls import WITH_KEY, WITH_MECHANISM, WITH_TEMPLATE, named


def calls_met(*points: ControlPoint) -> frozenset[str] | None:
    """The calls that all of these points name and that have all that they look at; None where none names a call."""
    calls = [point.calls for point in points if point.calls]
    if not calls:
        return None
    needs = [has for point in points for has in _needs(point)]
    return frozenset(
        call for call in frozenset.intersection(*calls) if all(named(call) in has for has in needs)
    )


def _needs(point: ControlPoint) -> Iterator[frozenset[str]]:
    """The calls that have each part that the point looks at."""
    if point.mechanisms:
        yield WITH_MECHANISM
    if point.template:
        yield WITH_TEMPLATE
    if point.key:
        yield WITH_KEY


def covers(wide: ControlPoint, narrow: ControlPoint) -> bool:
    """Whether `wide` surely matches every request that `narrow` matches."""
    return (
        (wide.on is None or wide.on == narrow.on)
        and (not wide.mechanisms or (bool(narrow.mechanisms) and narrow.mechanisms <= wide.mechanisms))
        and _all_follow(wide.template, narrow.template)
        and _all_follow(wide.key, narrow.key)
        and (not wide.calls or ((calls := calls_met(narrow)) is not None and calls <= wide.calls))
    )


def apart(one: ControlPoint, other: ControlPoint) -> bool:
    """Whether surely no request is about both: they share no call, no mechanism or no association."""
    return (
        calls_met(one, other) == frozenset()
        or (bool(one.mechanisms) and bool(other.mechanisms) and not one.mechanisms & other.mechanisms)
        or (one.on is not None and other.on is not None and one.on != other.on)
    )


def _all_follow(wide: Sequence[Condition], narrow: Sequence[Condition]) -> bool:
    """Whether each condition of `wide` is met wherever all of `narrow` are."""
    return all(any(_follows(condition, known) for known in narrow) for condition in wide)


def _follows(condition: Condition, known: Condition) -> bool:
    """Whether a value that meets `known` meets `condition` too."""
    if condition.attribute != known.attribute:
        return False
    if condition.negated and known.negated:
        return all(any(_within(one, other) for other in known.one_of) for one in condition.one_of)
    if condition.negated:
        return not known.negated and all(
            _disjoint(one, other) for one in known.one_of for other in condition.one_of
        )
    if known.negated:
        return False
    return all(any(_within(one, other) for other in condition.one_of) for one in known.one_of)


def _within(one: Match, other: Match) -> bool:
    """Whether every value that fits `one` fits `other`."""
    match one, other:
        case Is(value), Is(wanted):
            return type(value) is type(wanted) and value == wanted
        case Is(bool()), Between():
            return False
        case Is(int() as value), Between():
            return other.holds(value)
        case Is(bytes() as value), Like():
            return other.holds(value)
        case Between(), Between():
            least = other.least is None or (one.least is not None and other.least <= one.least)
            return least and (other.most is None or (one.most is not None and one.most <= other.most))
        case Like(), Like():
            return other.pattern in (one.pattern, "*")
    return False


def _disjoint(one: Match, other: Match) -> bool:
    """Whether surely no value fits both."""
    match one, other:
        case Is(value), Is(wanted):
            return type(value) is not type(wanted) or value != wanted
        case (Is(int() as value), Between() as numbers) | (Between() as numbers, Is(int() as value)):
            return not isinstance(value, bool) and not numbers.holds(value)
        case (Is(bytes() as value), Like() as pattern) | (Like() as pattern, Is(bytes() as value)):
            return not pattern.holds(value)
        case Between(), Between():
            return _below(one, other) or _below(other, one)
    return False


def _below(one: Between, other: Between) -> bool:
    return one.most is not None and other.least is not None and one.most < other.least
