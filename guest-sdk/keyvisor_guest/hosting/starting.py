"""Starting a guest: what a host does, call by call. It gives what the query asks for, loads the image, lets the guest run.

A start that fails is undone: CPUs and guest are destroyed, then their storage is given back. Where the firmware refuses
to destroy, nothing is given back: that storage is the firmware's still, and nobody may be given it (patents, 1.6, 48).
The guest is created before its own storage is reserved: from then on its name is this host's, and another host that
starts the same name at the same time is refused before it has done any harm. Knows of an image what `image_loading` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from keyvisor_guest.errors import GuestThere, Refused, SdkError
from keyvisor_guest.hosting.begun import Begun, Piece
from keyvisor_guest.hosting.giving_back import with_note
from keyvisor_guest.hosting.image_loading import LoadedImage, load
from keyvisor_guest.hosting.initialising import initialise
from keyvisor_guest.hosting.labels import labels_of_guest
from keyvisor_guest.hosting.memory import PAGE
from keyvisor_guest.hosting.needs import MIB, require_size
from keyvisor_guest.hosting.not_free import giving
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.qui import StorageQuery

if TYPE_CHECKING:
    from keyvisor_guest.host import Host

__all__ = ["DEFAULT_MEMORY", "Progress", "start"]

DEFAULT_MEMORY: Final = 256 * MIB
_BASE_ALIGNMENT: Final = 1 << 14
_CHUNK: Final = 1 << 20  # bytes of one write and of one unpack: a whole number of pages

Stage = Literal["donating", "loading", "unpacking", "verifying", "running"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a start is: `done` of `total`, in bytes of the image, each of which is loaded, unpacked and measured."""

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be started: `memory` is bytes, from address 0 on; the variable area lies above it."""

    image: LoadedImage
    query: StorageQuery
    memory: int
    cpus: int


def start(
    host: Host,
    name: str,
    image: bytes,
    *,
    memory: int | None = None,
    cpus: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> messages.Guest:
    """Start a guest from an image file. `memory` is bytes, whole MiB; left out, 256 MiB, or more if the image needs it.

    Raises ImageUnusable, SdkError for a size that cannot be, GuestThere; Refused and the door's errors of the first call
    that failed, after what was done has been undone.
    """
    loaded = load(image)
    size = _size(loaded, memory)
    query = host.query_storage()
    require_size(query, size, cpus)
    _require_absent(host, name)
    begun = Begun(host, name)
    try:
        return _start(begun, _Plan(loaded, query, size, cpus), progress or (lambda _: None))
    except BaseException as first:
        note = begun.undo(sure=isinstance(first, Refused))
        if note is None:
            raise
        if isinstance(first, SdkError):
            raise with_note(first, note) from first
        first.add_note(note)
        raise


def _size(image: LoadedImage, memory: int | None) -> int:
    least = -(-image.end // MIB) * MIB
    if memory is None:
        return max(DEFAULT_MEMORY, least)
    if memory < least:
        raise SdkError(
            f"the image does not fit into {memory} bytes: give its guest {least // MIB} MiB or more"
        )
    return memory


def _require_absent(host: Host, name: str) -> None:
    for guest in host.guests():
        if guest.name == name:
            how = "runs already" if guest.state == "running" else "is there, half made"
            raise GuestThere(f"guest `{name}` {how}: stop it first (`keyvisor host stop {name}`)")


def _start(begun: Begun, plan: _Plan, progress: Callable[[Progress], None]) -> messages.Guest:
    host, image = begun.host, plan.image
    length = sum(len(component.pages) for component in image.components)
    total = 3 * length
    progress(Progress("donating", 0, total))
    ledger = host.storage()
    if not ledger.initialised:
        initialise(host)
    leftovers = labels_of_guest(ledger, begun.name)
    guest, asce = giving("guest", lambda: _create_guest(begun, plan), begun.let_go_of_all)
    for label in leftovers:  # of a host that died, or of one that will be refused: the name is ours now
        host.memory.free(label)
    for number in range(plan.cpus):
        _create_cpu(begun, guest, number, plan.query.cpu)
    pieces = begun.map_new(asce, 0, plan.memory)
    for done in _load(begun, image, pieces):
        progress(Progress("loading", done, total))
    _set_parameters(begun, guest, image.header)
    for done in _unpack(host, guest, image):
        progress(Progress("unpacking", length + done, total))
    progress(Progress("verifying", 2 * length, total))
    host.verify(guest)
    running = host.run(guest)
    progress(Progress("running", total, total))
    return running


def _create_guest(begun: Begun, plan: _Plan) -> tuple[int, int]:
    """Reserve and offer what a guest needs before it is there. Gives its handle and its address space."""
    query, size = plan.query, plan.memory
    asce = begun.try_anew()
    base = begun.reserve(query.guest_base, _BASE_ALIGNMENT)
    sca = begun.reserve(PAGE)
    variable = query.guest_virtual(size)
    begun.map_new(asce, size, variable)
    try:
        begun.guest = begun.host.create_guest(
            begun.name,
            base=base,
            base_length=query.guest_base,
            virtual=size,
            virtual_length=variable,
            storage_length=size,
            asce=asce,
            sca=sca,
        )
    except Refused as refused:
        begun.guest = refused.handle
        raise
    return begun.guest, asce


def _create_cpu(begun: Begun, guest: int, number: int, length: int) -> None:
    purpose = f"cpu {number}"

    def give() -> int:
        storage = begun.reserve(length, purpose=purpose)
        return begun.host.create_cpu(guest, number, storage=storage, storage_length=length)

    begun.cpus.append(giving("cpu", give, lambda: begun.let_go(purpose)))


def _load(begun: Begun, image: LoadedImage, pieces: Sequence[Piece]) -> Iterator[int]:
    """Write the image's pages to where the guest has them. Gives, again and again, how many bytes are written."""
    done = 0
    for component in image.components:
        at, view = component.placement.address, memoryview(component.pages)
        for piece in pieces:
            first, end = max(at, piece.address), min(at + len(view), piece.address + piece.length)
            for address in range(first, end, _CHUNK):
                data = view[address - at : min(address + _CHUNK, end) - at]
                begun.write(piece.absolute + address - piece.address, bytes(data))
                done += len(data)
                yield done


def _set_parameters(begun: Begun, guest: int, header: bytes) -> None:
    address = begun.reserve(-(-len(header) // PAGE) * PAGE, purpose="header")
    begun.write(address, header, "header")
    begun.host.set_parameters(guest, address, len(header))
    begun.let_go("header")


def _unpack(host: Host, guest: int, image: LoadedImage) -> Iterator[int]:
    """Have the firmware take the image's pages. Gives, again and again, how many bytes it has."""
    done = 0
    for component in image.components:
        place, size = component.placement, len(component.pages)
        for offset in range(0, size, _CHUNK):
            length = min(_CHUNK, size - offset)
            host.unpack(guest, place.address + offset, length, tweak=place.tweak_prefix, offset=offset)
            done += length
            yield done
