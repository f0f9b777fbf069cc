"""What a lying host may offer: each wrong thing has its code, and nothing becomes secure by a refused offer.

Every refusal stands beside its twin, the offer that differs in nothing else and is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import StorageRefused
from keyvisor_firmware.storage.address_spaces import AddressSpaces
from keyvisor_firmware.storage.donations import (
    CpuOffer,
    GuestOffer,
    Wanted,
    check_cpu,
    check_guest,
    check_host_side,
    check_init,
    require_room_for_guest,
)
from keyvisor_firmware.storage.frames import Frames
from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import LOWCORE, MIB, PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_table import FIRMWARE_DOMAIN, ZoneEntry, ZoneTable

SIZE = 4 << 30
GIB = 1 << 30
ZONE, ZONE_LENGTH = 3 * GIB, 5 * MIB
ASCE, SCA = 0x70000, 0x71000
WEB, DB = 0x1234, 0x5678
VIRTUAL = 1 << 40
WANTED = Wanted(base=8 * PAGE, virtual=6 * PAGE, max_address=1 << 43)
OFFER = GuestOffer(
    base=0x100000,
    base_length=8 * PAGE,
    virtual=VIRTUAL,
    virtual_length=6 * PAGE,
    storage_origin=0,
    storage_length=64 * MIB,
    asce=ASCE,
    sca=SCA,
)
SCATTERED = (Span(0x300000, PAGE), Span(0x200000, 3 * PAGE), Span(0x400000, 2 * PAGE))
CPU = CpuOffer(number=3, storage=0x500000, storage_length=PAGE)


def mapped(storage: HostStorage, virtual: int, frames: Span, asce: int = ASCE) -> None:
    storage.spaces.apply(asce, storage.spaces.mapping(asce, virtual, frames))


def secure(storage: HostStorage, span: Span, domain: int = DB) -> None:
    storage.zone.apply(storage.zone.setting([Interval(span.start, span.end, ZoneEntry(domain, True))]))


def a_storage() -> HostStorage:
    """The variable area of OFFER is mapped to SCATTERED; nothing is secure."""
    storage = HostStorage(SIZE, ZoneTable(), AddressSpaces(), Frames())
    virtual = VIRTUAL
    for span in SCATTERED:
        mapped(storage, virtual, span)
        virtual += span.length
    return storage


def refused(storage: HostStorage, ask: Callable[[], object]) -> StorageCode:
    """The code that `ask` is refused with; nothing has become secure, and nothing is mapped otherwise."""
    zone, spaces = list(storage.zone), list(storage.spaces.intervals(ASCE))
    with pytest.raises(StorageRefused) as error:
        ask()
    assert (list(storage.zone), list(storage.spaces.intervals(ASCE))) == (zone, spaces)
    assert error.value.handle is None
    return error.value.why


# The zone's base storage


def test_the_zones_base_becomes_the_firmwares_without_an_address() -> None:
    pieces = check_init(ZONE, ZONE_LENGTH, ZONE_LENGTH, a_storage())
    assert pieces == (Interval(ZONE, ZONE + ZONE_LENGTH, ZoneEntry(FIRMWARE_DOMAIN, True, None)),)
    assert check_init(2 * GIB, ZONE_LENGTH, ZONE_LENGTH, a_storage())
    assert check_init(SIZE - 5 * MIB, ZONE_LENGTH, ZONE_LENGTH, a_storage())


@pytest.mark.parametrize(
    ("origin", "length", "code"),
    [
        (ZONE, ZONE_LENGTH - 1, StorageCode.ZONE_LENGTH),
        (ZONE, ZONE_LENGTH + PAGE, StorageCode.ZONE_LENGTH),
        (ZONE, 0, StorageCode.ZONE_LENGTH),
        (ZONE, 1 << 52, StorageCode.ZONE_LENGTH),
        (SIZE, ZONE_LENGTH, StorageCode.ZONE_ORIGIN),
        (SIZE + 8, ZONE_LENGTH, StorageCode.ZONE_ORIGIN),
        (1 << 52, ZONE_LENGTH, StorageCode.ZONE_ORIGIN),
        (ZONE + PAGE, ZONE_LENGTH, StorageCode.ZONE_ORIGIN),
        (ZONE + 1, ZONE_LENGTH, StorageCode.ZONE_ORIGIN),
        (SIZE - 8, ZONE_LENGTH, StorageCode.ZONE_END),
        (SIZE - 4 * MIB, ZONE_LENGTH, StorageCode.ZONE_END),
        (2 * GIB - MIB, ZONE_LENGTH, StorageCode.ZONE_TOO_LOW),
        (0, ZONE_LENGTH, StorageCode.ZONE_TOO_LOW),
    ],
)
def test_part1_T5_a_zones_base_that_cannot_be(origin: int, length: int, code: StorageCode) -> None:
    storage = a_storage()
    assert refused(storage, lambda: check_init(origin, length, ZONE_LENGTH, storage)) is code


@pytest.mark.parametrize("at", [ZONE, ZONE + ZONE_LENGTH - PAGE, ZONE + 2 * MIB])
def test_part1_T5_a_zones_base_with_one_secure_page(at: int) -> None:
    storage = a_storage()
    secure(storage, Span(at, PAGE))
    code = refused(storage, lambda: check_init(ZONE, ZONE_LENGTH, ZONE_LENGTH, storage))
    assert code is StorageCode.SECURE_ALREADY


# A guest's base and variable area


def test_a_guests_areas_are_the_firmwares_for_that_guest_and_the_variable_has_its_addresses() -> None:
    pieces = check_guest(OFFER, WANTED, WEB, a_storage())
    assert pieces == (
        Interval(0x100000, 0x108000, ZoneEntry(WEB, True, None)),
        Interval(0x300000, 0x301000, ZoneEntry(WEB, True, VIRTUAL)),
        Interval(0x200000, 0x203000, ZoneEntry(WEB, True, VIRTUAL + PAGE)),
        Interval(0x400000, 0x402000, ZoneEntry(WEB, True, VIRTUAL + 4 * PAGE)),
    )


WRONG_OFFERS: list[tuple[str, dict[str, int], StorageCode]] = [
    ("origin above", {"storage_origin": (1 << 43) + PAGE}, StorageCode.STORAGE_ORIGIN),
    ("origin huge", {"storage_origin": 1 << 52}, StorageCode.STORAGE_ORIGIN),
    ("end above", {"storage_origin": 1 << 43}, StorageCode.STORAGE_END),
    ("length huge", {"storage_length": 1 << 52}, StorageCode.STORAGE_END),
    ("length one page too many", {"storage_length": (1 << 43) + PAGE}, StorageCode.STORAGE_END),
    ("no length", {"storage_length": 0}, StorageCode.STORAGE_END),
    ("length no pages", {"storage_length": 64 * MIB + 1}, StorageCode.STORAGE_END),
    ("origin no page", {"storage_origin": 8}, StorageCode.STORAGE_END),
    ("asce misaligned", {"asce": ASCE + 8}, StorageCode.ASCE_INVALID),
    ("asce outside", {"asce": SIZE}, StorageCode.ASCE_INVALID),
    ("asce of nothing", {"asce": ASCE + PAGE}, StorageCode.ASCE_INVALID),
    ("variable beside what is mapped", {"virtual": VIRTUAL + PAGE}, StorageCode.ASCE_INVALID),
    ("variable before what is mapped", {"virtual": VIRTUAL - PAGE}, StorageCode.ASCE_INVALID),
    ("variable nowhere", {"virtual": 1 << 52}, StorageCode.ASCE_INVALID),
    ("variable short", {"virtual_length": 5 * PAGE}, StorageCode.VIRTUAL_UNUSABLE),
    ("variable long", {"virtual_length": 7 * PAGE}, StorageCode.VIRTUAL_UNUSABLE),
    ("variable huge", {"virtual_length": 1 << 52}, StorageCode.VIRTUAL_UNUSABLE),
    ("no variable", {"virtual_length": 0}, StorageCode.VIRTUAL_UNUSABLE),
    ("variable misaligned", {"virtual": VIRTUAL + 8}, StorageCode.VIRTUAL_UNUSABLE),
    ("storage over the variable", {"storage_length": VIRTUAL + PAGE}, StorageCode.VIRTUAL_UNUSABLE),
    ("storage in the variable", {"storage_origin": VIRTUAL + 5 * PAGE}, StorageCode.VIRTUAL_UNUSABLE),
    ("base short", {"base_length": 7 * PAGE}, StorageCode.BASE_UNUSABLE),
    ("base long", {"base_length": 9 * PAGE}, StorageCode.BASE_UNUSABLE),
    ("base huge", {"base_length": 1 << 52}, StorageCode.BASE_UNUSABLE),
    ("base misaligned", {"base": 0x101000}, StorageCode.BASE_UNUSABLE),
    ("base outside", {"base": SIZE}, StorageCode.BASE_UNUSABLE),
    ("base ends outside", {"base": SIZE - (16 << 10)}, StorageCode.BASE_UNUSABLE),
    ("base far outside", {"base": 1 << 52}, StorageCode.BASE_UNUSABLE),
    ("base covers lowcore", {"base": 0}, StorageCode.COVERS_LOWCORE),
    ("base has a page of the variable area", {"base": 0x400000}, StorageCode.VIRTUAL_UNUSABLE),
]


@pytest.mark.parametrize(
    ("change", "code"), [row[1:] for row in WRONG_OFFERS], ids=[row[0] for row in WRONG_OFFERS]
)
def test_part1_T5_an_offer_for_a_guest_that_cannot_be(change: dict[str, int], code: StorageCode) -> None:
    storage = a_storage()
    offer = dataclasses.replace(OFFER, **change)
    assert refused(storage, lambda: check_guest(offer, WANTED, WEB, storage)) is code
    assert check_guest(OFFER, WANTED, WEB, storage)


@pytest.mark.parametrize("asce", [ASCE + 8, SIZE, SIZE + PAGE, 1 << 52])
def test_part1_T5_an_address_space_that_no_page_of_storage_names_even_if_all_is_mapped_there(
    asce: int,
) -> None:
    storage = a_storage()
    mapped(storage, VIRTUAL, Span(0x200000, 6 * PAGE), asce)
    offer = dataclasses.replace(OFFER, asce=asce)
    assert refused(storage, lambda: check_guest(offer, WANTED, WEB, storage)) is StorageCode.ASCE_INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"storage_length": VIRTUAL},
        {"storage_origin": VIRTUAL + 6 * PAGE},
        {"storage_length": PAGE},
        {"base": SIZE - (32 << 10)},
        {"base": 16 << 10},
    ],
)
def test_an_offer_just_inside_of_its_limits_is_taken(change: dict[str, int]) -> None:
    assert check_guest(dataclasses.replace(OFFER, **change), WANTED, WEB, a_storage())


def test_the_highest_address_itself_is_the_end_of_storage_that_can_be() -> None:
    offer = dataclasses.replace(OFFER, storage_origin=(1 << 43) - PAGE, storage_length=PAGE)
    assert check_guest(offer, WANTED, WEB, a_storage())


def test_part1_T5_a_base_with_one_secure_page() -> None:
    for page in range(8):
        storage = a_storage()
        secure(storage, Span(OFFER.base + page * PAGE, PAGE))
        code = refused(storage, lambda s=storage: check_guest(OFFER, WANTED, WEB, s))
        assert code is StorageCode.BASE_UNUSABLE


@pytest.mark.parametrize("page", range(6))
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (
            lambda s, at: secure(s, Span(s.spaces.translate(ASCE, at, PAGE)[0].start, PAGE)),
            "VIRTUAL_UNUSABLE",
        ),
        (lambda s, at: s.spaces.apply(ASCE, s.spaces.unmapping(ASCE, Span(at, PAGE))), "ASCE_INVALID"),
        (lambda s, at: mapped(s, at, Span(SIZE, PAGE)), "VIRTUAL_UNUSABLE"),
        (lambda s, at: mapped(s, at, Span(LOWCORE - PAGE, PAGE)), "COVERS_LOWCORE"),
        (lambda s, at: mapped(s, at, Span(OFFER.base + PAGE, PAGE)), "VIRTUAL_UNUSABLE"),
        (
            lambda s, at: mapped(
                s, at, s.spaces.translate(ASCE, VIRTUAL if at > VIRTUAL else at + PAGE, PAGE)[0]
            ),
            "VIRTUAL_UNUSABLE",
        ),
    ],
    ids=["secure", "unmapped", "outside", "lowcore", "in the base", "twice"],
)
def test_part1_T6_one_bad_page_of_a_scattered_area_refuses_all_of_it(
    spoil: Callable[[HostStorage, int], None], code: str, page: int
) -> None:
    storage = a_storage()
    spoil(storage, VIRTUAL + page * PAGE)
    assert refused(storage, lambda: check_guest(OFFER, WANTED, WEB, storage)) is StorageCode[code]


def test_part1_T5_what_is_donated_once_is_not_taken_again() -> None:
    storage = a_storage()
    pieces = check_guest(OFFER, WANTED, WEB, storage)
    storage.zone.apply(storage.zone.setting(pieces))
    assert refused(storage, lambda: check_guest(OFFER, WANTED, DB, storage)) is StorageCode.BASE_UNUSABLE
    elsewhere = dataclasses.replace(OFFER, base=0x600000)
    assert (
        refused(storage, lambda: check_guest(elsewhere, WANTED, DB, storage)) is StorageCode.VIRTUAL_UNUSABLE
    )
    for piece in pieces:
        taken = dataclasses.replace(CPU, storage=piece.start)
        code = refused(storage, lambda offer=taken: check_cpu(offer, DB, (), 247, PAGE, storage))
        assert code is StorageCode.CPU_STORAGE


def test_part1_T11_what_was_given_back_is_taken_again() -> None:
    storage = a_storage()
    pieces = check_guest(OFFER, WANTED, WEB, storage)
    change = storage.zone.setting(pieces)
    storage.zone.apply(change)
    storage.zone.apply(change.inverse())
    assert check_guest(OFFER, WANTED, DB, storage)


@given(st.data())
def test_whatever_is_offered_is_refused_or_makes_exactly_what_is_wanted_secure(data: st.DataObject) -> None:
    numbers = st.integers(0, 1 << 52) | st.sampled_from(
        [0, PAGE, 0x100000, VIRTUAL, SIZE, SIZE - PAGE, 64 * MIB]
    )
    fields = [field.name for field in dataclasses.fields(OFFER)]
    changed = data.draw(st.dictionaries(st.sampled_from(fields), numbers, max_size=3))
    storage = a_storage()
    secure(storage, data.draw(st.builds(Span, st.integers(0, 0x500).map(lambda n: n * PAGE), st.just(PAGE))))
    before = storage.zone.secure_length
    try:
        pieces = check_guest(dataclasses.replace(OFFER, **changed), WANTED, WEB, storage)
    except StorageRefused:
        assert storage.zone.secure_length == before
        return
    assert all(LOWCORE <= piece.start < piece.end <= SIZE for piece in pieces)
    storage.zone.apply(storage.zone.setting(pieces))
    assert storage.zone.secure_length == before + WANTED.base + WANTED.virtual


def test_part1_T14_no_more_guests_than_can_be() -> None:
    require_room_for_guest(7, 8)
    for guests in (8, 9):
        with pytest.raises(StorageRefused, match=f"{guests} of 8") as error:
            require_room_for_guest(guests, 8)
        assert error.value.why is StorageCode.TOO_MANY_GUESTS


# What the host keeps for a guest on its own side


@pytest.mark.parametrize(
    ("asce", "sca", "code"),
    [
        (0x72000, SCA, StorageCode.ASCE_IN_USE),
        (ASCE, 0, StorageCode.SCA_ZERO),
        (ASCE, SCA + 8, StorageCode.SCA_UNUSABLE),
        (ASCE, PAGE, StorageCode.SCA_UNUSABLE),
        (ASCE, SIZE, StorageCode.SCA_UNUSABLE),
        (ASCE, 1 << 52, StorageCode.SCA_UNUSABLE),
        (ASCE, OFFER.base, StorageCode.SCA_UNUSABLE),
    ],
)
def test_an_address_space_or_sca_that_cannot_be(asce: int, sca: int, code: StorageCode) -> None:
    storage = a_storage()
    storage.zone.apply(storage.zone.setting(check_guest(OFFER, WANTED, WEB, storage)))
    asces = {0x72000, 0x73000}
    assert refused(storage, lambda: check_host_side(asce, sca, asces, storage)) is code
    check_host_side(ASCE, SCA, asces, storage)


# A CPU's storage


def test_a_cpus_storage_is_the_firmwares_for_its_guest_without_an_address() -> None:
    pieces = check_cpu(CPU, WEB, {0, 1}, 247, PAGE, a_storage())
    assert pieces == (Interval(0x500000, 0x501000, ZoneEntry(WEB, True, None)),)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"number": 248}, StorageCode.CPU_NUMBER),
        ({"number": 0xFFFF}, StorageCode.CPU_NUMBER),
        ({"number": 1}, StorageCode.CPU_THERE),
        ({"storage_length": PAGE - 1}, StorageCode.CPU_STORAGE),
        ({"storage_length": 2 * PAGE}, StorageCode.CPU_STORAGE),
        ({"storage_length": 0}, StorageCode.CPU_STORAGE),
        ({"storage": 0x500008}, StorageCode.CPU_STORAGE),
        ({"storage": SIZE}, StorageCode.CPU_STORAGE),
        ({"storage": 1 << 52}, StorageCode.CPU_STORAGE),
        ({"storage": 0x600000}, StorageCode.CPU_STORAGE),
        ({"storage": 0}, StorageCode.CPU_LOWCORE),
        ({"storage": PAGE}, StorageCode.CPU_LOWCORE),
    ],
)
def test_part1_T5_an_offer_for_a_cpu_that_cannot_be(change: dict[str, int], code: StorageCode) -> None:
    storage = a_storage()
    secure(storage, Span(0x600000, PAGE))
    offer = dataclasses.replace(CPU, **change)
    assert refused(storage, lambda: check_cpu(offer, WEB, {0, 1}, 247, PAGE, storage)) is code


@pytest.mark.parametrize(
    "change", [{"number": 247}, {"storage": SIZE - PAGE}, {"storage": LOWCORE}, {"number": 2}]
)
def test_a_cpu_just_inside_of_its_limits_is_taken(change: dict[str, int]) -> None:
    assert check_cpu(dataclasses.replace(CPU, **change), WEB, {0, 1}, 247, PAGE, a_storage())
