"""An image file: built of its components, found its way through, measured, and opened (formats, E).

Pure: bytes in, bytes out; keys and everything random come in as arguments. Where things stand is `se_image_layout`,
the pages are `se_pages`, the header is `se_header`. What a component holds is not known here, except for stage 3b,
which real images enter first: here it is data, and says how long the other components are without what fills their
last pages (as the arguments of the real one do):

    00 "keyvisor stage3b"    10 kernel, 20 command line, 30 ramdisk: u64 address, u64 length each    40 PSW (16)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.boot_identity import PAGE_LENGTH, BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.se_header import (
    DEFAULT_PCF,
    HeaderDraft,
    HeaderKeys,
    HeaderSecrets,
    Pcf,
    SeHeader,
    build_header,
    parse_header,
)
from keyvisor_guest.wire.se_image_layout import (
    COMPONENTS_AT,
    HEADER_AT,
    IPIB_AT,
    RECORD_AT,
    check_unmeasured,
    encode_ipib,
    encode_record,
    find_header,
    read_layout,
)
from keyvisor_guest.wire.se_pages import (
    TWEAK_PREFIX_LENGTH,
    Component,
    ComponentKind,
    Placement,
    decrypt_pages,
    encrypt_pages,
    measure,
    whole_pages,
)

__all__ = [
    "MAX_CMDLINE",
    "ImageDraft",
    "ImageKeys",
    "SeImage",
    "build_image",
    "check_measured",
    "header_of",
    "identity_of",
    "read_image",
    "stage3b_address",
]

MAX_CMDLINE: Final = 4096  # bytes of a command line, with the NUL that ends it

_GIVEN: Final = (ComponentKind.KERNEL, ComponentKind.CMDLINE, ComponentKind.RAMDISK)
_STAGE3B_MAGIC: Final = b"keyvisor stage3b"
_STAGE3B_LENGTH: Final = len(_STAGE3B_MAGIC) + 16 * len(_GIVEN) + 16


@dataclass(frozen=True, slots=True)
class ImageDraft:
    """What goes into a new image: components, header secrets, flags. No component's content is empty."""

    components: Mapping[ComponentKind, bytes] = field(repr=False)
    secrets: HeaderSecrets
    pcf: int = DEFAULT_PCF


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """What must be new for every image: the header's keys, and six random bytes per component for its tweaks."""

    header: HeaderKeys
    tweaks: Mapping[ComponentKind, bytes]


@dataclass(frozen=True, slots=True)
class SeImage:
    """An image's header and components. Nothing is measured yet, nothing decrypted."""

    header: SeHeader
    components: tuple[Component, ...]

    def component(self, kind: ComponentKind, key: bytes) -> bytes | None:
        """A component in clear, without what fills its last page where stage 3b tells; None where there is none.

        `key` is the image key of the header's secrets. Raises CannotDecrypt, Malformed.
        """
        found = self._find(kind)
        if found is None:
            return None
        size = found.placement.size
        length = size if kind is ComponentKind.STAGE3B else self._length(found.placement, kind, key)
        return self.clear(found, key)[:length]

    def clear(self, component: Component, key: bytes) -> bytes:
        """The whole pages of a component in clear. Raises CannotDecrypt."""
        if self.header.pcf & Pcf.COMPONENTS_IN_CLEAR:
            return component.pages
        return decrypt_pages(component, key)

    def _length(self, place: Placement, kind: ComponentKind, key: bytes) -> int:
        stage3b = self._find(ComponentKind.STAGE3B)
        said = None if stage3b is None else _read_stage3b(self.clear(stage3b, key)).get(kind)
        if said is None:
            return place.size
        address, length = said
        if address != place.address or whole_pages(length) != place.size:
            raise Malformed(f"stage 3b does not agree on where the {kind.name.lower()} is")
        return length

    def _find(self, kind: ComponentKind) -> Component | None:
        return next((one for one in self.components if one.placement.kind == kind), None)


def build_image(draft: ImageDraft, fresh: ImageKeys, host_keys: Sequence[ec.EllipticCurvePublicKey]) -> bytes:
    """The image file that any of `host_keys` (1 to 95, P-521) can start. Same arguments, same bytes.

    Raises Unbuildable for what an image cannot hold, HostKeyUnusable for another curve.
    """
    contents = _contents(draft)
    components = _encrypted(draft, contents, fresh.tweaks)
    measured = measure(components)
    header = build_header(HeaderDraft(measured, draft.secrets, draft.pcf), fresh.header, host_keys)
    placements = [component.placement for component in components]
    image = bytearray(placements[-1].end)
    for at, part in (
        (RECORD_AT, encode_record(HEADER_AT, IPIB_AT)),
        (HEADER_AT, header),
        (IPIB_AT, encode_ipib(HEADER_AT, len(header), placements)),
        *((component.placement.address, component.pages) for component in components),
    ):
        image[at : at + len(part)] = part
    return bytes(image)


def stage3b_address(components: Mapping[ComponentKind, bytes]) -> int:
    """Where stage 3b of an image of these components stands: what its PSW has to name."""
    return COMPONENTS_AT + sum(whole_pages(len(components[kind])) for kind in _GIVEN if kind in components)


def header_of(data: bytes) -> SeHeader:
    """The public part of the header in an image or a header file. Raises Malformed; the pages are not looked at."""
    return parse_header(find_header(data))


def identity_of(data: bytes) -> BootIdentity:
    """The boot identity that the header in an image or a header file states. Raises Malformed.

    Nothing is opened or measured: of a file that somebody else had it says what that file says.
    """
    return header_of(data).identity()


def read_image(data: bytes, header: SeHeader) -> SeImage:
    """The image, every part of it within the file and none over another. Raises Malformed.

    Only after `check_measured` is any of it to be believed.
    """
    layout = read_layout(data, len(header.encode()))
    pages = sum(place.size // PAGE_LENGTH for place in layout.components)
    if pages != header.measured.page_count:
        raise Malformed(f"the header is for {header.measured.page_count} pages, the image has {pages}")
    check_unmeasured(data, layout)
    return SeImage(
        header, tuple(Component(place, data[place.address : place.end]) for place in layout.components)
    )


def check_measured(image: SeImage) -> None:
    """Raises Malformed unless pages, addresses and tweaks are those that the header was made for."""
    found, wanted = measure(image.components), image.header.measured
    for what, one, other in (
        ("pages (PLD)", found.pld, wanted.pld),
        ("pages' addresses (ALD)", found.ald, wanted.ald),
        ("pages' tweaks (TLD)", found.tld, wanted.tld),
    ):
        if one != other:
            raise Malformed(f"the {what} are not those that the header was made for")


def _contents(draft: ImageDraft) -> dict[ComponentKind, bytes]:
    """All components in their order, stage 3b made of the others. Raises Unbuildable."""
    given = {kind: draft.components[kind] for kind in _GIVEN if kind in draft.components}
    if not given or len(given) != len(draft.components):
        raise Unbuildable("an image has a kernel, a ramdisk or a command line, or several of them")
    for kind, content in given.items():
        if not content:
            raise Unbuildable(f"the {kind.name.lower()} is empty: leave it out, or give another one")
    if len(given.get(ComponentKind.CMDLINE, b"")) > MAX_CMDLINE:
        raise Unbuildable(f"a command line has at most {MAX_CMDLINE} bytes with its NUL")
    return {**given, ComponentKind.STAGE3B: _stage3b(given, draft.secrets)}


def _encrypted(
    draft: ImageDraft, contents: Mapping[ComponentKind, bytes], tweaks: Mapping[ComponentKind, bytes]
) -> list[Component]:
    """The components as they go into the image."""
    components = []
    for place, content in zip(_place(contents, tweaks), contents.values(), strict=True):
        pages = (
            content.ljust(place.size, b"\x00")
            if draft.pcf & Pcf.COMPONENTS_IN_CLEAR
            else encrypt_pages(content, draft.secrets.image_key, place.tweak_prefix)
        )
        components.append(Component(place, pages))
    return components


def _place(contents: Mapping[ComponentKind, bytes], tweaks: Mapping[ComponentKind, bytes]) -> list[Placement]:
    placements = []
    address = COMPONENTS_AT
    for kind, content in contents.items():
        prefix = kind.to_bytes(2, "big") + tweaks[kind]
        if len(prefix) != TWEAK_PREFIX_LENGTH:
            raise Unbuildable(f"a component's tweak has {TWEAK_PREFIX_LENGTH - 2} random bytes")
        placements.append(Placement(address, whole_pages(len(content)), prefix))
        address = placements[-1].end
    return placements


def _stage3b(given: Mapping[ComponentKind, bytes], secrets: HeaderSecrets) -> bytes:
    address = COMPONENTS_AT
    said = b""
    for kind in _GIVEN:
        length = len(given.get(kind, b""))
        said += (address if length else 0).to_bytes(8, "big") + length.to_bytes(8, "big")
        address += whole_pages(length)
    psw = secrets.psw_mask.to_bytes(8, "big") + secrets.psw_address.to_bytes(8, "big")
    return _STAGE3B_MAGIC + said + psw


def _read_stage3b(content: bytes) -> dict[ComponentKind, tuple[int, int]]:
    """Address and length of each component; empty for a stage 3b that is not ours."""
    if not content.startswith(_STAGE3B_MAGIC):
        return {}
    cursor = Cursor(content[len(_STAGE3B_MAGIC) : _STAGE3B_LENGTH])
    return {kind: (cursor.number(8), cursor.number(8)) for kind in _GIVEN}
