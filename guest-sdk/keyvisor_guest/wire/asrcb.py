"""Add-secret requests: parsed in full, opened with a host key or a request key, and built.

Pure: keys and everything random come in as arguments (formats, A.1 and A.2). Knows nothing of guests and stores;
the fields are in `asrcb_layout`, the single checks in `asrcb_checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvisor_guest.wire.asrcb_checks import (
    check_flags,
    check_reserved,
    check_secret_length,
    check_slot_count,
    check_version,
)
from keyvisor_guest.wire.asrcb_layout import (
    ANY_INSTANCE,
    CUID_LENGTH,
    IV_LENGTH,
    NO_USER_DATA,
    TAG_LENGTH,
    ControlBlock,
    PublicPart,
    SecretHeader,
    UserData,
    check_lengths,
    check_transport,
    read_block,
    read_head,
)
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import CannotDecrypt, Unbuildable
from keyvisor_guest.wire.key_slots import unwrap_for, wrap_for
from keyvisor_guest.wire.p521 import encode_point
from keyvisor_guest.wire.secret_ids import EXTENSION_LENGTH, ID_LENGTH, NO_EXTENSION, SecretId
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

__all__ = [
    "Contents",
    "Draft",
    "FreshKeys",
    "UserDataSigner",
    "build",
    "open_request",
    "parse",
    "request_key",
    "seal",
    "unseal",
]


# Takes what a user signs of a request, and gives the request's user data with the signature in place.
UserDataSigner = Callable[[bytes], UserData]


@dataclass(frozen=True, slots=True)
class Contents:
    """What is encrypted: the secret (empty for a null request) and the extension secret (32 bytes)."""

    secret: bytes = field(repr=False)
    extension_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a request shall say. `cuid` of 16 zero bytes: any instance. `flags` is the u64 of the format."""

    kind: SecretKind
    identity: BootIdentity
    secret_id: SecretId | None = None
    secret: bytes = field(default=b"", repr=False)
    extension_secret: bytes = field(default=NO_EXTENSION, repr=False)
    cuid: bytes = ANY_INSTANCE
    flags: int = 0
    user_data: UserData = NO_USER_DATA


@dataclass(frozen=True, slots=True)
class FreshKeys:
    """What must be random and new in every request: P-521 customer key, request key (32 bytes), IV (12 bytes).

    The key slots are wrapped under a fixed IV: the same customer key twice breaks both requests (formats, A.2).
    """

    customer_key: ec.EllipticCurvePrivateKey = field(repr=False)
    request_key: bytes = field(repr=False)
    iv: bytes


def parse(data: bytes) -> ControlBlock:
    """Read a request and hold it against everything that can be seen without a key. Raises Malformed.

    The checks come in the order of formats, B.2.
    """
    check_transport(data)
    head = read_head(data)
    check_version(head)
    check_slot_count(head)
    check_lengths(head, len(data))
    block = read_block(data)
    check_flags(block.public)
    check_secret_length(block)
    check_reserved(block)
    return block


def request_key(block: ControlBlock, host_keys: Sequence[ec.EllipticCurvePrivateKey]) -> bytes:
    """The request protection key, 32 bytes, from the first slot that is for one of `host_keys`. Raises CannotDecrypt."""
    return unwrap_for(host_keys, block.public.customer_key, block.public.slots)


def unseal(block: ControlBlock, key: bytes) -> Contents:
    """Decrypt with the request protection key (32 bytes). Raises CannotDecrypt unless every byte is as it was made."""
    try:
        clear = AESGCM(key).decrypt(block.public.iv, block.sealed + block.tag, block.associated)
    except InvalidTag as error:
        raise CannotDecrypt("the request is not as it was made") from error
    # The extension secret stands last; `check_lengths` leaves room for it.
    return Contents(clear[:-EXTENSION_LENGTH], clear[-EXTENSION_LENGTH:])


def open_request(block: ControlBlock, host_keys: Sequence[ec.EllipticCurvePrivateKey]) -> Contents:
    """What is encrypted, for the holder of one of `host_keys`. Raises CannotDecrypt."""
    return unseal(block, request_key(block, host_keys))


def seal(public: PublicPart, key: bytes, contents: Contents) -> bytes:
    """The whole request: public part, encrypted contents, tag. Raises Unbuildable where lengths do not agree."""
    if len(contents.secret) != public.secret.length or len(contents.extension_secret) != EXTENSION_LENGTH:
        raise Unbuildable("the secrets have not the lengths that the request announces")
    associated = public.encode()
    return associated + AESGCM(key).encrypt(
        public.iv, contents.secret + contents.extension_secret, associated
    )


def build(
    draft: Draft,
    fresh: FreshKeys,
    host_keys: Sequence[ec.EllipticCurvePublicKey],
    sign_user_data: UserDataSigner | None = None,
) -> bytes:
    """The bytes of a request that any of `host_keys` (1 to 255, P-521) can open. Same arguments, same bytes.

    `sign_user_data` is called with the request's bytes before its tag, in which `draft.user_data` stands with
    no signature yet, and gives what takes its place (formats, A.6). Signatures are random, such requests differ.
    Raises Unbuildable for a draft that the format cannot hold, HostKeyUnusable for another curve.
    """
    _check_draft(draft)
    _check_length("the IV", fresh.iv, IV_LENGTH)
    public = PublicPart(
        iv=fresh.iv,
        user_data=draft.user_data,
        flags=draft.flags,
        identity=draft.identity,
        cuid=draft.cuid,
        customer_key=encode_point(fresh.customer_key.public_key()),
        slots=wrap_for(host_keys, fresh.customer_key, fresh.request_key),
        secret=SecretHeader(draft.kind, len(draft.secret), draft.secret_id),
    )
    contents = Contents(draft.secret, draft.extension_secret)
    request = seal(public, fresh.request_key, contents)
    if sign_user_data is None:
        return request
    # Sealed a second time under one key and IV: safe because the first tag goes nowhere, and the ciphertext,
    # which does not depend on the associated data, is the same.
    signed = replace(public, user_data=sign_user_data(request[:-TAG_LENGTH]))
    return seal(signed, fresh.request_key, contents)


def _check_draft(draft: Draft) -> None:
    row = KINDS[draft.kind]
    if len(draft.secret) not in row.lengths:
        raise Unbuildable(f"a secret of type {row.title} has {row.lengths_text}, not {len(draft.secret)}")
    if (draft.secret_id is not None) != row.has_id:
        raise Unbuildable(f"a secret of type {row.title} has {'an' if row.has_id else 'no'} id")
    if draft.secret_id is not None:
        _check_length("a secret id", draft.secret_id, ID_LENGTH)
    _check_length("the extension secret", draft.extension_secret, EXTENSION_LENGTH)
    _check_length("the CUID", draft.cuid, CUID_LENGTH)


def _check_length(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise Unbuildable(f"{what} has {length} bytes, not {len(value)}")
