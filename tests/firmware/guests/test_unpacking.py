"""What the host unpacks is kept as runs: nothing twice, nothing outside of the guest's storage, and each page's tweak."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.guests.unpacking import adding, placements
from keyvisor_firmware.storage.guest_record import MAX_RUNS, UnpackedRun
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_guest.wire.messages import MAX_IMAGE
from keyvisor_guest.wire.se_pages import Placement

KERNEL, RAMDISK = bytes(8), b"\x00\x02" + b"\x77" * 6
STORAGE = Span(4 * PAGE, 64 * PAGE)
WIDE = Span(0, 2 * MAX_IMAGE)


def a_run(page: int, pages: int = 1, tweak: bytes = KERNEL, offset: int = 0) -> UnpackedRun:
    return UnpackedRun(page * PAGE, pages * PAGE, tweak, offset * PAGE)


def unpacked(*runs: UnpackedRun, storage: Span = STORAGE) -> tuple[UnpackedRun, ...]:
    kept: tuple[UnpackedRun, ...] = ()
    for run in runs:
        kept = adding(kept, run, storage)
    return kept


def test_a_component_in_several_calls_is_one_run() -> None:
    assert unpacked(a_run(8, 2), a_run(10, 1, offset=2), a_run(11, 3, offset=3)) == (a_run(8, 6),)


@pytest.mark.parametrize(
    "second", [a_run(10, tweak=RAMDISK, offset=2), a_run(11, offset=2), a_run(10), a_run(10, offset=3)]
)
def test_pages_that_do_not_go_on_in_every_way_are_a_run_of_their_own(second: UnpackedRun) -> None:
    assert unpacked(a_run(8, 2), second) == (a_run(8, 2), second)


def test_the_order_of_unpacking_is_kept() -> None:
    runs = (a_run(20, tweak=RAMDISK), a_run(8))
    assert placements(unpacked(*runs)) == (
        Placement(20 * PAGE, PAGE, RAMDISK),
        Placement(8 * PAGE, PAGE, KERNEL),
    )


@pytest.mark.parametrize(
    "run",
    [
        a_run(8, 0),
        UnpackedRun(8 * PAGE + 1, PAGE, KERNEL, 0),
        UnpackedRun(8 * PAGE, PAGE - 1, KERNEL, 0),
        UnpackedRun(8 * PAGE, PAGE, KERNEL, 16),
        a_run(3),
        a_run(3, 2),
        a_run(67, 2),
        a_run(68),
        UnpackedRun(8 * PAGE, 2 * PAGE, KERNEL, (1 << 64) - PAGE),
        a_run(30),
        a_run(29, 2),
        a_run(31, 2),
        a_run(29, 4),
        a_run(31, offset=1),
    ],
)
def test_pages_that_cannot_be_unpacked_are_refused(run: UnpackedRun) -> None:
    kept = unpacked(a_run(30, 2))
    with pytest.raises(ImageRefused) as refused:
        adding(kept, run, STORAGE)
    assert refused.value.code == ImageCode.COMPONENTS_WRONG
    assert "\n" not in str(refused.value)


def test_the_storage_can_be_unpacked_to_its_last_page() -> None:
    assert unpacked(a_run(4, 64)) == (a_run(4, 64),)


def test_an_image_has_no_more_runs_than_the_record_has_room_for() -> None:
    runs = [a_run(2 * number) for number in range(MAX_RUNS)]
    kept = unpacked(*runs, storage=WIDE)
    with pytest.raises(ImageRefused, match=f"at most {MAX_RUNS} runs"):
        adding(kept, a_run(2 * MAX_RUNS), WIDE)
    # What goes on with the last run needs no room.
    assert len(adding(kept, a_run(2 * MAX_RUNS - 1, offset=1), WIDE)) == MAX_RUNS


def test_an_image_has_no_more_bytes_than_a_file_may_have() -> None:
    most = MAX_IMAGE // PAGE
    kept = unpacked(a_run(0, most), storage=WIDE)
    with pytest.raises(ImageRefused, match=f"at most {MAX_IMAGE} bytes"):
        adding(kept, a_run(most, offset=most), WIDE)


def test_tweaks_that_begin_in_the_middle_are_as_nobody_measured_them() -> None:
    with pytest.raises(ImageRefused) as refused:
        placements(unpacked(a_run(8), a_run(20, tweak=RAMDISK, offset=1)))
    assert refused.value.code == ImageCode.NOT_AS_MEASURED


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            a_run,
            st.integers(0, 70),
            st.integers(0, 4),
            st.sampled_from([KERNEL, RAMDISK]),
            st.integers(0, 3),
        ),
        max_size=20,
    )
)
def test_the_runs_hold_each_page_once_with_the_tweak_it_came_with(offered: list[UnpackedRun]) -> None:
    """Against a plain map of page to tweak, in the order in which the pages came."""
    kept: tuple[UnpackedRun, ...] = ()
    pages: dict[int, tuple[bytes, int]] = {}
    for run in offered:
        new = {run.address + at: (run.tweak, run.offset + at) for at in range(0, run.length, PAGE)}
        inside = all(STORAGE.start <= address < STORAGE.end for address in new)
        if new and inside and not new.keys() & pages.keys():
            kept = adding(kept, run, STORAGE)
            pages |= new
        else:
            with pytest.raises(ImageRefused):
                adding(kept, run, STORAGE)
    told = [
        (run.address + at, (run.tweak, run.offset + at)) for run in kept for at in range(0, run.length, PAGE)
    ]
    assert told == list(pages.items())
