"""The messages about storage: query, donation, boot, paging, and what the host does with its own (formats, D).

Addresses and lengths are bytes. They know shapes and limits, not what the firmware does with them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Base64Bytes, Field

from keyvisor_guest.wire.message import Address, GuestName, Handle, Message

MAX_ACCESS = 1 << 24  # bytes of one read or write of storage

# A label is shown on terminals: nothing in it moves a cursor.
Label = Annotated[str, Field(pattern=r"^[ -~]{1,64}$")]


class QueryStorage(Message):
    """`length`: how many bytes of the query block the caller has room for (formats, D.1)."""

    length: Annotated[int, Field(ge=0, le=1 << 16)] = 0x120


class StorageBlock(Message):
    """`rc` is 0001, or 0100 where the block was cut to the caller's room; `block` as wire/qui.py lays it out, base64."""

    rc: int
    block: Base64Bytes


class InitStorage(Message):
    """The zone's base storage, host-absolute (formats, D.2). Addresses and lengths are bytes, here and below."""

    origin: Address
    length: Address


class CreateGuest(Message):
    """What the host offers for a guest (formats, D.3): `base` absolute and `base_length`, `virtual` and `virtual_length`
    in the address space `asce`; the guest's own storage; the page `sca`.
    """

    name: GuestName
    base: Address
    base_length: Address
    virtual: Address
    virtual_length: Address
    storage_origin: Address = 0
    storage_length: Address
    asce: Address
    sca: Address


class CreateCpu(Message):
    """What the host offers for a guest's CPU (formats, D.4), host-absolute."""

    handle: Handle
    number: Annotated[int, Field(ge=0, le=0xFFFF)]
    storage: Address
    storage_length: Address


class Created(Message):
    """The handle of a guest or a CPU that was created."""

    handle: Handle


class ByHandle(Message):
    """A call that names a guest or a CPU, and nothing else."""

    handle: Handle


class SetParameters(Message):
    """Where in host-absolute storage the guest's image header stands (formats, D.5, command 0300)."""

    handle: Handle
    header: Address
    header_length: Address


class Unpack(Message):
    """Pages of the guest to unpack, `address` being the guest's (formats, D.5, command 0301, once for each page).

    `tweak` is the component's 8-byte prefix, hex; `offset` the first page's, and each further page's is 4096 more.
    """

    handle: Handle
    address: Address
    length: Address
    tweak: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    offset: Address


class ConvertPages(Message):
    """Pages of the guest, `address` being the guest's, that become secure (import) or leave it (export)."""

    handle: Handle
    address: Address
    length: Address


class Allocate(Message):
    """Ask the host's frame allocator for `length` bytes in one piece. `label` says for what: `free` takes all of it back."""

    label: Label
    length: Address
    alignment: Address = 4096
    at_least: Address = 0


class Allocated(Message):
    absolute: Address


class FreeFrames(Message):
    label: Label


class Freed(Message):
    """Bytes that are free again, and bytes that stay allocated since they are secure."""

    freed: Address
    kept: Address


class MapPages(Message):
    """Let `length` bytes from `virtual` in the address space `asce` be those from `absolute`; what was there is gone.

    With `label`, only while the page that names the address space is reserved under it: then it is nobody else's.
    """

    asce: Address
    virtual: Address
    absolute: Address
    length: Address
    label: Label | None = None


class UnmapPages(Message):
    asce: Address
    virtual: Address
    length: Address


class ReadStorage(Message):
    """Bytes of storage: host-absolute for the host, guest-absolute for a guest; any alignment."""

    address: Address
    length: Annotated[int, Field(ge=0, le=MAX_ACCESS)]


class WriteStorage(Message):
    address: Address
    data: Annotated[Base64Bytes, Field(repr=False)]


class WriteHostStorage(WriteStorage):
    """With `label`, only while all that is written is reserved under it: then it is nobody else's."""

    label: Label | None = None


class StorageContent(Message):
    data: Annotated[Base64Bytes, Field(repr=False)]


class Held(Message):
    """One line of the ledger: storage that is in use.

    `holder` is a guest's name, `firmware`, or the label of an allocation that nothing secure has taken yet; `use` says
    for what; `pieces` is the number of separate ranges, `first` the lowest address.
    """

    holder: str
    use: Literal["zone base", "guest base", "guest variable", "cpu", "guest memory", "host"]
    secure: bool
    length: Address
    pieces: int
    first: Address


class Ledger(Message):
    """Host-absolute storage, all in bytes. `largest_free`: the longest piece that is in one."""

    size: Address
    initialised: bool
    secure: Address
    free: Address
    largest_free: Address
    held: list[Held]
