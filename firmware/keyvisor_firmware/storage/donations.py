"""What is checked of storage that the host offers, and what becomes secure by it (patents, 1.4; formats, D.2 to D.4).

The checks of each call are a table: they are made in that order, and the first that finds something wrong refuses.
They look at the whole of an offer before anything is registered, so that a refused one has no effect at all. Lengths are
exactly those of the query. Knows neither what will lie in the storage nor in which state a guest is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from keyvisor_firmware.errors import StorageRefused
from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import LOWCORE, MIB, PAGE, Span, is_whole
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_table import FIRMWARE_DOMAIN, ZoneEntry

__all__ = [
    "BASE_ALIGNMENT",
    "CPU_CHECKS",
    "GUEST_CHECKS",
    "HOST_SIDE_CHECKS",
    "INIT_CHECKS",
    "CpuOffer",
    "GuestOffer",
    "Wanted",
    "check_cpu",
    "check_guest",
    "check_host_side",
    "check_init",
    "require_room_for_guest",
]

BASE_ALIGNMENT: Final = 16 << 10
_ZONE_LOWEST: Final = 2 << 30

Pieces = tuple[Interval[ZoneEntry], ...]


@dataclass(frozen=True, slots=True)
class GuestOffer:
    """What the host offers for a guest, all in bytes (wire: CreateGuest)."""

    base: int
    base_length: int
    virtual: int
    virtual_length: int
    storage_origin: int
    storage_length: int
    asce: int
    sca: int


@dataclass(frozen=True, slots=True)
class CpuOffer:
    """What the host offers for a CPU, in bytes (wire: CreateCpu)."""

    number: int
    storage: int
    storage_length: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a guest has to get: bytes of its base and of its variable area; and the end of the highest guest's storage."""

    base: int
    virtual: int
    max_address: int


@dataclass(frozen=True, slots=True)
class _Init:
    offered: Span
    wanted: int
    storage: HostStorage


@dataclass(frozen=True, slots=True)
class _Guest:
    offer: GuestOffer
    wanted: Wanted
    storage: HostStorage
    scattered: tuple[Span, ...] | None  # the variable area's pages; None where it is not fully mapped

    @property
    def base(self) -> Span:
        return Span(self.offer.base, self.offer.base_length)


@dataclass(frozen=True, slots=True)
class _HostSide:
    asce: int
    sca: int
    asces: Collection[int]
    storage: HostStorage


@dataclass(frozen=True, slots=True)
class _Cpu:
    offer: CpuOffer
    numbers: Collection[int]
    max_id: int
    wanted: int
    storage: HostStorage

    @property
    def offered(self) -> Span:
        return Span(self.offer.storage, self.offer.storage_length)


Case = TypeVar("Case")
Checks = Sequence[
    tuple[StorageCode, Callable[[Case], str]]
]  # each tells what is wrong; nothing where nothing is


def check_init(origin: int, length: int, wanted: int, storage: HostStorage) -> Pieces:
    """What becomes secure by a donation of the zone's base storage, of which `wanted` bytes are needed (D.2).

    Raises StorageRefused. That the zone is not initialised yet is not looked at.
    """
    case = _Init(Span(origin, length), wanted, storage)
    _require(INIT_CHECKS, case)
    return (_absolute(case.offered, FIRMWARE_DOMAIN),)


def require_room_for_guest(guests: int, max_guests: int) -> None:
    """Raise StorageRefused where there are `max_guests` already."""
    if guests >= max_guests:
        raise StorageRefused(StorageCode.TOO_MANY_GUESTS, f"{guests} of {max_guests}")


def check_guest(offer: GuestOffer, wanted: Wanted, handle: int, storage: HostStorage) -> Pieces:
    """What becomes secure by the donations for a guest that gets `handle` (D.3): all that is offered, or nothing.

    Raises StorageRefused. What the host keeps on its own side, ASCE in use and SCA, is check_host_side's.
    """
    scattered = storage.spaces.translate(offer.asce, offer.virtual, offer.virtual_length)
    case = _Guest(offer, wanted, storage, scattered)
    _require(GUEST_CHECKS, case)
    pieces = [_absolute(case.base, handle)]
    virtual = offer.virtual
    for span in scattered or ():
        pieces.append(Interval(span.start, span.end, ZoneEntry(handle, True, virtual)))
        virtual += span.length
    return tuple(pieces)


def check_host_side(asce: int, sca: int, asces: Collection[int], storage: HostStorage) -> None:
    """Raise StorageRefused where another guest has the ASCE (they are in `asces`), or the SCA cannot be used (D.3).

    To be asked when the guest's donations are registered: an SCA in them is secure then.
    """
    _require(HOST_SIDE_CHECKS, _HostSide(asce, sca, asces, storage))


def check_cpu(
    offer: CpuOffer, handle: int, numbers: Collection[int], max_id: int, wanted: int, storage: HostStorage
) -> Pieces:
    """What becomes secure by a donation for a CPU of the guest `handle`, which has CPUs with `numbers` (D.4).

    `max_id` is the highest number of a CPU, `wanted` the bytes that it needs. Raises StorageRefused.
    """
    case = _Cpu(offer, numbers, max_id, wanted, storage)
    _require(CPU_CHECKS, case)
    return (_absolute(case.offered, handle),)


def _require(checks: Checks[Case], case: Case) -> None:
    for code, check in checks:
        if wrong := check(case):
            raise StorageRefused(code, wrong)


def _absolute(span: Span, domain: int) -> Interval[ZoneEntry]:
    return Interval(span.start, span.end, ZoneEntry(domain, True))


def _differs(length: int, wanted: int) -> str:
    return "" if length == wanted else f"{length} bytes instead of {wanted}"


def _misaligned(address: int, alignment: int) -> str:
    return "" if address % alignment == 0 else f"{address:#x} is not a multiple of {alignment:#x}"


def _above(address: int, highest: int) -> str:
    return "" if address <= highest else f"{address:#x} is above {highest:#x}"


def _in_lowcore(address: int) -> str:
    return "" if address >= LOWCORE else f"{address:#x} is below {LOWCORE:#x}"


# That the storage ends outside of the machine's comes before its alignment: an origin 8 bytes below the end is 0105.
INIT_CHECKS: Final[Checks[_Init]] = (
    (StorageCode.ZONE_LENGTH, lambda case: _differs(case.offered.length, case.wanted)),
    (StorageCode.ZONE_ORIGIN, lambda case: _above(case.offered.start, case.storage.size - 1)),
    (StorageCode.ZONE_END, lambda case: _above(case.offered.end, case.storage.size)),
    (StorageCode.ZONE_ORIGIN, lambda case: _misaligned(case.offered.start, MIB)),
    (
        StorageCode.ZONE_TOO_LOW,
        lambda case: "" if case.offered.start >= _ZONE_LOWEST else f"{case.offered.start:#x}",
    ),
    (StorageCode.SECURE_ALREADY, lambda case: case.storage.secure_in((case.offered,))),
)


def _storage_length_wrong(case: _Guest) -> str:
    length = case.offer.storage_length
    if length <= 0 or not is_whole(length, case.offer.storage_origin):
        return f"{length} bytes from {case.offer.storage_origin:#x} are not whole pages"
    return _above(case.offer.storage_origin + length, case.wanted.max_address)


def _asce_wrong(case: _Guest) -> str:
    return _misaligned(case.offer.asce, PAGE) or _above(case.offer.asce, case.storage.size - PAGE)


def _variable_shape_wrong(case: _Guest) -> str:
    offer = case.offer
    if wrong := _differs(offer.virtual_length, case.wanted.virtual) or _misaligned(offer.virtual, PAGE):
        return wrong
    end = offer.virtual + offer.virtual_length
    if offer.virtual < offer.storage_origin + offer.storage_length and offer.storage_origin < end:
        return f"{offer.virtual:#x} to {end:#x} is in the guest's storage"
    return ""


def _variable_not_mapped(case: _Guest) -> str:
    return (
        ""
        if case.scattered is not None
        else f"the variable area from {case.offer.virtual:#x} is not all mapped"
    )


def _base_wrong(case: _Guest) -> str:
    return (
        _differs(case.base.length, case.wanted.base)
        or _misaligned(case.base.start, BASE_ALIGNMENT)
        or _above(case.base.end, case.storage.size)
        or case.storage.secure_in((case.base,))
    )


def _lowcore_covered(case: _Guest) -> str:
    starts = [case.base.start, *(span.start for span in case.scattered or ())]
    return _in_lowcore(min(starts))


def _variable_pages_wrong(case: _Guest) -> str:
    spans = case.scattered or ()
    return (
        case.storage.outside_in(spans)
        or case.storage.secure_in(spans)
        or case.storage.twice_in((case.base, *spans))
    )


GUEST_CHECKS: Final[Checks[_Guest]] = (
    (StorageCode.STORAGE_ORIGIN, lambda case: _above(case.offer.storage_origin, case.wanted.max_address)),
    (StorageCode.STORAGE_END, _storage_length_wrong),
    (StorageCode.ASCE_INVALID, _asce_wrong),
    (StorageCode.VIRTUAL_UNUSABLE, _variable_shape_wrong),
    (StorageCode.ASCE_INVALID, _variable_not_mapped),
    (StorageCode.BASE_UNUSABLE, _base_wrong),
    (StorageCode.COVERS_LOWCORE, _lowcore_covered),
    (StorageCode.VIRTUAL_UNUSABLE, _variable_pages_wrong),
)


def _sca_wrong(case: _HostSide) -> str:
    page = Span(case.sca, PAGE)
    return _misaligned(case.sca, PAGE) or case.storage.outside_in((page,)) or case.storage.secure_in((page,))


HOST_SIDE_CHECKS: Final[Checks[_HostSide]] = (
    (StorageCode.ASCE_IN_USE, lambda case: f"{case.asce:#x}" if case.asce in case.asces else ""),
    (StorageCode.SCA_ZERO, lambda case: "" if case.sca else "its address is 0"),
    (StorageCode.SCA_UNUSABLE, _sca_wrong),
)


def _cpu_storage_wrong(case: _Cpu) -> str:
    return (
        _differs(case.offered.length, case.wanted)
        or _misaligned(case.offered.start, PAGE)
        or _above(case.offered.end, case.storage.size)
        or case.storage.secure_in((case.offered,))
    )


CPU_CHECKS: Final[Checks[_Cpu]] = (
    (
        StorageCode.CPU_NUMBER,
        lambda case: (
            "" if case.offer.number <= case.max_id else f"{case.offer.number} is above {case.max_id}"
        ),
    ),
    (StorageCode.CPU_THERE, lambda case: f"{case.offer.number}" if case.offer.number in case.numbers else ""),
    (StorageCode.CPU_STORAGE, _cpu_storage_wrong),
    (StorageCode.CPU_LOWCORE, lambda case: _in_lowcore(case.offered.start)),
)
