"""A guest's secrets: what goes into its store, and what comes back in the form that its owner chose.

A key comes back protected: it signs and decrypts through the firmware, and its bytes are never here. Knows the door's
messages; whether something may be done is the firmware's to say.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from keyvisor_guest.errors import DoorBroken, SdkError
from keyvisor_guest.http import Door
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.messages import MAX_KEY_DATA, MAX_REQUEST, Done, ProtectedKeyParameters
from keyvisor_guest.wire.retrieved_secrets import payload_of, pem_document, protected_key_of
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

__all__ = ["ProtectedKey", "Retrieved", "Secrets"]

Hash = Literal["SHA-256", "SHA-384", "SHA-512"]
Mode = Literal["GCM", "CBC", "CTR", "XTS"]
Operation = Literal["encrypt", "decrypt", "sign", "verify", "public-key"]


class ProtectedKey:
    """A key that the firmware keeps: every method is one call through the guest's door, with at most 1 MiB of data.

    Raises Refused with kind `key`: 04 the key's kind does not do this, 05 parameters, 06 data, 07 a signature or a
    ciphertext that is not authentic; 02 a key of another guest or of an earlier start.
    """

    def __init__(self, door: Door, kind: SecretKind, blob: bytes) -> None:
        self.kind = kind
        self._door = door
        self._blob = blob

    def __repr__(self) -> str:
        return f"<ProtectedKey: {KINDS[self.kind].title}>"

    def sign(self, data: bytes, *, hash: Hash | None = None, digest: bool = False) -> bytes:  # noqa: A002  # its name
        """HMAC (the whole code), ECDSA (DER) or EdDSA over `data`.

        ECDSA hashes with the curve's own hash or with `hash`; with `digest` the data is the digest already.
        """
        return self._use("sign", data, ProtectedKeyParameters(hash=hash, digest=digest))

    def verify(
        self,
        data: bytes,
        signature: bytes,
        *,
        hash: Hash | None = None,  # noqa: A002  # its name
        digest: bool = False,
    ) -> None:
        """Raises Refused (07) where the signature is not this key's over `data`."""
        parameters = ProtectedKeyParameters(hash=hash, digest=digest, signature=_base64(signature))
        self._use("verify", data, parameters)

    def encrypt(
        self, data: bytes, *, iv: bytes, mode: Mode | None = None, associated: bytes | None = None
    ) -> bytes:
        """AES in GCM (the tag stands behind the ciphertext), CBC (whole blocks) or CTR; an AES-XTS key needs no mode.

        `iv`: 12 bytes for GCM, 16 for CBC, CTR (the first counter block) and XTS (the tweak). The same one twice breaks
        GCM and CTR: choose each anew.
        """
        return self._use("encrypt", data, _cipher(mode, iv, associated))

    def decrypt(
        self, data: bytes, *, iv: bytes, mode: Mode | None = None, associated: bytes | None = None
    ) -> bytes:
        """What `encrypt` was given, for the same parameters."""
        return self._use("decrypt", data, _cipher(mode, iv, associated))

    def public_key(self) -> PublicKey:
        """The public key of an EC, Ed25519 or Ed448 key, as `cryptography` has it."""
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        found = self._use("public-key", b"", ProtectedKeyParameters())
        return cast("PublicKey", load_der_public_key(found))

    def _use(self, operation: Operation, data: bytes, parameters: ProtectedKeyParameters) -> bytes:
        if len(data) > MAX_KEY_DATA:
            raise SdkError(f"one use of a protected key takes at most {MAX_KEY_DATA} bytes, not {len(data)}")
        body = messages.UseProtectedKey(
            blob=base64.b64encode(self._blob),
            kind=int(self.kind),
            operation=operation,
            data=base64.b64encode(data),
            parameters=parameters,
        )
        return self._door.call("use_protected_key", messages.UsedProtectedKey, body).data


def _cipher(mode: Mode | None, iv: bytes, associated: bytes | None) -> ProtectedKeyParameters:
    return ProtectedKeyParameters(
        mode=mode, iv=_base64(iv), associated=None if associated is None else _base64(associated)
    )


def _base64(value: bytes) -> bytes:
    return base64.b64encode(value)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A secret that came back: a plaintext secret in clear, a key protected."""

    kind: SecretKind
    id: bytes
    index: int
    value: bytes = field(repr=False)
    """As it was handed out: length, payload and padding of a plaintext secret; a protected key."""
    _door: Door = field(repr=False, compare=False)

    def plaintext(self) -> bytes:
        """The payload of a plaintext secret. Raises SdkError for a key."""
        if KINDS[self.kind].is_key:
            raise SdkError(f"secret {self.index} is {_a(self.kind)}: it is used with `key()`, and never read")
        return payload_of(self.value)

    @property
    def protected(self) -> bytes:
        """The protected key. Raises SdkError for a plaintext secret."""
        if not KINDS[self.kind].is_key:
            raise SdkError(f"secret {self.index} is {_a(self.kind)}: it is read with `plaintext()`")
        return self.value

    def pem(self) -> bytes:
        """The document that `keyvisor guest secret retrieve --outform pem` writes: of a payload, or a protected key."""
        content = self.value if KINDS[self.kind].is_key else payload_of(self.value)
        return pem_document(self.kind, content).encode("ascii")

    def key(self) -> ProtectedKey:
        """The key, to be used through the firmware. Raises SdkError for a plaintext secret."""
        return ProtectedKey(self._door, self.kind, self.protected)


class Secrets:
    """The secret store of one guest. An association secret goes in and never comes out."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def add(self, request: bytes) -> None:
        """Hand an add-secret request to the firmware. Raises Refused with the ultravisor's code (formats, B.1)."""
        if len(request) > MAX_REQUEST:
            raise SdkError(f"an add-secret request has at most {MAX_REQUEST} bytes, not {len(request)}")
        self._door.call("add_secret", Done, messages.AddSecret(request=base64.b64encode(request)))

    def list(self) -> Sequence[messages.Secret]:
        """The entries of the store, without their values."""
        return self.contents().secrets

    def contents(self) -> messages.SecretList:
        """The entries and the lock, as they are at one moment."""
        return self._door.call("list_secrets", messages.SecretList)

    @property
    def locked(self) -> bool:
        """Whether the store takes no more secrets until the guest stops."""
        return self.contents().locked

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that no secret in the store has. Raises SdkError for what is no name."""
        wanted = {name: _ids(name) for name in names}
        there = {entry.id for entry in self.list()} if wanted else set()
        return tuple(name for name, ids in wanted.items() if not any(one.hex() in there for one in ids))

    def lock(self) -> None:
        """Lock the store until the guest stops."""
        self._door.call("lock_secrets", Done)

    def retrieve(self, which: str | bytes | int) -> Retrieved:
        """A secret by its name, its id (32 bytes) or its index.

        A name is looked for as its SHA-256 and then as an id by itself (`--use-name`); of several secrets with one id
        the first that can be retrieved is taken. Raises SdkError where there is none, Refused (010f the store is
        empty, 0110 no such index, 0111 an association secret).
        """
        index = which if isinstance(which, int) else self._index_of(which)
        found = self._door.call("retrieve_secret", messages.RetrievedSecret, index=str(index))
        try:
            kind = SecretKind(found.type)
        except ValueError:
            raise DoorBroken(
                f"secret {index} is of type {found.type}, unknown here: is the firmware of another version?"
            ) from None
        return Retrieved(kind, bytes.fromhex(found.id), found.index, found.value, self._door)

    def protected_key(self, document: bytes) -> ProtectedKey:
        """The key of a document that `pem()`, or `keyvisor guest secret retrieve`, gave. Raises Malformed for another.

        Good in the guest that retrieved it, as long as that runs.
        """
        kind, blob = protected_key_of(document)
        return ProtectedKey(self._door, kind, blob)

    def _index_of(self, which: str | bytes) -> int:
        entries = self.list()
        for wanted in _ids(which):
            same = [each for each in entries if each.id == wanted.hex()]
            best = [each for each in same if each.type != SecretKind.ASSOCIATION] or same
            if best:
                return best[0].index
        named = f"`{which}`" if isinstance(which, str) else f"the id {which.hex()}"
        raise SdkError(f"no secret has {named}: `keyvisor guest secret list` shows those there are")


def _ids(which: str | bytes) -> Sequence[bytes]:
    if isinstance(which, bytes):
        return [which]
    from keyvisor_guest.wire.errors import Unbuildable
    from keyvisor_guest.wire.secret_ids import id_from_name, name_as_id

    try:
        return [id_from_name(which), name_as_id(which)]
    except Unbuildable as error:
        raise SdkError(str(error)) from None


def _a(kind: SecretKind) -> str:
    title = KINDS[kind].title
    return f"{'an' if title[0] in 'AEH' else 'a'} {title}"
