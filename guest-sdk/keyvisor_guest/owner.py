"""What a guest's owner makes, on a machine of their own: add-secret requests for one image, and its boot identity.

Draws the random values that requests need; the format itself is `keyvisor_guest.wire.asrcb`. Talks to no host:
what it makes is handed over as files.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.arcb import (
    MEASUREMENT_KEY_LENGTH,
    NONCE_LENGTH,
    AddData,
    AttestationContents,
    additional_length,
)
from keyvisor_guest.wire.arcb import build as build_attestation
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.asrcb_layout import ANY_INSTANCE, FLAG_BITS, IV_LENGTH, Flag
from keyvisor_guest.wire.attestation_file import CUID_LENGTH, MEASUREMENT_LENGTH, AttestationFile
from keyvisor_guest.wire.boot_identity import BootIdentity, measure
from keyvisor_guest.wire.errors import HostKeyUnusable, Unbuildable
from keyvisor_guest.wire.host_key_documents import MAX_DOCUMENT, unverified_host_key
from keyvisor_guest.wire.key_slots import KEY_LENGTH
from keyvisor_guest.wire.p521 import public_key_hash, require_p521
from keyvisor_guest.wire.secret_ids import (
    NO_EXTENSION,
    SecretId,
    derive_extension_secret,
    id_from_name,
    name_as_id,
)
from keyvisor_guest.wire.secret_kinds import SecretKind

__all__ = ["AttestationRequest", "BootIdentity", "HostKey", "Owner", "Request", "measure"]

ASSOCIATION_LENGTH: Final = 32

# A public key, the bytes of a host-key document (PEM or DER), or the path of one.
HostKey = ec.EllipticCurvePublicKey | bytes | str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to be handed over: `data` are its bytes. Name and id are None for a meta request."""

    data: bytes = field(repr=False)
    secret_name: str | None = None
    secret_id: SecretId | None = None
    _secret: bytes | None = field(default=None, repr=False)

    def reveal_secret(self) -> bytes:
        """The secret in clear: to make requests with the same one for other guests. Raises Unbuildable for none."""
        if self._secret is None:
            raise Unbuildable("a meta request has no secret")
        return self._secret


@dataclass(frozen=True, slots=True)
class AttestationRequest:
    """A request that is ready to be handed over, and the key (32 bytes) that its answer is verified with."""

    data: bytes = field(repr=False)
    key: bytes = field(repr=False)


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
        cuid: bytes | None = None,
        secret: bytes | None = None,
        extension_secret: bytes | None = None,
        cck: bytes | None = None,
        use_name: bool = False,
        flags: Iterable[Flag | str] = (),
    ) -> Request:
        """A request that adds an association secret, for guests started from the image with `identity`.

        The id is SHA-256(name), with `use_name` the first 31 bytes of the name itself. `secret` is 32 bytes,
        random where it is None. `cuid` (16 bytes) binds the request to one instance, None to any. The extension
        secret is given (32 bytes), derived from a customer communication key (`cck`, 32 bytes), or 32 zero bytes.
        Raises Unbuildable. (formats, A.1 to A.5)
        """
        value = secrets.token_bytes(ASSOCIATION_LENGTH) if secret is None else secret
        secret_id = name_as_id(name) if use_name else id_from_name(name)
        draft = Draft(
            SecretKind.ASSOCIATION,
            identity,
            secret_id,
            value,
            _extension_secret(identity, extension_secret, cck),
            _cuid(cuid),
            _flag_bits(flags),
        )
        return Request(self._build(draft), name, secret_id, value)

    def meta_request(
        self,
        identity: BootIdentity,
        *,
        cuid: bytes | None = None,
        extension_secret: bytes | None = None,
        cck: bytes | None = None,
        flags: Iterable[Flag | str] = (),
    ) -> Request:
        """A request that adds no secret: it fixes the extension secret and sets flags. Raises Unbuildable."""
        draft = Draft(
            SecretKind.NULL,
            identity,
            extension_secret=_extension_secret(identity, extension_secret, cck),
            cuid=_cuid(cuid),
            flags=_flag_bits(flags),
        )
        return Request(self._build(draft))

    def attestation_request(self, add_data: Iterable[AddData | str] = ()) -> AttestationRequest:
        """A request, in the file that `keyvisor guest attest` takes, to have a guest measured.

        `add_data` is what shall be measured besides (formats, C.6). It always has a nonce. Raises Unbuildable.
        """
        asked = _additions(add_data)
        fresh = _fresh_keys()
        contents = AttestationContents(
            secrets.token_bytes(MEASUREMENT_KEY_LENGTH), secrets.token_bytes(NONCE_LENGTH)
        )
        expected = {
            "measurement": MEASUREMENT_LENGTH,
            "additional": additional_length(asked),
            "cuid": CUID_LENGTH,
        }
        request = build_attestation(contents, asked, fresh, self._host_keys)
        return AttestationRequest(AttestationFile(request, expected=expected).encode(), fresh.request_key)

    def _build(self, draft: Draft) -> bytes:
        return build(draft, _fresh_keys(), self._host_keys)


def _fresh_keys() -> FreshKeys:
    return FreshKeys(
        ec.generate_private_key(ec.SECP521R1()),
        secrets.token_bytes(KEY_LENGTH),
        secrets.token_bytes(IV_LENGTH),
    )


def _additions(names: Iterable[AddData | str]) -> tuple[AddData, ...]:
    """In the order of the additional data, each once."""
    given = list(names)
    for name in given:
        if name not in list(AddData):
            raise Unbuildable(
                f"`{name}` is nothing that can be measured: there is {', '.join(f'`{one}`' for one in AddData)}"
            )
    return tuple(one for one in AddData if one in given)


def _public_key(source: HostKey) -> ec.EllipticCurvePublicKey:
    if isinstance(source, ec.EllipticCurvePublicKey):
        require_p521(source)
        return source
    if isinstance(source, bytes):
        return unverified_host_key(source)
    with Path(source).open("rb") as file:
        document = file.read(MAX_DOCUMENT + 1)
    try:
        return unverified_host_key(document)
    except HostKeyUnusable as error:
        raise HostKeyUnusable(f"`{Path(source)}`: {error}") from error


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
