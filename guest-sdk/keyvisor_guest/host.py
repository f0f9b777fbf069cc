"""The host's side: give storage, start and stop guests, give them HSMs. Knows nothing of what a guest keeps or may do.

Addresses and lengths are bytes. `start` and `stop` do by themselves, in order, what the calls above them do one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from keyvisor_guest.asking import asking
from keyvisor_guest.errors import DoorBroken, SdkError
from keyvisor_guest.hosting.memory import HostMemory
from keyvisor_guest.http import Door
from keyvisor_guest.names import apqn_text, guest_name
from keyvisor_guest.state_directory import host_socket, state_directory
from keyvisor_guest.wire import messages, storage_messages
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.messages import HOST_ROUTES, MAX_IMAGE, Done
from keyvisor_guest.wire.storage_messages import MAX_ACCESS, ByHandle, Created

if TYPE_CHECKING:
    from keyvisor_guest.hosting.starting import Progress
    from keyvisor_guest.wire.qui import StorageQuery

__all__ = ["Host"]

_WHOLE_BLOCK = 0x120  # bytes of a query block


class Host:
    """The host's door. Every method raises Refused, NotRunning, DoorClosed or DoorBroken (errors module).

    `state` is the state directory; left out, it is KEYVISOR_STATE or the default. `memory` is host-absolute storage.
    """

    def __init__(self, *, state: Path | None = None) -> None:
        path = host_socket(state_directory(state))
        self._door = Door(
            path, HOST_ROUTES, nobody=f"no door `{path}`: start the firmware with `keyvisor up`"
        )
        self.memory = HostMemory(self._door)

    def query_storage(self, length: int = _WHOLE_BLOCK) -> StorageQuery:
        """How much storage each thing needs, and the limits. Allowed at any time; changes nothing.

        What a block of `length` bytes does not reach is 0.
        """
        from keyvisor_guest.wire.qui import decode_query

        try:
            return decode_query(self.query_block(length)[1])
        except Malformed as error:
            raise DoorBroken(f"the firmware's answer is no query block ({error})") from None

    def query_block(self, length: int = _WHOLE_BLOCK) -> tuple[int, bytes]:
        """The query block of a caller with room for `length` bytes, and its rc: 0001, or 0100 where it was cut."""
        answer = self._door.call(
            "query_storage",
            storage_messages.StorageBlock,
            asking(storage_messages.QueryStorage, length=length),
        )
        return answer.rc, answer.block

    def init(self, origin: int | None = None, length: int | None = None) -> None:
        """Donate the zone's base storage, once: 1 MiB aligned, at 2 GiB or above, as long as the query says.

        Without an origin it is reserved first. Raises Refused with 0101 where it was done already.
        """
        if origin is None and length is None:
            from keyvisor_guest.hosting.initialising import reserve_and_init

            reserve_and_init(self)
            return
        if origin is None or length is None:
            raise SdkError("give both origin and length of the zone's base storage, or neither")
        self._door.call(
            "init_storage", Done, asking(storage_messages.InitStorage, origin=origin, length=length)
        )

    def create_guest(
        self,
        name: str,
        *,
        base: int,
        base_length: int,
        virtual: int,
        virtual_length: int,
        storage_length: int,
        asce: int,
        sca: int,
        storage_origin: int = 0,
    ) -> int:
        """Donate a guest's storage, and get its handle: `base` is absolute, `virtual` an address in `asce`.

        A refusal with 8000h in its code has a `handle`: what was created half must be destroyed.
        """
        body = asking(
            storage_messages.CreateGuest,
            name=guest_name(name),
            base=base,
            base_length=base_length,
            virtual=virtual,
            virtual_length=virtual_length,
            storage_origin=storage_origin,
            storage_length=storage_length,
            asce=asce,
            sca=sca,
        )
        return self._door.call("create_guest", Created, body).handle

    def create_cpu(self, handle: int, number: int, *, storage: int, storage_length: int) -> int:
        """Donate the storage of the guest's CPU `number`, absolute, and get the CPU's handle."""
        body = asking(
            storage_messages.CreateCpu,
            handle=handle,
            number=number,
            storage=storage,
            storage_length=storage_length,
        )
        return self._door.call("create_cpu", Created, body).handle

    def set_parameters(self, handle: int, header: int, header_length: int) -> None:
        """Hand over the header of the guest's image, which stands at the absolute address `header`."""
        body = asking(
            storage_messages.SetParameters, handle=handle, header=header, header_length=header_length
        )
        self._door.call("set_parameters", Done, body)

    def unpack(self, handle: int, address: int, length: int, *, tweak: bytes, offset: int) -> None:
        """Let the firmware take pages of the image from the guest's `address` on.

        `tweak` is their component's 8-byte prefix, `offset` how far from the component's start they are.
        """
        body = asking(
            storage_messages.Unpack,
            handle=handle,
            address=address,
            length=length,
            tweak=tweak.hex(),
            offset=offset,
        )
        self._door.call("unpack", Done, body)

    def verify(self, handle: int) -> None:
        """Let the firmware measure what was unpacked."""
        self._door.call("verify", Done, ByHandle(handle=handle))

    def run(self, handle: int) -> messages.Guest:
        """Let a verified guest run."""
        return self._door.call("start_guest", messages.Guest, ByHandle(handle=handle))

    def destroy_cpu(self, handle: int) -> None:
        """End the CPU of this handle; its storage is the host's again."""
        self._door.call("destroy_cpu", Done, ByHandle(handle=handle))

    def destroy_guest(self, handle: int) -> None:
        """End the guest of this handle, which has no CPUs any more; its storage is the host's again."""
        self._door.call("destroy_guest", Done, ByHandle(handle=handle))

    def export_pages(self, name: str, address: int, length: int) -> None:
        """Have pages of a guest encrypted, from the guest's `address` on, so that the host can put them away.

        More than 16 MiB are exported piece by piece; so are they imported.
        """
        self._convert("export_pages", name, address, length)

    def import_pages(self, name: str, address: int, length: int) -> None:
        """Give pages to a guest, from the guest's `address` on: exported ones again, or new ones, which are zeros."""
        self._convert("import_pages", name, address, length)

    def storage(self) -> storage_messages.Ledger:
        """Who holds which storage, and how much is free."""
        return self._door.call("storage", storage_messages.Ledger)

    def guests(self) -> list[messages.Guest]:
        """The guests there are: those that run, and those that are being made or were left half made."""
        return self._door.call("list_guests", messages.GuestList).guests

    def start(
        self,
        name: str,
        image: bytes,
        *,
        memory: int | None = None,
        cpus: int = 1,
        progress: Callable[[Progress], None] | None = None,
    ) -> messages.Guest:
        """Start a guest from an image that its owner built for this host's key: query, donate, load, verify, run.

        `memory` is whole MiB in bytes; left out, it is 256 MiB, or more if the image needs it. Raises SdkError for more
        than 64 MiB of image and for a size that cannot be; NameInvalid, ImageUnusable, GuestThere; Refused with the code
        of the call that was refused, after what was done before has been undone.
        """
        from keyvisor_guest.hosting import starting

        checked = guest_name(name)
        if len(image) > MAX_IMAGE:
            raise SdkError(
                f"an image of {len(image)} bytes is longer than the {MAX_IMAGE} that the firmware takes"
            )
        return starting.start(self, checked, image, memory=memory, cpus=cpus, progress=progress)

    def stop(self, name: str) -> None:
        """Stop a guest: its secrets go with it, its storage is free again. Raises NotRunning where there is none."""
        from keyvisor_guest.hosting import stopping

        stopping.stop(self, guest_name(name))

    def attach(self, name: str, apqn: str) -> None:
        """Give the HSM `apqn`, as in `03.0011`, to a guest."""
        self._door.call("attach", Done, name=guest_name(name), apqn=apqn_text(apqn))

    def detach(self, name: str, apqn: str) -> None:
        """Take the HSM `apqn` away from a guest; what was associated there ends."""
        self._door.call("detach", Done, name=guest_name(name), apqn=apqn_text(apqn))

    def hsms(self) -> list[messages.Hsm]:
        """The HSMs of this machine."""
        return self._door.call("list_hsms", messages.HsmList).hsms

    def host_key_document(self) -> bytes:
        """The host key's certificate, PEM: what an owner encrypts for."""
        return self._door.call("host_key", messages.HostKeyDocument).pem.encode()

    def host_keys(self) -> messages.HostKeyDocuments:
        """Host-key documents, current and backup, and what an owner verifies them by.

        They come from the host: an owner compares the root CA's fingerprint with what the operator says.
        """
        return self._door.call("host_keys", messages.HostKeyDocuments)

    def _convert(self, call: str, name: str, address: int, length: int) -> None:
        from keyvisor_guest.hosting.stopping import named

        handle = named(self, guest_name(name)).handle
        for offset in range(0, max(length, 1), MAX_ACCESS):
            part = min(MAX_ACCESS, length - offset)
            body = asking(storage_messages.ConvertPages, handle=handle, address=address + offset, length=part)
            self._door.call(call, Done, body)
