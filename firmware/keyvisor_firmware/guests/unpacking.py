"""What was unpacked into a guest that boots, as runs of pages: `unpack` adds to them, `verify` measures them. Pure.

A run that goes on where the last one ended, in address, tweak and offset, is part of it, so that a component is one run
in however many calls the host handed it over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.storage.guest_record import MAX_RUNS, UnpackedRun
from keyvisor_firmware.storage.pages import Span, is_whole
from keyvisor_guest.wire.messages import MAX_IMAGE
from keyvisor_guest.wire.se_pages import Placement

_MAX_OFFSET: Final = 1 << 64


def adding(runs: Sequence[UnpackedRun], run: UnpackedRun, storage: Span) -> tuple[UnpackedRun, ...]:
    """The runs with one more. `storage` is the guest's own, guest-absolute. Raises ImageRefused (0109)."""
    _require_possible(runs, run, storage)
    if runs and _continues(runs[-1], run):
        return (*runs[:-1], replace(runs[-1], length=runs[-1].length + run.length))
    if len(runs) == MAX_RUNS:
        raise _refused(f"an image has at most {MAX_RUNS} runs of pages")
    return (*runs, run)


def placements(runs: Sequence[UnpackedRun]) -> tuple[Placement, ...]:
    """The runs as components. Raises ImageRefused (010a) for one whose tweaks do not begin at offset 0: no owner measured it."""
    if any(run.offset for run in runs):
        raise ImageRefused(ImageCode.NOT_AS_MEASURED, "the pages' tweaks do not begin at their components'")
    return tuple(Placement(run.address, run.length, run.tweak) for run in runs)


def _require_possible(runs: Sequence[UnpackedRun], run: UnpackedRun, storage: Span) -> None:
    end = run.address + run.length
    if not run.length or not is_whole(run.address, run.length, run.offset):
        raise _refused("whole pages are unpacked, at least one")
    if run.address < storage.start or end > storage.end:
        raise _refused(f"the guest's storage is {storage.start:#x} to {storage.end:#x}")
    if run.offset + run.length > _MAX_OFFSET:
        raise _refused("the tweaks' offsets have 64 bits")
    if any(run.address < one.address + one.length and one.address < end for one in runs):
        raise _refused(f"pages from {run.address:#x} on were unpacked already")
    if sum(one.length for one in runs) + run.length > MAX_IMAGE:
        raise _refused(f"an image has at most {MAX_IMAGE} bytes of pages")


def _continues(last: UnpackedRun, run: UnpackedRun) -> bool:
    there = last.address + last.length, last.offset + last.length, last.tweak
    return there == (run.address, run.offset, run.tweak)


def _refused(reason: str) -> ImageRefused:
    return ImageRefused(ImageCode.COMPONENTS_WRONG, reason)
