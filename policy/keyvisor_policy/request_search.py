"""Whether control points allow a request that others refuse: decided over all templates and keys there can be.

One call, one mechanism, two lists of points. The conditions cut each attribute's values into cells (`attribute_cells`), and
every point has one outcome in each combination of cells. The search gives attributes cells one after the other, and stops
where both decisions are settled whatever the rest is.

Values are of their attribute's kind: one that is not, such as a truth value of two bytes, is refused by any point that looks at
it, and by HSMs. Pure; knows neither HSMs nor files. It takes `ControlPoints.decide`'s order of precedence for granted, which
tests hold it to.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from keyvisor_policy.attribute_cells import ABSENT, cells
from keyvisor_policy.control_points import SIZES, Condition, ControlPoint, Template, with_sizes
from keyvisor_policy.errors import Undecidable
from keyvisor_policy.pkcs11.calls import WITH_KEY, WITH_TEMPLATE
from keyvisor_policy.pkcs11.implied import CLASS, CLASSES_MADE, KEY_TYPE, KEY_TYPES_MADE
from keyvisor_policy.questions import Question

MOST_CELLS: Final = 500_000

Where: TypeAlias = Literal["template", "key"]
_SIDES: Final[tuple[Where, ...]] = ("template", "key")


@dataclass(frozen=True, slots=True)
class Found:
    """A request that one list allows and the other refuses, None where there is none; and how many cells were looked at."""

    request: Question | None
    cells: int


def meaning(point: ControlPoint) -> object:
    """What a point does, apart from what it is called, where it stands, and which calls it is about."""
    return (
        point.effect,
        point.profile is None,
        tuple((one.attribute, one.one_of, one.negated) for one in point.template),
        tuple((one.attribute, one.one_of, one.negated) for one in point.key),
    )


def allowed_and_refused(
    call: str,
    mechanism: int | None,
    allowing: Sequence[ControlPoint],
    refusing: Sequence[ControlPoint],
    by: ControlPoint | None = None,
) -> Found:
    """A request that all points of `allowing` together allow, and all of `refusing` refuse.

    The points are those that concern the call with the mechanism, in their order. `by` is one of `refusing` that has to be
    the one that decides. A template is looked at as it is judged: with the class, and the key type, that the call
    implies. Raises Undecidable.
    """
    allows, refuses = [meaning(one) for one in allowing], [meaning(one) for one in refusing]
    if allows == refuses:
        return Found(None, 1)
    # Where a deny of both matches, nothing is allowed.
    denied = {what for one, what in zip(allowing, allows, strict=True) if _own_deny(one)}
    left = [
        one
        for one, what in zip(refusing, refuses, strict=True)
        if one is by or not _own_deny(one) or what not in denied
    ]
    if not left:
        return Found(None, 1)
    differing = [one for one in left if meaning(one) not in allows] + [
        one for one, what in zip(allowing, allows, strict=True) if what not in refuses
    ]
    return _Search(call, mechanism, allowing, left, differing, by).run()


def kind_of_call(call: str, mechanism: int | None) -> object:
    """What of a call matters to the search: the same for two that differ in nothing else but their points."""
    classes = CLASSES_MADE.get(call)
    implied = None if classes is None or mechanism is None else KEY_TYPES_MADE.get(mechanism)
    return call in WITH_TEMPLATE, call in WITH_KEY, classes, implied


def _own_deny(point: ControlPoint) -> bool:
    return point.effect == "deny" and point.profile is None


class _State(enum.Enum):
    """What becomes of a point, or of a decision, under the cells that are given so far."""

    YES = enum.auto()
    NO = enum.auto()
    OPEN = enum.auto()


_NOT: Final = {_State.YES: _State.NO, _State.NO: _State.YES, _State.OPEN: _State.OPEN}


@dataclass(frozen=True, slots=True)
class _Variable:
    """An attribute, with what tells its size, of the template or of the key."""

    where: Where
    cells: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One condition: the number of its variable, and whether each cell meets it."""

    variable: int
    met: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class _Point:
    effect: Literal["deny", "allow"]
    own: bool
    parts: tuple[_Part, ...]

    def state(self, given: Sequence[int]) -> _State:
        """Whether all its conditions are met; -1 is a cell that is not given yet."""
        is_open = False
        for part in self.parts:
            cell = given[part.variable]
            if cell < 0:
                is_open = True
            elif not part.met[cell]:
                return _State.NO
        return _State.OPEN if is_open else _State.YES


class _Search:
    def __init__(
        self,
        call: str,
        mechanism: int | None,
        allowing: Sequence[ControlPoint],
        refusing: Sequence[ControlPoint],
        differing: Sequence[ControlPoint],
        by: ControlPoint | None,
    ) -> None:
        self._call = call
        self._mechanism = mechanism
        # What settles most comes first.
        conditions = _grouped([*([] if by is None else [by]), *differing, *refusing, *allowing])
        self._variables = [
            _Variable(where, self._possible(where, attribute, cells(attribute, these)))
            for (where, attribute), these in conditions.items()
        ]
        self._numbers = {key: number for number, key in enumerate(conditions)}
        self._grouping = {where: _attributes(conditions, where) for where in _SIDES}
        self._allowing = [self._compiled(one) for one in allowing]
        self._refusing = [self._compiled(one) for one in refusing]
        self._by = None if by is None else self._compiled(by)
        self._before = [] if by is None else [self._compiled(one) for one in _deciding_before(by, refusing)]
        self._cells = 0

    def run(self) -> Found:
        given = [-1] * len(self._variables)
        found = self._look(given, 0)
        return Found(self._question(given) if found else None, self._cells)

    def _look(self, given: list[int], depth: int) -> bool:
        """Whether there is one with what is given; `given` is then it."""
        self._cells += 1
        if self._cells > MOST_CELLS:
            raise Undecidable(
                f"more than {MOST_CELLS:,} cells of {len(self._variables)} attributes that"
                f" {len(self._refusing) + len(self._allowing)} control points look at for {self._call}"
            )
        wanted = (
            verdict(self._allowing, given),
            _NOT[verdict(self._refusing, given)],
            *(() if self._by is None else (self._by.state(given),)),
            *(_NOT[one.state(given)] for one in self._before),
        )
        if _State.NO in wanted:
            return False
        if all(one is _State.YES for one in wanted):
            return True
        for cell in range(len(self._variables[depth].cells)):
            given[depth] = cell
            if self._look(given, depth + 1):
                return True
        given[depth] = -1
        return False

    def _question(self, given: Sequence[int]) -> Question:
        asked: dict[Where, dict[int, bool | int | bytes]] = {"template": {}, "key": {}}
        for variable, cell in zip(self._variables, given, strict=True):
            # What was not settled may be anything.
            asked[variable.where].update(variable.cells[max(cell, 0)])
        return Question(self._call, self._mechanism, asked["template"], asked["key"])

    def _compiled(self, point: ControlPoint) -> _Point:
        parts = [self._part(where, one) for where, conditions in _sides(point) for one in conditions]
        return _Point(point.effect, point.profile is None, tuple(parts))

    def _part(self, where: Where, condition: Condition) -> _Part:
        number = self._numbers[where, self._grouping[where][condition.attribute]]
        met = tuple(condition.met(with_sizes(cell)) for cell in self._variables[number].cells)
        return _Part(number, met)

    def _possible(self, where: Where, attribute: int, found: tuple[Template, ...]) -> tuple[Template, ...]:
        """Of the cells those that such a call can have."""
        if self._call not in (WITH_TEMPLATE if where == "template" else WITH_KEY):
            return (ABSENT,)
        classes = CLASSES_MADE.get(self._call)
        if where == "key" or classes is None:
            return found
        if attribute == CLASS:
            implied = [{CLASS: made} for made in classes]
            others = [one for one in found if one not in (ABSENT, *implied)] if len(classes) == 1 else []
            return (*implied, *others)
        made = None if self._mechanism is None else KEY_TYPES_MADE.get(self._mechanism)
        if attribute == KEY_TYPE and made is not None:
            return ({KEY_TYPE: made}, *(one for one in found if one not in (ABSENT, {KEY_TYPE: made})))
        return found


def verdict(points: Iterable[_Point], given: Sequence[int]) -> _State:
    """YES: allowed, NO: refused, OPEN: what is not given yet decides. By the order of precedence of `ControlPoints.decide`."""
    own_deny = allow = profile_deny = _State.NO
    for point in points:
        state = point.state(given)
        if state is _State.NO:
            continue
        if point.effect == "allow":
            allow = _either(allow, state)
        elif point.own:
            own_deny = _either(own_deny, state)
        else:
            profile_deny = _either(profile_deny, state)
    if own_deny is _State.YES or (profile_deny is _State.YES and allow is _State.NO):
        return _State.NO
    if own_deny is _State.NO and (allow is _State.YES or profile_deny is _State.NO):
        return _State.YES
    return _State.OPEN


def _either(one: _State, other: _State) -> _State:
    return one if one is _State.YES else other


def _deciding_before(by: ControlPoint, points: Sequence[ControlPoint]) -> list[ControlPoint]:
    """The points that decide where they match, whether or not `by` does: the file's own before a profile's."""
    before = points[: next(number for number, one in enumerate(points) if one is by)]
    denies = [one for one in points if _own_deny(one)] if by.profile is not None else []
    return denies + [
        one for one in before if one.effect == "deny" and (one.profile is None) == (by.profile is None)
    ]


def _sides(point: ControlPoint) -> Iterator[tuple[Where, tuple[Condition, ...]]]:
    """In the order that `ControlPoint.matches` looks at them."""
    yield "template", point.template
    yield "key", point.key


def _grouped(points: Iterable[ControlPoint]) -> dict[tuple[Where, int], list[Condition]]:
    """Conditions by what they are about; a number that tells a size goes with the size, where both are looked at."""
    listed: list[tuple[Where, Condition]] = [
        (where, one) for point in points for where, conditions in _sides(point) for one in conditions
    ]
    looked_at = {(where, one.attribute) for where, one in listed}
    grouped: dict[tuple[Where, int], list[Condition]] = {}
    for where, one in listed:
        size = _SIZE_OF.get(one.attribute, one.attribute)
        key: tuple[Where, int] = (where, size if (where, size) in looked_at else one.attribute)
        grouped.setdefault(key, []).append(one)
    return grouped


_SIZE_OF: Final[Mapping[int, int]] = {teller: size for size, teller in SIZES.items()}


def _attributes(grouped: Mapping[tuple[Where, int], Iterable[Condition]], where: Where) -> dict[int, int]:
    """Attribute -> the attribute under which it is grouped."""
    return {one.attribute: key for (side, key), these in grouped.items() if side == where for one in these}
