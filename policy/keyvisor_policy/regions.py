"""What a rule or a `never` matches, as regions over all HSMs there can be, and what is left of one behind others.

Every field is compared with finitely many constants, so the domain falls into finitely many cells: equalities,
intervals, members of sets. A Box is what one conjunction of fields allows; to take one away from another leaves
disjoint boxes. The domain is every online HSM that `Hsm` can be, and of ep11 those with a valid master key, as no
rule matches others. Firmware and API have no highest value here, so that what is proved holds for any.

Knows the fields; knows neither secrets nor files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, Literal

from keyvisor_policy.hsms import MKVP_LENGTH, NEWEST_GENERATION, OLDEST_GENERATION, Hsm
from keyvisor_policy.never import Description, Is
from keyvisor_policy.rules import Interval, Pattern, T
from keyvisor_policy.value_sets import K, Names, Ranges

ANY_APQN = "00.0000"
"""No rule looks at an APQN, so that a concrete HSM has the first."""


@dataclass(frozen=True, slots=True)
class Box:
    """All HSMs whose every field is one of these; of the compliance names all `present` and none `absent`.

    An accelerator's `mkvp` may be None, which is none; an ep11 HSM's is never.
    """

    mode: Literal["ep11", "accel"]
    mkvp: Names[bytes | None]
    serial: Names[str]
    generation: Ranges[int]
    firmware: Ranges[tuple[int, int]]
    api: Ranges[int]
    present: frozenset[str]
    absent: frozenset[str]

    def __contains__(self, hsm: Hsm) -> bool:
        return (
            hsm.online
            and hsm.mode == self.mode
            and hsm.mkvp in self.mkvp
            and hsm.serial in self.serial
            and hsm.generation in self.generation
            and hsm.firmware in self.firmware
            and hsm.api in self.api
            and self.present <= hsm.compliance
            and not self.absent & hsm.compliance
        )

    def witness(self) -> Hsm:
        """One of these HSMs: the newest generation, of all else the lowest. The same one each time."""
        return Hsm(
            apqn=ANY_APQN,
            mode=self.mode,
            generation=max(value for value in _GENERATIONS if value in self.generation),
            serial=_one_of(self.serial, "{:016d}".format),
            mkvp=None if None in self.mkvp else _one_of(self.mkvp, _mkvp),
            firmware=self.firmware.parts[0][0],
            api=self.api.parts[0][0],
            compliance=self.present,
        )


_GENERATIONS = range(OLDEST_GENERATION, NEWEST_GENERATION + 1)
_ANY_GENERATION: Ranges[int] = Ranges(((OLDEST_GENERATION, NEWEST_GENERATION + 1),))
_ANY_FIRMWARE: Ranges[tuple[int, int]] = Ranges((((0, 0), None),))
_ANY_API: Ranges[int] = Ranges(((0, None),))
_ANY_SERIAL: Names[str] = Names()
_ANY_MKVP: dict[Literal["ep11", "accel"], Names[bytes | None]] = {
    "ep11": Names(frozenset({None})),
    "accel": Names(),
}


def of_pattern(pattern: Pattern) -> Box | None:
    """The HSMs that can be used and match; None where there can be none."""
    mkvp = None if pattern.mkvp is None else Is(pattern.mkvp)
    serial = None if pattern.serial is None else Is(pattern.serial)
    return _box(
        pattern.mode,
        mkvp,
        serial,
        _ANY_GENERATION if pattern.generation is None else _whole(pattern.generation, _ANY_GENERATION),
        _ANY_FIRMWARE if pattern.firmware is None else _versions(pattern.firmware),
        _ANY_API if pattern.api is None else _whole(pattern.api, _ANY_API),
        pattern.compliance,
        frozenset(),
    )


def of_description(hsm: Description) -> tuple[Box, ...]:
    """The HSMs of a description that a rule could match at all, disjoint by mode."""
    modes: tuple[Literal["ep11", "accel"], ...] = ("ep11", "accel") if hsm.mode is None else (hsm.mode,)
    boxes = (
        _box(
            mode,
            hsm.mkvp,
            hsm.serial,
            _wanted(hsm.generation, _ANY_GENERATION, _whole(_value(hsm.generation), _ANY_GENERATION)),
            _wanted(hsm.firmware, _ANY_FIRMWARE, _versions(_value(hsm.firmware))),
            _wanted(hsm.api, _ANY_API, _whole(_value(hsm.api), _ANY_API)),
            hsm.present,
            hsm.absent,
        )
        for mode in modes
    )
    return tuple(box for box in boxes if box is not None)


def intersect(one: Box, other: Box) -> Box | None:
    """What is in both; None where nothing is."""
    if one.mode != other.mode or not (mkvp := one.mkvp & other.mkvp):
        return None
    met = Box(
        one.mode,
        mkvp,
        one.serial & other.serial,
        one.generation & other.generation,
        one.firmware & other.firmware,
        one.api & other.api,
        one.present | other.present,
        one.absent | other.absent,
    )
    return None if _is_empty(met) else met


def minus(one: Box, other: Box) -> tuple[Box, ...]:
    """What is in `one` and not in `other`, as disjoint boxes."""
    common = intersect(one, other)
    return (one,) if common is None else tuple(_pieces(one, other))


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a region: one box of it, None where nothing is; and how many boxes were looked at."""

    box: Box | None
    cells: int


def left_of(box: Box, others: Iterable[Box]) -> Left:
    """What is left of `box` behind all `others` together. Decides for each cell of the constants that they name.

    The cells of one MKVP and one serial number come first, so that rules which differ in these never meet. Within
    one, the time grows with the cells of intervals and compliance names; a box that is more general goes first.
    """
    near = [other for other in others if intersect(box, other) is not None]
    cells = 0
    for by_mkvp, mkvp_group in _split(box, near, _MKVP):
        for cell, group in _split(by_mkvp, mkvp_group, _SERIAL):
            left = _left_of_cell(cell, sorted(group, key=_narrowness))
            cells += left.cells
            if left.box is not None:
                return Left(left.box, cells)
    return Left(None, cells)


def _left_of_cell(cell: Box, others: Sequence[Box]) -> Left:
    cells = 0
    stack = [(cell, 0)]
    while stack:
        part, at = stack.pop()
        cells += 1
        while at < len(others) and intersect(part, others[at]) is None:
            at += 1
        if at == len(others):
            return Left(part, cells)
        stack += [(piece, at + 1) for piece in _pieces(part, others[at])]
    return Left(None, cells)


@dataclass(frozen=True, slots=True)
class _Axis(Generic[K]):
    """A field that is compared for equality only."""

    of: Callable[[Box], Names[K]]
    put: Callable[[Box, Names[K]], Box]


_MKVP: _Axis[bytes | None] = _Axis(lambda box: box.mkvp, lambda box, it: dataclasses.replace(box, mkvp=it))
_SERIAL: _Axis[str] = _Axis(lambda box: box.serial, lambda box, it: dataclasses.replace(box, serial=it))


def _split(box: Box, others: Sequence[Box], axis: _Axis[K]) -> Iterator[tuple[Box, list[Box]]]:
    """`box` by the constants that `others` name on the axis, then the rest; each with the others that reach it."""
    finite: dict[K, list[Box]] = {}
    cofinite = []
    for other in others:
        names = axis.of(other)
        if names.rest:
            cofinite.append(other)
        for value in () if names.rest else names.named:
            finite.setdefault(value, []).append(other)
    own = axis.of(box)
    for value, group in finite.items():
        if value in own:
            reach = [other for other in cofinite if value in axis.of(other)]
            yield axis.put(box, Names(frozenset({value}), rest=False)), group + reach
    rest = own & Names(frozenset(finite))
    if rest:
        yield axis.put(box, rest), cofinite


def _pieces(one: Box, other: Box) -> Iterator[Box]:
    """`one` without `other`, which must meet it: field by field, what differs in this one and not in those before."""
    mkvp, serial = one.mkvp & ~other.mkvp, one.serial & ~other.serial
    if mkvp:
        yield dataclasses.replace(one, mkvp=mkvp)
        one = dataclasses.replace(one, mkvp=one.mkvp & other.mkvp)
    if serial:
        yield dataclasses.replace(one, serial=serial)
        one = dataclasses.replace(one, serial=one.serial & other.serial)
    generation, firmware, api = (
        one.generation - other.generation,
        one.firmware - other.firmware,
        one.api - other.api,
    )
    if generation:
        yield dataclasses.replace(one, generation=generation)
        one = dataclasses.replace(one, generation=one.generation & other.generation)
    if firmware:
        yield dataclasses.replace(one, firmware=firmware)
        one = dataclasses.replace(one, firmware=one.firmware & other.firmware)
    if api:
        yield dataclasses.replace(one, api=api)
        one = dataclasses.replace(one, api=one.api & other.api)
    yield from _compliance_pieces(one, other)


def _compliance_pieces(one: Box, other: Box) -> Iterator[Box]:
    for name in sorted(other.present - one.present):
        yield dataclasses.replace(one, absent=one.absent | {name})
        one = dataclasses.replace(one, present=one.present | {name})
    for name in sorted(other.absent - one.absent):
        yield dataclasses.replace(one, present=one.present | {name})
        one = dataclasses.replace(one, absent=one.absent | {name})


def _is_empty(box: Box) -> bool:
    return bool(box.present & box.absent) or not (
        box.mkvp and box.serial and box.generation and box.firmware and box.api
    )


def _box(
    mode: Literal["ep11", "accel"],
    mkvp: Is[bytes] | None,
    serial: Is[str] | None,
    generation: Ranges[int],
    firmware: Ranges[tuple[int, int]],
    api: Ranges[int],
    present: frozenset[str],
    absent: frozenset[str],
) -> Box | None:
    keys: Names[bytes | None] = Names() if mkvp is None else Names(frozenset({mkvp.value}), rest=mkvp.but)
    serials = _ANY_SERIAL if serial is None else Names(frozenset({serial.value}), rest=serial.but)
    made = Box(mode, keys & _ANY_MKVP[mode], serials, generation, firmware, api, present, absent)
    return None if _is_empty(made) else made


def _value(wanted: Is[Interval[T]] | None) -> Interval[T]:
    return Interval() if wanted is None else wanted.value


def _wanted(wanted: Is[Interval[T]] | None, every: Ranges[T], these: Ranges[T]) -> Ranges[T]:
    if wanted is None:
        return every
    return every - these if wanted.but else these


def _whole(interval: Interval[int], every: Ranges[int]) -> Ranges[int]:
    low, high = interval.lowest, interval.highest
    return every & Ranges(((0 if low is None else low, None if high is None else high + 1),))


def _versions(interval: Interval[tuple[int, int]]) -> Ranges[tuple[int, int]]:
    low, high = interval.lowest, interval.highest
    return Ranges(((low or (0, 0), None if high is None else (high[0], high[1] + 1)),))


def _narrowness(box: Box) -> int:
    """How many fields say something."""
    return (
        (box.generation != _ANY_GENERATION)
        + (box.firmware != _ANY_FIRMWARE)
        + (box.api != _ANY_API)
        + len(box.present)
        + len(box.absent)
    )


def _one_of(names: Names[K], spell: Callable[[int], K]) -> K:
    """A named one that sorts first, or the first spelling that is none of those left out."""
    if not names.rest:
        return min(names.named, key=repr)
    return next(value for number in count(1) if (value := spell(number)) not in names.named)


def _mkvp(number: int) -> bytes | None:
    return number.to_bytes(MKVP_LENGTH, "big")
