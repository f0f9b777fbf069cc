"""The start of a guest from an image, as far as the image goes: its header opened, its pages measured, its policy taken.

The steps of formats, D.5, but for unpack, which is `unpacking`: set secure configuration parameters (header), verify
(measurement); then what is keyvisor's own, the ramdisk and the policy in it. Every refusal has its code, and tells the
host, who hears it, nothing of what is encrypted. Knows neither storage nor the file that the pages came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_guest.wire.errors import Malformed, WireError
from keyvisor_guest.wire.guest_file import opens_after_lock
from keyvisor_guest.wire.initrd import Entry, find_guest_file, find_policy, unpack
from keyvisor_guest.wire.key_slots import addressed_key
from keyvisor_guest.wire.messages import MAX_POLICY
from keyvisor_guest.wire.se_header import (
    HeaderSecrets,
    SeHeader,
    check_header_lengths,
    check_header_magic,
    check_header_slots,
    check_header_version,
    header_key,
    read_header,
    read_header_head,
    unseal_header,
)
from keyvisor_guest.wire.se_image import SeImage, check_measured
from keyvisor_guest.wire.se_pages import Component, ComponentKind
from keyvisor_policy import DocumentError, parse


@dataclass(frozen=True, slots=True)
class BootHeader:
    """An image's header, opened. `host_key_hash` (32 bytes) names the host key that opened it."""

    header: SeHeader
    host_key_hash: bytes
    secrets: HeaderSecrets = field(repr=False)

    def clear(self, component: Component) -> bytes:
        """The whole pages of a component in clear; only what was measured is worth it."""
        return SeImage(self.header, ()).clear(component, self.secrets.image_key)


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a measured image says to the firmware. `policy` is None where it carries none.

    `opens_after_lock`: nothing is bound before the secret store is locked (wire/guest_file.py).
    """

    policy: PolicyRow | None = field(repr=False)
    opens_after_lock: bool


def set_parameters(raw: bytes, host_keys: Sequence[ec.EllipticCurvePrivateKey]) -> BootHeader:
    """The header that `raw` is, opened with one of `host_keys`; each check with its code. Raises ImageRefused."""
    with _refusing(ImageCode.NO_HEADER):
        head = read_header_head(raw)
        check_header_magic(head)
    with _refusing(ImageCode.VERSION_UNSUPPORTED):
        check_header_version(head)
    with _refusing(ImageCode.HOST_KEYS_WRONG):
        check_header_slots(head)
    with _refusing(ImageCode.SIZE_WRONG):
        check_header_lengths(head, len(raw))
        header = read_header(raw)
    with _refusing(ImageCode.CANNOT_DECRYPT):
        try:
            secrets = unseal_header(header, header_key(header, host_keys))
        except Malformed:
            # The reason repeats what is encrypted in the header.
            raise ImageRefused(ImageCode.FLAG_UNKNOWN) from None
    return BootHeader(header, addressed_key(host_keys, header.slots), secrets)


def verify(boot: BootHeader, components: Sequence[Component]) -> BootFiles:
    """What the pages are, if every byte of them is as the header's owner had it. Raises ImageRefused.

    Measured first, all of them; the ramdisk is decrypted only then.
    """
    image = SeImage(boot.header, tuple(components))
    with _refusing(ImageCode.NOT_AS_MEASURED):
        check_measured(image)
    policy, guest_file = _files(image, boot.secrets.image_key)
    return BootFiles(
        None if policy is None else _readable(policy),
        guest_file is not None and _opens_after_lock(guest_file),
    )


def _files(image: SeImage, key: bytes) -> tuple[Entry | None, Entry | None]:
    """The policy and the guest's file in the ramdisk's file tree: what cannot be read is never taken for none."""
    with _refusing(ImageCode.NOT_AS_MEASURED):
        ramdisk = image.component(ComponentKind.RAMDISK, key)
    if ramdisk is None:
        return None, None
    try:
        entries = unpack(ramdisk) or ()
        return find_policy(entries), find_guest_file(entries)
    except WireError:
        # The reason names files of the encrypted ramdisk, and the host reads it.
        raise ImageRefused(ImageCode.RAMDISK_UNUSABLE) from None


def _opens_after_lock(found: Entry) -> bool:
    source = f"/{found.path}"
    try:
        return opens_after_lock(found.content, source)
    except DocumentError as error:
        raise ImageRefused(ImageCode.GUEST_FILE_UNUSABLE, findings=_places(source, error)) from None


def _places(source: str, error: DocumentError) -> list[str]:
    """Where, and not what: a finding repeats the text, which is encrypted in the image, and the host reads this."""
    return [f"{source}:{one.line}:{one.column}: not as it must be" for one in error.findings]


def _readable(found: Entry) -> PolicyRow:
    source = f"/{found.path}"
    if len(found.content) > MAX_POLICY:
        raise ImageRefused(ImageCode.POLICY_UNUSABLE, f"`{source}` has more than {MAX_POLICY} bytes")
    try:
        parse(found.content, source)
        return PolicyRow(source, found.content.decode(), measured=True)
    except DocumentError as error:
        raise ImageRefused(ImageCode.POLICY_UNUSABLE, findings=_places(source, error)) from None
    except UnicodeDecodeError:
        raise ImageRefused(ImageCode.POLICY_UNUSABLE, f"`{source}` is not UTF-8") from None


@contextmanager
def _refusing(code: ImageCode) -> Iterator[None]:
    """What the formats refuse inside is refused with this code."""
    try:
        yield
    except WireError as error:
        raise ImageRefused(code, str(error)) from error
