"""User data of a request: 512 bytes for the guest's own code, which their owner can sign (formats, A.6).

The signature is over the whole request but the signature itself and the tag, so that it cannot be moved to
another request. The firmware looks at none of it: a guest verifies it before it hands a request over. What no
host key is needed for is all that is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA512

from keyvisor_guest.wire.asrcb import parse
from keyvisor_guest.wire.asrcb_layout import (
    NO_USER_DATA,
    USER_DATA_AT,
    USER_DATA_LENGTH,
    ControlBlock,
    UserData,
    UserDataKind,
)
from keyvisor_guest.wire.errors import Malformed, Unbuildable, UserDataUnverified
from keyvisor_guest.wire.key_files import key_title, read_private_key, read_public_key

__all__ = [
    "MAX_POLICY_PATH",
    "ROWS",
    "SigningKey",
    "UserDataRow",
    "carried",
    "policy_reference",
    "prepare",
    "read_signing_key",
    "sign",
    "unsigned",
    "verify",
]

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

POLICY_DIGEST_LENGTH: Final = 32
MAX_POLICY_PATH: Final = 479  # bytes of a policy's path: 512 without the digest and the NUL that ends it

_EC_LENGTH_AT: Final = 0x190  # u16: how long the DER signature is, which varies
_EC_LENGTH_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class UserDataRow:
    """One kind: what it is called, how many bytes it leaves for data, and how long a signature behind them is."""

    kind: UserDataKind
    title: str
    capacity: int
    max_signature: int


_ROWS: Final = (
    UserDataRow(UserDataKind.NONE, "none", 0, 0),
    UserDataRow(UserDataKind.UNSIGNED, "unsigned", 512, 0),
    UserDataRow(UserDataKind.EC_P521, "EC P-521", 256, 139),
    UserDataRow(UserDataKind.RSA_2048, "RSA-2048", 256, 256),
    UserDataRow(UserDataKind.RSA_3072, "RSA-3072", 128, 384),
)

ROWS: Final[Mapping[int, UserDataRow]] = MappingProxyType({row.kind: row for row in _ROWS})

_RSA_KINDS: Final = {2048: UserDataKind.RSA_2048, 3072: UserDataKind.RSA_3072}
_SIGNERS: Final = "EC P-521 (secp521r1), RSA-2048 or RSA-3072"


def read_signing_key(content: bytes) -> SigningKey:
    """The user's private key, from PEM or DER. Raises Unbuildable for no key, and for a kind that cannot sign."""
    try:
        key = read_private_key(content)
    except Malformed as error:
        raise Unbuildable(f"the user signing key: {error}") from error
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) and _kind(key.public_key()):
        return key
    raise Unbuildable(f"a user signing key is {_SIGNERS}, not {key_title(key)}: give another one")


def _kind(key: PublicKeyTypes) -> UserDataKind | None:
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA_KINDS.get(key.key_size)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP521R1):
        return UserDataKind.EC_P521
    return None


def prepare(data: bytes | None, key: SigningKey | None = None) -> UserData:
    """The user data that goes into a draft: `data` and zeros, with no signature yet; `key` says of which kind.

    With neither there is no user data; with a key alone it is empty, and signed. Raises Unbuildable for more
    bytes than there is room for (ROWS), and for a key that cannot sign.
    """
    if data is None and key is None:
        return NO_USER_DATA
    kind = UserDataKind.UNSIGNED if key is None else _kind(key.public_key())
    if kind is None:
        raise Unbuildable(f"user data is signed with {_SIGNERS}")
    row, data = ROWS[kind], data or b""
    if len(data) > row.capacity:
        signed = "without a signature" if key is None else f"signed with {row.title}"
        raise Unbuildable(f"user data {signed} has at most {row.capacity} bytes, not {len(data)}: shorten it")
    return UserData(kind, data.ljust(USER_DATA_LENGTH, b"\x00"))


def sign(prepared: UserData, message: bytes, key: SigningKey) -> UserData:
    """`prepared` with the signature over `message` in place: what the request builder calls.

    `message` is the request before its tag, in which `prepared` stands. ECDSA or PSS, with SHA-512; the PSS
    salt is as long as it can be, as pvsecret has it.
    """
    row = ROWS[prepared.kind]
    signature = _signature(key, message)
    area = bytearray(prepared.area)
    area[row.capacity : row.capacity + len(signature)] = signature
    if row.kind is UserDataKind.EC_P521:
        area[_EC_LENGTH_AT : _EC_LENGTH_AT + _EC_LENGTH_BYTES] = len(signature).to_bytes(
            _EC_LENGTH_BYTES, "big"
        )
    return UserData(prepared.kind, bytes(area))


def _signature(key: SigningKey, message: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(SHA512()))
    return key.sign(message, PSS(MGF1(SHA512()), PSS.MAX_LENGTH), SHA512())


def verify(request: bytes, user_key: bytes) -> bytes:
    """The user data, without the zeros that fill it up, of a request that the holder of `user_key` signed.

    `user_key` is a certificate or a public key, PEM or DER; of a certificate nothing but the key counts.
    Raises UserDataUnverified, and nothing else, for any other request: not one at all, without user data,
    unsigned, changed since, signed by another key or with another kind of key. The tag is not covered; only
    the firmware can check it.
    """
    block = _parsed(request)
    row = ROWS[block.public.user_data.kind]
    key = _verification_key(user_key)
    if row.kind is UserDataKind.NONE:
        raise UserDataUnverified("the request carries no user data: nobody signed it")
    if row.kind is UserDataKind.UNSIGNED:
        raise UserDataUnverified("the request's user data is not signed: anybody can have made it")
    if _kind(key) is not row.kind:
        raise UserDataUnverified(
            f"the user data is signed with {row.title}, the key given is {key_title(key)}: give the signer's"
        )
    signature, bare = _split(row, block.public.user_data.area)
    _check_signature(key, signature, _message(block, bare))
    return bare.rstrip(b"\x00")


def carried(request: bytes) -> UserDataKind:
    """Which kind of user data the request says it carries. Raises UserDataUnverified for what is no request."""
    return UserDataKind(_parsed(request).public.user_data.kind)


def unsigned(request: bytes) -> bytes:
    """The user data of kind 1, without the zeros that fill it up. Nobody vouches for it.

    Raises UserDataUnverified for a request with none, or with user data that is signed and so to be verified.
    """
    user_data = _parsed(request).public.user_data
    if user_data.kind == UserDataKind.NONE:
        raise UserDataUnverified("the request carries no user data")
    if user_data.kind != UserDataKind.UNSIGNED:
        raise UserDataUnverified(
            f"the user data is signed with {ROWS[user_data.kind].title}: give the signer's certificate"
        )
    return user_data.area.rstrip(b"\x00")


def _parsed(request: bytes) -> ControlBlock:
    try:
        return parse(request)
    except Malformed as error:
        raise UserDataUnverified(f"not an add-secret request that could be taken: {error}") from error


def _verification_key(user_key: bytes) -> PublicKeyTypes:
    try:
        return read_public_key(user_key)
    except Malformed as error:
        raise UserDataUnverified(f"the user's key: {error}") from error


def _split(row: UserDataRow, area: bytes) -> tuple[bytes, bytes]:
    """The signature, and the area without it. What else is behind the data must be zero."""
    length = row.max_signature
    bare = bytearray(area)
    if row.kind is UserDataKind.EC_P521:
        length_field = slice(_EC_LENGTH_AT, _EC_LENGTH_AT + _EC_LENGTH_BYTES)
        length = int.from_bytes(area[length_field], "big")
        bare[length_field] = bytes(_EC_LENGTH_BYTES)
    if not 1 <= length <= row.max_signature:
        raise UserDataUnverified(f"a signature of {length} bytes: {row.title} has 1 to {row.max_signature}")
    signature = area[row.capacity : row.capacity + length]
    bare[row.capacity : row.capacity + length] = bytes(length)
    if any(bare[row.capacity :]):
        raise UserDataUnverified("the user data has bytes behind its signature")
    return signature, bytes(bare)


def _message(block: ControlBlock, area: bytes) -> bytes:
    """What was signed: the bytes as they were received, with `area` for the user data, up to the tag."""
    before, behind = block.associated[:USER_DATA_AT], block.associated[USER_DATA_AT + USER_DATA_LENGTH :]
    return before + area + behind + block.sealed


def _check_signature(key: PublicKeyTypes, signature: bytes, message: bytes) -> None:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(SHA512()))
        elif isinstance(key, rsa.RSAPublicKey):
            # Any length of the salt is taken, as pvsecret does: it varies with the library that signed.
            key.verify(signature, message, PSS(MGF1(SHA512()), PSS.AUTO), SHA512())
        else:
            raise UserDataUnverified(f"a key of the kind {key_title(key)} signs no user data")
    except InvalidSignature as error:
        raise UserDataUnverified(
            "the signature does not hold: another key made it, or the request was changed since"
        ) from error


def policy_reference(digest: bytes, path: str) -> bytes:
    """Unsigned user data that names a policy: SHA-256 of its file (32 bytes), then its path.

    A path of more than 479 bytes is cut there, so that a NUL ends it. Raises Unbuildable for another digest,
    and for a path that is empty or has a NUL.
    """
    if len(digest) != POLICY_DIGEST_LENGTH:
        raise Unbuildable(f"a policy's digest is SHA-256, {POLICY_DIGEST_LENGTH} bytes, not {len(digest)}")
    encoded = path.encode("utf-8", "surrogateescape")
    if not encoded or b"\x00" in encoded:
        raise Unbuildable("a policy's path is not empty and has no NUL: give another one")
    return digest + encoded[:MAX_POLICY_PATH] + b"\x00"
