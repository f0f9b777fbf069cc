"""What a guest's owner makes, on a machine of their own: add-secret requests for one image, and its boot identity.

Draws the random values that requests need; the format itself is `keyvisor_guest.wire.asrcb`. Talks to no host:
what it makes is handed over as files.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Final, TypedDict, Unpack

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.asrcb_layout import ANY_INSTANCE, FLAG_BITS, IV_LENGTH, TAG_LENGTH, Flag
from keyvisor_guest.wire.boot_identity import BootIdentity, measure
from keyvisor_guest.wire.errors import HostKeyUnusable, Unbuildable
from keyvisor_guest.wire.host_key_documents import MAX_DOCUMENT, unverified_host_key
from keyvisor_guest.wire.key_files import MAX_KEY_FILE
from keyvisor_guest.wire.key_slots import KEY_LENGTH
from keyvisor_guest.wire.p521 import public_key_hash, require_p521
from keyvisor_guest.wire.secret_ids import (
    ID_LENGTH,
    NO_EXTENSION,
    SecretId,
    derive_extension_secret,
    id_from_name,
    name_as_id,
)
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_guest.wire.secret_values import SecretType, encode
from keyvisor_guest.wire.user_data import SigningKey, prepare, read_signing_key, sign

__all__ = [
    "BootIdentity",
    "HostKey",
    "Owner",
    "Request",
    "RequestOptions",
    "SecretType",
    "UserKey",
    "measure",
]

ASSOCIATION_LENGTH: Final = 32

# A public key, the bytes of a host-key document (PEM or DER), or the path of one.
HostKey = ec.EllipticCurvePublicKey | bytes | str | PathLike[str]

# A private key, the bytes of a key file (PEM or DER), or the path of one.
UserKey = SigningKey | bytes | str | PathLike[str]


class RequestOptions(TypedDict, total=False):
    """What every request can have besides its secret; each can be left out, or be None.

    cuid: 16 bytes, binds the request to one instance; any instance without it.
    extension_secret, cck: the extension secret given (32 bytes), or derived from a customer communication key
        (32 bytes); 32 zero bytes without either.
    flags: `disable-dump`.
    user_data: up to 512 bytes for the guest's own code, 256 or 128 where they are signed (formats, A.6).
    user_signing_key: EC P-521, RSA-2048 or RSA-3072; signs the user data together with the request.
    """

    cuid: bytes | None
    extension_secret: bytes | None
    cck: bytes | None
    flags: Iterable[Flag | str]
    user_data: bytes | None
    user_signing_key: UserKey | None


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to be handed over: `data` are its bytes. Only a secret that is listed has name and id."""

    data: bytes = field(repr=False)
    kind: SecretKind = SecretKind.NULL
    secret_name: str | None = None
    secret_id: SecretId | None = None
    _secret: bytes | None = field(default=None, repr=False)

    @property
    def tag(self) -> bytes:
        """The request tag, 16 bytes: what lists of expected requests and the secret-store hash are made of."""
        return self.data[-TAG_LENGTH:]

    def reveal_secret(self) -> bytes:
        """The secret in clear, as the format has it: to make requests with the same one for other guests.

        Raises Unbuildable for a meta request.
        """
        if self._secret is None:
            raise Unbuildable("a meta request has no secret")
        return self._secret


class Owner:
    """Makes requests that the firmware of each of `host_keys` can read, and nobody else.

    Who holds these keys is not checked here: take documents whose origin is known. Every request has keys of
    its own, so that two requests with equal content differ.
    """

    def __init__(self, host_keys: Iterable[HostKey]) -> None:
        """Raises HostKeyUnusable for what is no P-521 key or host-key document, OSError for a file that cannot be read."""
        self._host_keys = tuple(_public_key(key) for key in host_keys)

    @property
    def host_key_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each host key (32 bytes), to be compared with what the operator of the host says."""
        return tuple(public_key_hash(key) for key in self._host_keys)

    def association_request(
        self,
        name: str,
        identity: BootIdentity,
        *,
        secret: bytes | None = None,
        use_name: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Request:
        """A request that adds an association secret, for guests started from the image with `identity`.

        The id is SHA-256(name), with `use_name` the first 31 bytes of the name itself. `secret` is 32 bytes,
        random where it is None. Raises Unbuildable. (formats, A.1 to A.5)
        """
        value = secrets.token_bytes(ASSOCIATION_LENGTH) if secret is None else secret
        secret_id = name_as_id(name) if use_name else id_from_name(name)
        return self._request(SecretKind.ASSOCIATION, identity, secret_id, value, options, name)

    def retrievable_request(
        self,
        name: str,
        identity: BootIdentity,
        secret: bytes,
        secret_type: SecretType | str,
        *,
        use_name: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Request:
        """A request that adds a secret which the guest gets back: plaintext as it is, a key as a protected key.

        `secret` is a file's content: up to 8190 bytes (`plain`), a raw key (`aes`, `aes-xts`, `hmac-sha`), or a
        private key in PEM or DER (`ec`, which Ed25519 and Ed448 are as well). Name and id as in
        `association_request`. Raises Unbuildable. (formats, A.3)
        """
        value = encode(_secret_type(secret_type), secret)
        secret_id = name_as_id(name) if use_name else id_from_name(name)
        return self._request(value.kind, identity, secret_id, value.secret, options, name)

    def meta_request(self, identity: BootIdentity, **options: Unpack[RequestOptions]) -> Request:
        """A request that adds no secret: it fixes the extension secret and sets flags. Raises Unbuildable."""
        return self._request(SecretKind.NULL, identity, None, None, options)

    def update_cck_request(
        self, identity: BootIdentity, new_cck: bytes, **options: Unpack[RequestOptions]
    ) -> Request:
        """A request that replaces the instance's customer communication key by `new_cck`, 32 bytes.

        Only an image whose secret control flags allow it takes one. `cck` among the options is the key that is
        replaced, where the extension secret is derived from it. Raises Unbuildable. (formats, A.3 and B.3)
        """
        no_id = SecretId(bytes(ID_LENGTH))
        made = self._request(SecretKind.UPDATE_CCK, identity, no_id, new_cck, options)
        return replace(made, secret_id=None)

    def _request(
        self,
        kind: SecretKind,
        identity: BootIdentity,
        secret_id: SecretId | None,
        secret: bytes | None,
        options: RequestOptions,
        name: str | None = None,
    ) -> Request:
        key = _signing_key(options.get("user_signing_key"))
        draft = Draft(
            kind,
            identity,
            secret_id,
            secret or b"",
            _extension_secret(identity, options.get("extension_secret"), options.get("cck")),
            _cuid(options.get("cuid")),
            _flag_bits(options.get("flags", ())),
            prepare(options.get("user_data"), key),
        )
        return Request(self._build(draft, key), kind, name, secret_id, secret)

    def _build(self, draft: Draft, key: SigningKey | None) -> bytes:
        fresh = FreshKeys(
            ec.generate_private_key(ec.SECP521R1()),
            secrets.token_bytes(KEY_LENGTH),
            secrets.token_bytes(IV_LENGTH),
        )
        signer = None if key is None else partial(sign, draft.user_data, key=key)
        return build(draft, fresh, self._host_keys, signer)


def _public_key(source: HostKey) -> ec.EllipticCurvePublicKey:
    if isinstance(source, ec.EllipticCurvePublicKey):
        require_p521(source)
        return source
    if isinstance(source, bytes):
        return unverified_host_key(source)
    try:
        return unverified_host_key(_read(source, MAX_DOCUMENT))
    except HostKeyUnusable as error:
        raise HostKeyUnusable(f"`{Path(source)}`: {error}") from error


def _signing_key(source: UserKey | None) -> SigningKey | None:
    if source is None or isinstance(source, SigningKey):
        return source
    if isinstance(source, bytes):
        return read_signing_key(source)
    try:
        return read_signing_key(_read(source, MAX_KEY_FILE))
    except Unbuildable as error:
        raise Unbuildable(f"`{Path(source)}`: {error}") from error


def _read(path: str | PathLike[str], limit: int) -> bytes:
    """The file's content; of a longer one a byte more than `limit`, which is then refused for its length."""
    with Path(path).open("rb") as file:
        return file.read(limit + 1)


def _secret_type(secret_type: SecretType | str) -> SecretType:
    try:
        return SecretType(secret_type)
    except ValueError as error:
        known = ", ".join(f"`{one}`" for one in SecretType)
        raise Unbuildable(f"unknown type of secret `{secret_type}`: there is {known}") from error


def _extension_secret(identity: BootIdentity, given: bytes | None, cck: bytes | None) -> bytes:
    if given is not None and cck is not None:
        raise Unbuildable(
            "an extension secret is given or derived from a customer communication key, not both"
        )
    if cck is not None:
        return derive_extension_secret(cck, identity.header_tag)
    return NO_EXTENSION if given is None else given


def _cuid(cuid: bytes | None) -> bytes:
    if cuid == ANY_INSTANCE:
        raise Unbuildable("a CUID of zeros binds to no instance: leave it out if that is meant")
    return ANY_INSTANCE if cuid is None else cuid


def _flag_bits(flags: Iterable[Flag | str]) -> int:
    bits = 0
    for flag in flags:
        try:
            bits |= FLAG_BITS[Flag(flag)]
        except ValueError as error:
            raise Unbuildable(
                f"unknown flag `{flag}`: there is {', '.join(f'`{known}`' for known in Flag)}"
            ) from error
    return bits
