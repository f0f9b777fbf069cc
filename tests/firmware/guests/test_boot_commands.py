"""Set parameters, unpack, verify and start, as a host that lies or errs calls them: what is refused changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keyvisor_firmware.errors import AccessRefused, ImageRefused, Refused, StorageRefused
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.storage.guest_record import UnpackedRun
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.pages import LOWCORE, PAGE, Span
from keyvisor_firmware.storage.return_codes import AccessCode, StorageCode
from keyvisor_guest.hosting.image_loading import load
from keyvisor_guest.wire.se_header import MAX_HEADER
from keyvisor_guest.wire.se_image import identity_of

from ...images import an_image
from ..machine import MEMORY, Machine

KERNEL = bytes(range(3, 203)) * 50  # three pages


class Boot:
    """A guest that is being started, call by call."""

    def __init__(self, machine: Machine, name: str = "payments") -> None:
        self.machine = machine
        self.name = name
        self.image = an_image(machine.host_key.private, kernel=KERNEL, ramdisk=b"any file").data
        self.loaded = load(self.image)
        self.runs = [
            UnpackedRun(one.placement.address, one.placement.size, one.placement.tweak_prefix, 0)
            for one in self.loaded.components
        ]

    def until(self, call: str) -> Boot:
        self.handle = self.machine.start_until(call, self.name, self.image)
        return self

    @property
    def asce(self) -> int:
        return self.machine.configuration(self.name).slot.asce

    def at(self, address: int) -> int:
        """Where an address of the guest's is."""
        (span,) = self.machine.holdings.host.spaces.translate(self.asce, address, 1) or ()
        return span.start

    def set_parameters(self, header: bytes, length: int | None = None) -> None:
        at = self.machine.host.memory.allocate("header", 4 * PAGE, PAGE, LOWCORE)
        self.machine.host.memory.write(at, header)
        span = Span(at, len(header) if length is None else length)
        self.machine.firmware.booting.set_parameters(self.handle, span)

    def unpack(self, *runs: UnpackedRun) -> None:
        for run in runs:
            self.machine.firmware.booting.unpack(self.handle, run)

    def verify(self) -> None:
        self.machine.firmware.booting.verify(self.handle)

    def start(self) -> bytes:
        """Let it run; its kernel as it reads it."""
        instance = self.machine.firmware.booting.start(self.handle)
        kernel = Span(self.runs[0].address, len(KERNEL))
        return self.machine.firmware.paging.read(instance.id, kernel)

    def refused(self, kind: type[Refused], command: Callable[[], object]) -> Refused:
        """It is, and nothing is changed by it."""
        before = self.machine.picture()
        with pytest.raises(kind) as refused:
            command()
        assert self.machine.picture() == before
        return refused.value


@pytest.fixture
def boot(machine: Machine) -> Boot:
    return Boot(machine)


# --- the header


def test_a_header_is_taken_once_and_stays(boot: Boot) -> None:
    boot.until("set_parameters")
    boot.set_parameters(boot.loaded.header)
    record = boot.machine.configuration("payments").known
    assert record.identity == identity_of(boot.image)
    assert record.started == ""
    foreign = an_image(boot.machine.host_key.private).data
    with pytest.raises(StorageRefused) as refused:
        boot.set_parameters(load(foreign).header)
    assert refused.value.why is StorageCode.WRONG_STATE
    assert boot.machine.configuration("payments").known == record


def test_a_header_that_is_refused_can_be_given_again(boot: Boot) -> None:
    boot.until("set_parameters")
    foreign = load(an_image(boot.machine.host_key.private).data).header
    states = set()
    for header, length in (
        (boot.loaded.header[:-1] + b"\x00", None),
        (boot.loaded.header, len(boot.loaded.header) - 1),
        (boot.loaded.header, len(boot.loaded.header) + 1),
        (b"", 0),
        (bytes(640), None),
        (foreign, MAX_HEADER + 1),
    ):
        with pytest.raises(ImageRefused):
            boot.set_parameters(header, length)
        states.add(boot.machine.configuration("payments").slot.state)
        boot.machine.require_agreement()
    assert states == {GuestState.CREATED}
    boot.set_parameters(boot.loaded.header)
    boot.machine.require_agreement()


def test_part1_T7_a_header_is_not_taken_from_secure_storage(boot: Boot) -> None:
    """Else a host could have the firmware judge what it cannot read itself."""
    boot.until("set_parameters")
    base = boot.machine.configuration("payments").slot.base
    end = boot.machine.config.storage.size
    for span, code in (
        (Span(base.start, 640), AccessCode.SECURE_STORAGE_ACCESS),
        (Span(base.start - 639, 640), AccessCode.SECURE_STORAGE_ACCESS),
        (Span(end - 639, 640), AccessCode.ADDRESSING),
        (Span(end, 640), AccessCode.ADDRESSING),
    ):
        refused = boot.refused(
            AccessRefused, lambda at=span: boot.machine.firmware.booting.set_parameters(boot.handle, at)
        )
        assert isinstance(refused, AccessRefused)
        assert refused.code is code


# --- unpacking


def test_what_is_unpacked_is_secure_from_then_on(boot: Boot) -> None:
    boot.until("unpack")
    first, second = boot.runs[:2]
    assert boot.machine.host.memory.read(boot.at(first.address), 8) == boot.image[first.address :][:8]
    boot.unpack(first)
    before = boot.machine.picture()
    with pytest.raises(AccessRefused) as refused:
        boot.machine.firmware.host_storage.write(boot.at(first.address), b"other")
    assert refused.value.code is AccessCode.SECURE_STORAGE_ACCESS
    with pytest.raises(AccessRefused):
        boot.machine.firmware.host_storage.read(Span(boot.at(first.address) + PAGE - 1, 1))
    assert boot.machine.picture() == before
    boot.machine.firmware.host_storage.read(Span(boot.at(second.address), PAGE))


def test_pages_that_no_image_has_and_that_are_not_there_are_refused(boot: Boot) -> None:
    boot.until("unpack")
    boot.unpack(boot.runs[0])
    run = boot.runs[1]
    for wrong, kind in (
        (boot.runs[0], ImageRefused),
        (replace(run, length=0), ImageRefused),
        (replace(run, length=PAGE - 1), ImageRefused),
        (replace(run, address=MEMORY), ImageRefused),
        (replace(run, address=MEMORY - PAGE, length=2 * PAGE), ImageRefused),
    ):
        boot.refused(kind, lambda wrong=wrong: boot.unpack(wrong))
    boot.machine.host.memory.unmap(boot.asce, run.address, PAGE)
    refused = boot.refused(StorageRefused, lambda: boot.unpack(run))
    assert isinstance(refused, StorageRefused)
    assert refused.why is StorageCode.NOT_TRANSLATED


def test_part1_T8_no_page_of_another_becomes_the_guests(boot: Boot) -> None:
    """Neither another guest's, nor the firmware's, nor one that the guest has already at another address."""
    other = Boot(boot.machine, "billing").until("verify")
    boot.until("unpack")
    boot.unpack(boot.runs[0])
    zone = boot.machine.holdings.zone
    assert zone is not None
    run = boot.runs[1]
    for absolute in (
        other.at(other.runs[0].address),
        other.machine.configuration("billing").slot.base.start,
        boot.machine.configuration("payments").slot.base.start,
        boot.at(boot.runs[0].address),
        zone.start,
    ):
        boot.machine.host.memory.map(boot.asce, run.address, absolute, PAGE)
        refused = boot.refused(StorageRefused, lambda: boot.unpack(run))
        assert isinstance(refused, StorageRefused)
        assert refused.why is StorageCode.SECURE_ALREADY


def test_one_page_of_storage_is_not_two_of_the_guests(boot: Boot) -> None:
    boot.until("unpack")
    run = boot.runs[0]
    boot.machine.host.memory.map(boot.asce, run.address + PAGE, boot.at(run.address), PAGE)
    boot.refused(StorageRefused, lambda: boot.unpack(run))


def test_part1_T9_a_variable_area_that_was_moved_stops_everything(boot: Boot) -> None:
    """The firmware's own of the guest lies there; the host mapped something else meanwhile."""
    boot.until("unpack")
    slot = boot.machine.configuration("payments").slot
    there = boot.at(slot.variable.start)
    mine = boot.machine.host.memory.allocate("mine", PAGE, PAGE, LOWCORE)
    boot.machine.host.memory.map(boot.asce, slot.variable.start, mine, PAGE)
    refused = boot.refused(StorageRefused, lambda: boot.unpack(boot.runs[0]))
    assert isinstance(refused, StorageRefused)
    assert refused.why is StorageCode.MAPPING_CHANGED
    boot.machine.host.memory.map(boot.asce, slot.variable.start, there, PAGE)
    boot.unpack(*boot.runs)
    boot.verify()


# --- verification


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_image_is_one_however_many_calls_bring_it(boot: Boot, step: int) -> None:
    boot.until("unpack")
    for run in boot.runs:
        for at in range(0, run.length, step * PAGE):
            length = min(step * PAGE, run.length - at)
            boot.unpack(UnpackedRun(run.address + at, length, run.tweak, at))
    boot.verify()
    assert boot.start() == KERNEL
    boot.machine.require_agreement()


def test_a_verification_that_comes_too_early_can_be_made_again(boot: Boot) -> None:
    boot.until("unpack")
    for run in boot.runs:
        refused = boot.refused(ImageRefused, boot.verify)
        assert isinstance(refused, ImageRefused)
        assert refused.code is ImageCode.NOT_AS_MEASURED
        boot.unpack(run)
    boot.verify()
    assert boot.start() == KERNEL


def _changed_byte(boot: Boot) -> list[UnpackedRun]:
    at = boot.at(boot.runs[0].address) + 2 * PAGE + 77
    (byte,) = boot.machine.host.memory.read(at, 1)
    boot.machine.host.memory.write(at, bytes([byte ^ 1]))
    return boot.runs


def _swapped_pages(boot: Boot) -> list[UnpackedRun]:
    address = boot.runs[0].address
    there = [boot.at(address), boot.at(address + PAGE)]
    for virtual, absolute in zip((address + PAGE, address), there, strict=True):
        boot.machine.host.memory.map(boot.asce, virtual, absolute, PAGE)
    return boot.runs


def _one_more(boot: Boot) -> list[UnpackedRun]:
    return [*boot.runs, UnpackedRun(boot.loaded.end, PAGE, boot.runs[0].tweak, 0)]


def _moved(boot: Boot) -> list[UnpackedRun]:
    """The last component, a page further on."""
    *before, last = boot.runs
    page = boot.machine.host.memory.read(boot.at(last.address), PAGE)
    boot.machine.host.memory.write(boot.at(last.address + PAGE), page)
    return [*before, replace(last, address=last.address + PAGE)]


LIES: dict[str, Callable[[Boot], list[UnpackedRun]]] = {
    "a changed byte": _changed_byte,
    "swapped pages": _swapped_pages,
    "a page more": _one_more,
    "a page moved": _moved,
    "another order": lambda boot: [*boot.runs[1:], boot.runs[0]],
    "another tweak": lambda boot: [replace(boot.runs[0], tweak=b"\x00\x00another"[:8]), *boot.runs[1:]],
    "another offset": lambda boot: [replace(boot.runs[0], offset=PAGE), *boot.runs[1:]],
    "one less": lambda boot: boot.runs[:-1],
    "nothing": lambda boot: [],
}


@pytest.mark.parametrize("lie", LIES)
def test_what_the_owner_did_not_build_is_never_decrypted(boot: Boot, lie: str) -> None:
    """Verify refuses, and the pages stay as the host brought them: encrypted by the owner's key, or the host's own."""
    boot.until("unpack")
    boot.unpack(*LIES[lie](boot))
    refused = boot.refused(ImageRefused, boot.verify)
    assert isinstance(refused, ImageRefused)
    assert refused.code is ImageCode.NOT_AS_MEASURED
    boot.refused(StorageRefused, lambda: boot.machine.firmware.booting.start(boot.handle))
    assert not any(KERNEL[:16] in bytes(content) for _, content in boot.machine.rows()["pages"])  # type: ignore[call-overload]
    boot.machine.stop("payments")
    assert [line.use for line in boot.machine.host.storage().held if line.secure] == ["zone base"]
    boot.machine.start("payments", boot.image)


def test_part1_T9_pages_that_were_moved_after_they_were_unpacked_are_not_measured(boot: Boot) -> None:
    """A host maps other pages to where the image was unpacked."""
    boot.until("verify")
    address = boot.runs[0].address
    there = boot.at(address)
    copy = boot.machine.host.memory.allocate("copy", PAGE, PAGE, LOWCORE)
    boot.machine.host.memory.write(copy, boot.image[address : address + PAGE])
    boot.machine.host.memory.map(boot.asce, address, copy, PAGE)
    boot.refused(Refused, boot.verify)
    boot.machine.host.memory.unmap(boot.asce, address, PAGE)
    boot.refused(Refused, boot.verify)
    boot.machine.host.memory.map(boot.asce, address, there, PAGE)
    boot.verify()
    assert boot.start() == KERNEL


def test_a_guest_starts_once_and_with_a_cpu(boot: Boot) -> None:
    boot.until("start_guest")
    (cpu,) = boot.machine.configuration("payments").known.cpus
    boot.machine.firmware.donations.destroy_cpu(cpu.handle)
    boot.refused(StorageRefused, lambda: boot.machine.firmware.booting.start(boot.handle))
    at = boot.machine.host.memory.allocate("cpu", PAGE, PAGE, LOWCORE)
    boot.machine.host.create_cpu(boot.handle, 0, storage=at, storage_length=PAGE)
    assert boot.start() == KERNEL
    boot.refused(StorageRefused, lambda: boot.machine.firmware.booting.start(boot.handle))
    boot.refused(StorageRefused, boot.verify)
    boot.refused(StorageRefused, lambda: boot.unpack(boot.runs[0]))
