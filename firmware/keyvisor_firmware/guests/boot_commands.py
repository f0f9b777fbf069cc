"""The commands that bring a guest up: set parameters, unpack, verify, start (formats, D.5).

The host hands over a header and pages; what they are worth is found out by `verify`, which measures every page as it
came and decrypts none before. Until then the pages lie in the guest's storage as the owner encrypted them, secure: the
host cannot change them any more. A command that is refused changes nothing; the host may try
again with what is right. Pages that were unpacked stay, so that wrong ones leave nothing but to destroy the guest.
"""

from __future__ import annotations

from dataclasses import replace

from keyvisor_firmware.association.commands import Work
from keyvisor_firmware.audit import Audit
from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.host_key import HostKeys
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.guests.images import set_parameters, verify
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.guests.register import Register
from keyvisor_firmware.guests.unpacking import adding, placements
from keyvisor_firmware.storage import paging
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.guest_record import UnpackedRun
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_firmware.storage.lifecycle import GuestCall, GuestState
from keyvisor_firmware.storage.page_records import PageRecord, PageState
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.paging_commands import (
    guests_own,
    page_number,
    read_pieces,
    write_pieces,
)
from keyvisor_guest.wire.se_header import MAX_HEADER
from keyvisor_guest.wire.se_pages import Component


class BootCommands:
    """The host's commands; all raise StorageRefused for a guest that is not in a state for them."""

    def __init__(
        self, commands: Commands, holdings: Holdings, guests: Register, host_keys: HostKeys, audit: Audit
    ) -> None:
        self._commands = commands
        self._holdings = holdings
        self._guests = guests
        self._host_keys = host_keys
        self._audit = audit

    def set_parameters(self, handle: int, header: Span) -> None:
        """Take the header of the guest's image from the host's storage. Raises ImageRefused, AccessRefused."""
        with self._commands.command("set parameters", self._name(handle)) as work:
            guest = work.storage.proceed(handle, GuestCall.SET_PARAMETERS)
            if header.length > MAX_HEADER:
                raise ImageRefused(ImageCode.SIZE_WRONG, f"a header has at most {MAX_HEADER} bytes")
            self._holdings.host.require_host_access(header)
            raw = work.storage.contents.read(header)
            boot = set_parameters(raw, self._host_keys.private)
            record = replace(
                guest.known,
                identity=boot.header.identity(),
                host_key_hash=boot.host_key_hash,
                cck=boot.secrets.cck,
                scf=boot.secrets.scf,
                header=raw,
            )
            work.storage.keep(handle, record)

    def unpack(self, handle: int, run: UnpackedRun) -> None:
        """Take pages of the image into the guest, as they are. Raises ImageRefused for pages that cannot be its.

        They are secure from now on, wherever the host mapped them.
        """
        pages = Span(run.address, run.length)
        told = {"address": f"{pages.start:#x}", "length": str(pages.length)}
        with self._commands.command("unpack", self._name(handle), **told) as work:
            draft = work.storage
            guest = draft.proceed(handle, GuestCall.UNPACK)
            runs = adding(guest.known.runs, run, guest.slot.storage)
            draft.require_variable(guest)
            absolute = self._holdings.host.importable(guest.slot.asce, pages.start, pages.length)
            draft.register(guests_own(handle, pages, absolute), scrub=False)
            secure = PageRecord(PageState.SECURE).encode() * (pages.length // PAGE)
            draft.put_page_records(guest, page_number(guest, pages), secure)
            draft.keep(handle, replace(guest.known, runs=runs))

    def verify(self, handle: int) -> None:
        """Measure what was unpacked; only then is it decrypted. Raises ImageRefused."""
        with self._commands.command("verify", self._name(handle)) as work:
            guest = work.storage.proceed(handle, GuestCall.VERIFY)
            record = guest.known
            boot = set_parameters(record.header or b"", self._host_keys.private)
            components = self._components(work.storage.contents, guest)
            files = verify(boot, components)
            for component in components:
                self._take(work, guest, component, boot.clear(component))
            if files.policy is not None:
                work.records.put_policy(record.instance, files.policy)
                work.decided.policies.append(files.policy)
            measured = replace(record, header=None, runs=(), opens_after_lock=files.opens_after_lock)
            work.storage.keep(handle, measured)

    def start(self, handle: int) -> Instance:
        """Let a verified guest run, that has a CPU; the instance. Raises OSError, StateUnusable where its gate cannot be made."""
        with self._commands.alone():
            with self._commands.command("start guest", self._name(handle)) as work:
                verified = work.storage.proceed(handle, GuestCall.START)
                guest = work.storage.keep(handle, replace(verified.known, started=self._audit.now()))
                running = self._guests.open(guest, work.records)
                work.effects.note(running.gate.stop)
                self._guests.reinstate(running, work)  # what a halted one had
            self._guests.add(running)
        return running.instance

    def halt(self, handle: int) -> None:
        """A guest whose doors could not be made does not run: it can be started again, or destroyed."""
        with self._commands.command("halt guest", self._name(handle)) as work:
            guest = work.storage.guest(handle)
            work.storage.keep(handle, replace(guest.known, started=""))
            work.storage.enter(handle, GuestState.VERIFIED)
            self._guests.end(guest, work, self._commands)

    # --- inside

    def _components(self, contents: Contents, guest: Configuration) -> tuple[Component, ...]:
        """What was unpacked, as it was, in the order of unpacking."""
        return tuple(
            Component(place, read_pieces(contents, self._pieces(guest, Span(place.address, place.size))))
            for place in placements(guest.known.runs)
        )

    def _take(self, work: Work, guest: Configuration, component: Component, clear: bytes) -> None:
        """Keep a component's pages as a guest's pages are kept."""
        place = component.placement
        at_rest = paging.encrypt_at_rest(clear, guest.known.memory_key, place.address)
        write_pieces(work.storage.contents, self._pieces(guest, Span(place.address, place.size)), at_rest)

    def _pieces(self, guest: Configuration, pages: Span) -> tuple[Span, ...]:
        """Where pages of the guest are, as they were registered. Raises AccessRefused where the host moved them."""
        return self._holdings.host.guest_pages(guest.slot.asce, guest.slot.handle, pages.start, pages.length)

    def _name(self, handle: int) -> str | None:
        with self._commands.alone():
            guest = self._holdings.guests.get(handle)
            return None if guest is None else guest.row.name
