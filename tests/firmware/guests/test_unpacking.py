"""Runs of unpacked pages: those that go on are one, what cannot be is refused, and each says of what was unpacked when."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.guests.unpacking import adding, placements
from keyvisor_firmware.storage.guest_record import MAX_RUNS, UnpackedRun
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_guest.wire.messages import MAX_IMAGE

STORAGE = Span(16 * PAGE, 128 * MIB)
KERNEL, RAMDISK = b"\x00\x00" + b"kernel", b"\x00\x02" + b"ramdsk"
FIRST = UnpackedRun(STORAGE.start, 4 * PAGE, KERNEL, 0)
NEXT = UnpackedRun(STORAGE.start + 4 * PAGE, 2 * PAGE, KERNEL, 4 * PAGE)
APART = UnpackedRun(STORAGE.start + 8 * PAGE, 2 * PAGE, RAMDISK, 0)


def refusal(runs: tuple[UnpackedRun, ...], run: UnpackedRun) -> str:
    with pytest.raises(ImageRefused) as refused:
        adding(runs, run, STORAGE)
    assert refused.value.code is ImageCode.COMPONENTS_WRONG
    return str(refused.value)


def test_a_run_that_goes_on_is_part_of_the_last_one() -> None:
    assert adding((FIRST,), NEXT, STORAGE) == (replace(FIRST, length=6 * PAGE),)


@pytest.mark.parametrize(
    "run",
    [
        replace(NEXT, tweak=RAMDISK),
        replace(NEXT, offset=0),
        replace(NEXT, offset=5 * PAGE),
        replace(NEXT, address=NEXT.address + PAGE),
    ],
    ids=["another tweak", "its own offset", "an offset ahead", "a gap"],
)
def test_a_run_that_does_not_go_on_is_another(run: UnpackedRun) -> None:
    assert adding((FIRST,), run, STORAGE) == (FIRST, run)


def test_only_the_last_run_goes_on() -> None:
    """The order of unpacking is measured, so nothing is moved in it."""
    assert adding((FIRST, APART), NEXT, STORAGE) == (FIRST, APART, NEXT)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (replace(FIRST, length=0), "at least one"),
        (replace(FIRST, length=PAGE + 1), "whole pages"),
        (replace(FIRST, address=FIRST.address + 8), "whole pages"),
        (replace(FIRST, offset=8), "whole pages"),
        (replace(FIRST, address=STORAGE.start - PAGE), "the guest's storage is 0x10000 to"),
        (replace(FIRST, address=STORAGE.end - PAGE), "the guest's storage is 0x10000 to"),
        (replace(FIRST, address=STORAGE.end), "the guest's storage is 0x10000 to"),
        (replace(FIRST, address=(1 << 64) - PAGE), "the guest's storage is 0x10000 to"),
        (replace(FIRST, offset=(1 << 64) - PAGE), "64 bits"),
        (replace(FIRST, length=MAX_IMAGE + PAGE), "bytes of pages"),
    ],
)
def test_what_no_image_has_is_refused(run: UnpackedRun, said: str) -> None:
    assert said in refusal((), run)


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("pages", [1, 2, 6])
def test_no_page_is_unpacked_twice(first: int, pages: int) -> None:
    """Whatever its tweak, and whether or not the runs begin or end together."""
    run = UnpackedRun(STORAGE.start + first * PAGE, pages * PAGE, RAMDISK, 0)
    if first >= 4:
        assert adding((FIRST,), run, STORAGE) == (FIRST, run)
    else:
        assert "unpacked already" in refusal((APART, FIRST), run)


def test_there_are_as_many_runs_as_a_record_has_room_for() -> None:
    runs: tuple[UnpackedRun, ...] = ()
    for number in range(MAX_RUNS):
        run = UnpackedRun(STORAGE.start + 2 * number * PAGE, PAGE, KERNEL, 0)
        runs = adding(runs, run, STORAGE)
    assert len(runs) == MAX_RUNS
    over = UnpackedRun(STORAGE.end - PAGE, PAGE, KERNEL, 0)
    assert f"at most {MAX_RUNS} runs" in refusal(runs, over)
    on = UnpackedRun(runs[-1].address + PAGE, PAGE, KERNEL, PAGE)
    assert len(adding(runs, on, STORAGE)) == MAX_RUNS, "what goes on needs no room"


def test_an_image_has_as_many_pages_as_the_longest_file() -> None:
    most = replace(FIRST, length=MAX_IMAGE - PAGE)
    last = UnpackedRun(most.address + most.length, PAGE, KERNEL, most.length)
    assert adding(adding((), most, STORAGE), last, STORAGE) == (replace(FIRST, length=MAX_IMAGE),)
    assert f"at most {MAX_IMAGE} bytes" in refusal((most,), replace(last, length=2 * PAGE))


def test_a_run_in_the_middle_of_a_component_is_none_that_was_measured() -> None:
    """Its tweaks do not begin at 0, as those of every component do."""
    assert [(one.address, one.size, one.tweak_prefix) for one in placements((FIRST, APART))] == [
        (FIRST.address, FIRST.length, KERNEL),
        (APART.address, APART.length, RAMDISK),
    ]
    assert placements(()) == ()
    with pytest.raises(ImageRefused) as refused:
        placements((FIRST, replace(APART, offset=PAGE)))
    assert refused.value.code is ImageCode.NOT_AS_MEASURED


@st.composite
def calls(draw: st.DrawFn) -> list[UnpackedRun]:
    """Any unpacks of small parts, many of which go on where the one before ended."""
    found: list[UnpackedRun] = []
    for _ in range(draw(st.integers(0, 12))):
        length = draw(st.integers(1, 3)) * PAGE
        if found and draw(st.booleans()):
            last = found[-1]
            found.append(
                UnpackedRun(last.address + last.length, length, last.tweak, last.offset + last.length)
            )
        else:
            address = STORAGE.start + draw(st.integers(-2, 40)) * PAGE
            offset = draw(st.integers(0, 3)) * PAGE
            found.append(UnpackedRun(address, length, draw(st.sampled_from([KERNEL, RAMDISK])), offset))
    return found


def by_page(runs: tuple[UnpackedRun, ...]) -> list[tuple[int, bytes, int]]:
    """Address, tweak and offset of every page, in the order of unpacking."""
    return [
        (run.address + at, run.tweak, run.offset + at) for run in runs for at in range(0, run.length, PAGE)
    ]


@given(calls())
def test_runs_say_of_every_page_what_was_unpacked_and_in_which_order(calls: list[UnpackedRun]) -> None:
    runs: tuple[UnpackedRun, ...] = ()
    pages: list[tuple[int, bytes, int]] = []
    for call in calls:
        new = by_page((call,))
        inside = all(STORAGE.start <= address < STORAGE.end for address, _, _ in new)
        taken = {address for address, _, _ in pages} & {address for address, _, _ in new}
        if inside and not taken:
            runs = adding(runs, call, STORAGE)
            pages += new
        else:
            refusal(runs, call)
        assert by_page(runs) == pages
    for one, other in itertools.pairwise(runs):
        assert by_page((one,))[-1] != (other.address - PAGE, other.tweak, other.offset - PAGE), "one run"
