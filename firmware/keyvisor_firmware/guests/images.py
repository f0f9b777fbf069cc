"""The start of a guest from an image, as far as the image goes: its header opened, its pages measured, its policy taken.

The steps of formats, D.5, in order: set secure configuration parameters (header), unpack (components), verify
(measurement); then what is keyvisor's own, the ramdisk and the policy in it. Every refusal has its code, and tells the
host, who hears it, nothing of what is encrypted. Only what is needed is decrypted: measured are the pages as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.boot_secrets import BootSecrets
from keyvisor_firmware.guests.image_codes import ImageCode
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_guest.wire.asrcb_layout import CUID_LENGTH
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import Malformed, WireError
from keyvisor_guest.wire.guest_file import opens_after_lock
from keyvisor_guest.wire.initrd import Entry, find_guest_file, find_policy, unpack
from keyvisor_guest.wire.key_slots import addressed_key
from keyvisor_guest.wire.messages import MAX_POLICY
from keyvisor_guest.wire.se_header import (
    HeaderSecrets,
    SeHeader,
    check_header_lengths,
    check_header_slots,
    check_header_version,
    header_key,
    read_header,
    read_header_head,
    unseal_header,
)
from keyvisor_guest.wire.se_image import SeImage, check_measured, read_image
from keyvisor_guest.wire.se_image_layout import find_header
from keyvisor_guest.wire.se_pages import ComponentKind
from keyvisor_policy import DocumentError, parse

_ID_LENGTH = 16  # bytes


@dataclass(frozen=True, slots=True)
class BootImage:
    """What a guest starts with. `policy` is the one inside the image, None where it carries none.

    `host_key_hash` (32 bytes) names the host key that opened the header; `opens_after_lock`: nothing is bound before
    the secret store is locked (wire/guest_file.py).
    """

    identity: BootIdentity
    host_key_hash: bytes
    secrets: BootSecrets = field(repr=False)
    policy: PolicyRow | None = field(repr=False)
    opens_after_lock: bool

    def instance(self, name: str, started: str, randomness: Callable[[int], bytes]) -> Instance:
        """A new instance of this image, with ids that no other ever has. `randomness(n)` gives n random bytes."""
        return Instance(
            id=InstanceId(randomness(_ID_LENGTH).hex()),
            name=name,
            cuid=randomness(CUID_LENGTH),
            identity=self.identity,
            started=started,
            host_key_hash=self.host_key_hash,
            opens_after_lock=self.opens_after_lock,
        )


def open_image(data: bytes, host_keys: Sequence[ec.EllipticCurvePrivateKey]) -> BootImage:
    """The image, if every byte of it is as its owner built it for one of `host_keys`. Raises ImageRefused."""
    header, secrets = _set_parameters(data, host_keys)
    with _refusing(ImageCode.COMPONENTS_WRONG):
        image = read_image(data, header)
    with _refusing(ImageCode.NOT_AS_MEASURED):
        check_measured(image)
    policy, guest_file = _files(image, secrets.image_key)
    return BootImage(
        header.identity(),
        addressed_key(host_keys, header.slots),
        BootSecrets(secrets.cck, secrets.scf),
        None if policy is None else _readable(policy),
        guest_file is not None and _opens_after_lock(guest_file),
    )


def _set_parameters(
    data: bytes, host_keys: Sequence[ec.EllipticCurvePrivateKey]
) -> tuple[SeHeader, HeaderSecrets]:
    """The header's two parts, each check with its code."""
    with _refusing(ImageCode.NO_HEADER):
        raw = find_header(data)
        head = read_header_head(raw)
    with _refusing(ImageCode.VERSION_UNSUPPORTED):
        check_header_version(head)
    with _refusing(ImageCode.HOST_KEYS_WRONG):
        check_header_slots(head)
    with _refusing(ImageCode.SIZE_WRONG):
        check_header_lengths(head, len(raw))
        header = read_header(raw)
    with _refusing(ImageCode.CANNOT_DECRYPT):
        try:
            return header, unseal_header(header, header_key(header, host_keys))
        except Malformed:
            # The reason repeats what is encrypted in the header.
            raise ImageRefused(ImageCode.FLAG_UNKNOWN) from None


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
