"""The header of a Secure Execution image, version 1: read, checked, opened with a host key, and built (formats, E).

Pure: keys and everything random come in as arguments. Knows nothing of where in an image a header stands and what its
pages hold; the single checks stand one by one, so that a firmware can give each its own return code.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvisor_guest.wire.boot_identity import DIGEST_LENGTH, BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import CannotDecrypt, Malformed, Unbuildable
from keyvisor_guest.wire.key_slots import KEY_LENGTH, SLOT_LENGTH, KeySlot, unwrap_for, wrap_for
from keyvisor_guest.wire.p521 import POINT_LENGTH, encode_point
from keyvisor_guest.wire.secret_ids import CCK_LENGTH

__all__ = [
    "DEFAULT_PCF",
    "HEADER_IV_LENGTH",
    "HEADER_MAGIC",
    "IMAGE_KEY_LENGTH",
    "MAX_HEADER",
    "MAX_HEADER_SLOTS",
    "HeaderDraft",
    "HeaderHead",
    "HeaderKeys",
    "HeaderSecrets",
    "Measurement",
    "Pcf",
    "Scf",
    "SeHeader",
    "build_header",
    "check_header_lengths",
    "check_header_magic",
    "check_header_slots",
    "check_header_version",
    "check_scf",
    "header_key",
    "open_header",
    "parse_header",
    "read_header",
    "read_header_head",
    "seal_header",
    "unseal_header",
]

HEADER_MAGIC: Final = b"IBMSecEx"
HEADER_VERSION: Final = 0x100
MAX_HEADER: Final = 8192  # bytes
MAX_HEADER_SLOTS: Final = 95  # one more, and a header is longer than MAX_HEADER
HEADER_IV_LENGTH: Final = 12
IMAGE_KEY_LENGTH: Final = 64  # AES-256-XTS, both halves

_SLOTS_AT: Final = 0x1A0
_SEALED_LENGTH: Final = 128
_TAG_LENGTH: Final = 16
_OPTIONAL_ITEMS_LENGTH: Final = 4


class Pcf(enum.IntFlag):
    """Plaintext control flags: what the host may see or do. Bit n of the format is 1 << (63 - n)."""

    DUMP_ALLOWED = 1 << 29
    COMPONENTS_IN_CLEAR = 1 << 28
    PCKMO_DEA = 1 << 7
    PCKMO_AES = 1 << 6
    PCKMO_ECC = 1 << 5
    PCKMO_HMAC = 1 << 4
    BACKUP_KEY = 1 << 1


DEFAULT_PCF: Final = Pcf.PCKMO_DEA | Pcf.PCKMO_AES | Pcf.PCKMO_ECC


class Scf(enum.IntFlag):
    """Secret control flags, in the encrypted part: what requests may and must do."""

    EXTENSION_FROM_CCK = 1 << 62
    CCK_UPDATE_ALLOWED = 1 << 61


@dataclass(frozen=True, slots=True)
class Measurement:
    """How many pages an image has, and the digests over them, their addresses and their tweaks (64 bytes each)."""

    page_count: int
    pld: bytes
    ald: bytes
    tld: bytes


@dataclass(frozen=True, slots=True)
class HeaderHead:
    """The first 40h bytes: what the lengths of everything else follow from."""

    magic: bytes
    version: int
    total_length: int
    iv: bytes
    slot_count: int
    sealed_length: int
    page_count: int
    pcf: int


@dataclass(frozen=True, slots=True)
class HeaderSecrets:
    """What is encrypted: CCK (32 bytes), the pages' XTS key (64), the PSW that the guest starts at, and the SCF."""

    cck: bytes = field(repr=False)
    image_key: bytes = field(repr=False)
    psw_mask: int
    psw_address: int
    scf: int

    def encode(self) -> bytes:
        """The 128 bytes. Raises Unbuildable for keys of another length."""
        for what, key, length in (
            ("a customer communication key", self.cck, CCK_LENGTH),
            ("an image key", self.image_key, IMAGE_KEY_LENGTH),
        ):
            if len(key) != length:
                raise Unbuildable(f"{what} has {length} bytes, not {len(key)}")
        numbers = b"".join(value.to_bytes(8, "big") for value in (self.psw_mask, self.psw_address, self.scf))
        return self.cck + self.image_key + numbers + bytes(8)


@dataclass(frozen=True, slots=True)
class SeHeader:
    """A header as everybody can read it. `associated` are its bytes before the encrypted part `sealed`."""

    iv: bytes
    pcf: int
    customer_key: bytes
    measured: Measurement
    slots: tuple[KeySlot, ...]
    associated: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    tag: bytes

    def identity(self) -> BootIdentity:
        """What add-secret requests for this image carry: PLD, ALD, TLD and the tag."""
        return BootIdentity(self.measured.pld, self.measured.ald, self.measured.tld, self.tag)

    def encode(self) -> bytes:
        """The header, byte for byte as it was read."""
        return self.associated + self.sealed + self.tag


@dataclass(frozen=True, slots=True)
class HeaderDraft:
    """What a new header shall say."""

    measured: Measurement
    secrets: HeaderSecrets
    pcf: int = DEFAULT_PCF


@dataclass(frozen=True, slots=True)
class HeaderKeys:
    """What must be new for every header: customer key (P-521), header key (32 bytes) and IV (12 bytes)."""

    customer_key: ec.EllipticCurvePrivateKey = field(repr=False)
    header_key: bytes = field(repr=False)
    iv: bytes


def read_header_head(data: bytes) -> HeaderHead:
    """Read the first 40h bytes. Raises Truncated where they are not there; judges none of the values."""
    return _take_head(Cursor(data))


def check_header_magic(head: HeaderHead) -> None:
    """Raises Malformed for what is no image header."""
    if head.magic != HEADER_MAGIC:
        raise Malformed("not an image header: it does not begin with `IBMSecEx`")


def check_header_version(head: HeaderHead) -> None:
    """Raises Malformed for another version than 1."""
    if head.version != HEADER_VERSION:
        raise Malformed(f"header version {head.version:#x}, only {HEADER_VERSION:#x} is known")


def check_header_slots(head: HeaderHead) -> None:
    """Raises Malformed for no key slots, and for more than a header has room for."""
    if not 1 <= head.slot_count <= MAX_HEADER_SLOTS:
        raise Malformed(f"a header is for 1 to {MAX_HEADER_SLOTS} host keys, not {head.slot_count}")


def check_header_lengths(head: HeaderHead, available: int) -> None:
    """Raises Malformed where size, encrypted part and slots do not add up, or more than `available` bytes are said."""
    if head.total_length > MAX_HEADER:
        raise Malformed(f"a header has at most {MAX_HEADER} bytes, this one says {head.total_length}")
    if head.sealed_length != _SEALED_LENGTH:
        raise Malformed(f"the encrypted part has {head.sealed_length} bytes, not {_SEALED_LENGTH}")
    if head.total_length != _total_length(head.slot_count):
        raise Malformed(f"{head.slot_count} key slots and {head.total_length} bytes do not add up")
    if head.total_length > available:
        raise Malformed(f"the header says it has {head.total_length} bytes, {available} are there")


def check_scf(scf: int) -> None:
    """Raises Malformed for secret control flags that are not known, and for both at once: they contradict each other."""
    if unknown := scf & ~int(Scf.EXTENSION_FROM_CCK | Scf.CCK_UPDATE_ALLOWED):
        raise Malformed(f"unknown secret control flags {unknown:016x}")
    if scf & Scf.EXTENSION_FROM_CCK and scf & Scf.CCK_UPDATE_ALLOWED:
        raise Malformed(
            "an extension secret that must come from the customer communication key, and an update of that key, "
            "exclude each other"
        )


def read_header(data: bytes) -> SeHeader:
    """Read a whole header. Raises Malformed for lengths that do not add up, and where bytes are left over."""
    cursor = Cursor(data)
    head = _take_head(cursor)
    check_header_slots(head)
    check_header_lengths(head, len(data))
    customer_key = cursor.take(POINT_LENGTH)
    pld, ald, tld = (cursor.take(DIGEST_LENGTH) for _ in range(3))
    slots = tuple(KeySlot.read(cursor) for _ in range(head.slot_count))
    associated = data[: len(data) - cursor.left]
    sealed, tag = cursor.take(head.sealed_length), cursor.take(_TAG_LENGTH)
    cursor.end()
    if cursor.used_reserved:
        raise Malformed(f"the reserved field of the header at {cursor.used_reserved[0]:#x} is not zero")
    measured = Measurement(head.page_count, pld, ald, tld)
    return SeHeader(head.iv, head.pcf, customer_key, measured, slots, associated, sealed, tag)


def parse_header(data: bytes) -> SeHeader:
    """Read a header and hold it against everything that can be seen without a key. Raises Malformed."""
    head = read_header_head(data)
    check_header_magic(head)
    check_header_version(head)
    return read_header(data)


def header_key(header: SeHeader, host_keys: Sequence[ec.EllipticCurvePrivateKey]) -> bytes:
    """The header key, 32 bytes, from the first slot that is for one of `host_keys`. Raises CannotDecrypt."""
    return unwrap_for(host_keys, header.customer_key, header.slots)


def unseal_header(header: SeHeader, key: bytes) -> HeaderSecrets:
    """Decrypt with the header key (32 bytes). Raises CannotDecrypt unless every byte is as it was made.

    Raises Malformed for optional items, of which none is known, and for control flags that cannot be.
    """
    try:
        clear = AESGCM(key).decrypt(header.iv, header.sealed + header.tag, header.associated)
    except InvalidTag as error:
        raise CannotDecrypt("it is not as it was made") from error
    cursor = Cursor(clear)
    cck, image_key = cursor.take(CCK_LENGTH), cursor.take(IMAGE_KEY_LENGTH)
    secrets = HeaderSecrets(cck, image_key, cursor.number(8), cursor.number(8), cursor.number(8))
    if cursor.number(_OPTIONAL_ITEMS_LENGTH):
        raise Malformed("the header has optional items: none is known")
    cursor.reserved(4)
    cursor.end()
    if cursor.used_reserved:
        raise Malformed("the reserved field behind the header's optional items is not zero")
    check_scf(secrets.scf)
    return secrets


def open_header(
    data: bytes, host_keys: Sequence[ec.EllipticCurvePrivateKey]
) -> tuple[SeHeader, HeaderSecrets]:
    """Both parts of a header, for the holder of one of `host_keys`. Raises Malformed, CannotDecrypt."""
    header = parse_header(data)
    return header, unseal_header(header, header_key(header, host_keys))


def seal_header(associated: bytes, iv: bytes, key: bytes, secrets: HeaderSecrets) -> bytes:
    """The whole header of its public bytes: encrypted part and tag are appended. Raises Unbuildable."""
    return associated + AESGCM(key).encrypt(iv, secrets.encode(), associated)


def build_header(
    draft: HeaderDraft, fresh: HeaderKeys, host_keys: Sequence[ec.EllipticCurvePublicKey]
) -> bytes:
    """The header that any of `host_keys` (1 to 95, P-521) can open. Same arguments, same bytes.

    Raises Unbuildable for what the format cannot hold, HostKeyUnusable for another curve.
    """
    _check_draft(draft, fresh, len(host_keys))
    slots = wrap_for(host_keys, fresh.customer_key, fresh.header_key)
    measured = draft.measured
    associated = b"".join(
        (
            HEADER_MAGIC,
            HEADER_VERSION.to_bytes(4, "big"),
            _total_length(len(slots)).to_bytes(4, "big"),
            fresh.iv,
            bytes(4),
            len(slots).to_bytes(8, "big"),
            _SEALED_LENGTH.to_bytes(8, "big"),
            measured.page_count.to_bytes(8, "big"),
            int(draft.pcf).to_bytes(8, "big"),
            encode_point(fresh.customer_key.public_key()),
            measured.pld + measured.ald + measured.tld,
            *(slot.encode() for slot in slots),
        )
    )
    return seal_header(associated, fresh.iv, fresh.header_key, draft.secrets)


def _check_draft(draft: HeaderDraft, fresh: HeaderKeys, host_key_count: int) -> None:
    if not 1 <= host_key_count <= MAX_HEADER_SLOTS:
        raise Unbuildable(f"an image is for 1 to {MAX_HEADER_SLOTS} host keys, not {host_key_count}")
    if len(fresh.iv) != HEADER_IV_LENGTH or len(fresh.header_key) != KEY_LENGTH:
        raise Unbuildable(f"a header key has {KEY_LENGTH} bytes and its IV {HEADER_IV_LENGTH}")
    try:
        check_scf(draft.secrets.scf)
    except Malformed as error:
        raise Unbuildable(str(error)) from error


def _total_length(slot_count: int) -> int:
    return _SLOTS_AT + SLOT_LENGTH * slot_count + _SEALED_LENGTH + _TAG_LENGTH


def _take_head(cursor: Cursor) -> HeaderHead:
    magic, version, total_length = cursor.take(len(HEADER_MAGIC)), cursor.number(4), cursor.number(4)
    iv = cursor.take(HEADER_IV_LENGTH)
    cursor.reserved(4)
    numbers = (cursor.number(8) for _ in range(4))
    slot_count, sealed_length, page_count, pcf = numbers
    return HeaderHead(magic, version, total_length, iv, slot_count, sealed_length, page_count, pcf)
