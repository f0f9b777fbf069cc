"""JSON Web Encryption for RSA recipients, as ocicrypt wraps keys: RSA-OAEP (SHA-1) and A256GCM.

RFC 7516, 7.2; RFC 7518, 4.3 and 5.3. The private half may be anywhere: what opens a wrapped key is a function. Who made a JWE is
not known: everybody that has the public key can make one, so what it carries says nothing of its author.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1

from keyvisor_guest.containers.errors import KeyRefused

__all__ = ["MINIMUM_BITS", "RsaUnwrap", "unwrap", "unwrap_with", "wrap"]

RsaUnwrap: TypeAlias = Callable[[bytes], bytes]  # raises ValueError for what was not wrapped for this key

MINIMUM_BITS: Final = 3072  # of keys that we wrap for; others' may be shorter
_KEY_LENGTH: Final = 32
_IV_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_MAX_LENGTH: Final = 1 << 18
_MAX_RECIPIENTS: Final = 64
_OAEP: Final = OAEP(mgf=MGF1(SHA1()), algorithm=SHA1(), label=None)  # noqa: S303 what `RSA-OAEP` means
_OTHER: Final = "this key is wrapped for others: name the private key of one of its recipients"


def wrap(payload: bytes, recipients: Sequence[RSAPublicKey], random_bytes: Callable[[int], bytes]) -> bytes:
    """The payload for the recipients, as JSON. Raises KeyRefused for a key that is too short, ValueError for none."""
    if not recipients:
        raise ValueError("a key is wrapped for one recipient at least")
    for key in recipients:
        if key.key_size < MINIMUM_BITS:
            raise KeyRefused(f"an RSA key of {key.key_size} bits is too short: use {MINIMUM_BITS} or more")
    content_key = random_bytes(_KEY_LENGTH)
    iv = random_bytes(_IV_LENGTH)
    keys = [_spelled(key.encrypt(content_key, _OAEP)) for key in recipients]
    header = {"alg": "RSA-OAEP", "enc": "A256GCM"} if len(keys) == 1 else {"enc": "A256GCM"}
    protected = _spelled(json.dumps(header, separators=(",", ":")).encode())
    sealed = AESGCM(content_key).encrypt(iv, payload, protected.encode())
    members: dict[str, Any] = {"protected": protected}
    if len(keys) == 1:
        members["encrypted_key"] = keys[0]
    else:
        members["recipients"] = [{"header": {"alg": "RSA-OAEP"}, "encrypted_key": key} for key in keys]
    members |= {
        "iv": _spelled(iv),
        "ciphertext": _spelled(sealed[:-_TAG_LENGTH]),
        "tag": _spelled(sealed[-_TAG_LENGTH:]),
    }
    return json.dumps(members, separators=(",", ":")).encode()


def unwrap(data: bytes, open_key: RsaUnwrap) -> bytes:
    """The payload of a JWE. Raises KeyRefused where it is none, or not for this key."""
    try:
        members, algorithm = _read(data)
        protected = members["protected"]
        iv, sealed = _bytes(members["iv"]), _bytes(members["ciphertext"]) + _bytes(members["tag"])
        wrapped = list(_wrapped_keys(members, algorithm))
        if len(iv) != _IV_LENGTH or len(_bytes(members["tag"])) != _TAG_LENGTH or not wrapped:
            raise ValueError("a part has another length than A256GCM gives it")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error):
        raise KeyRefused("this is no wrapped key: a JWE in JSON with RSA-OAEP and A256GCM is") from None
    for one in wrapped:
        try:
            content_key = open_key(one)
            if len(content_key) == _KEY_LENGTH:
                return AESGCM(content_key).decrypt(iv, sealed, protected.encode("ascii"))
        except (ValueError, InvalidTag):
            continue
    raise KeyRefused(_OTHER)


def unwrap_with(key: RSAPrivateKey) -> RsaUnwrap:
    """What opens keys that were wrapped for `key`'s public half."""
    return lambda wrapped: key.decrypt(wrapped, _OAEP)


def _read(data: bytes) -> tuple[dict[str, Any], str | None]:
    """The members, and the algorithm where the protected header says it for all recipients."""
    if len(data) > _MAX_LENGTH:
        raise ValueError("it is too long")
    members = json.loads(data.decode("ascii"))
    header = json.loads(_bytes(members["protected"]))
    if (
        header.get("enc") != "A256GCM"
        or not header.keys() <= {"alg", "enc", "kid"}
        or "unprotected" in members
    ):
        raise ValueError("it wants something else than A256GCM")
    return members, header.get("alg")


def _wrapped_keys(members: dict[str, Any], algorithm: str | None) -> Iterator[bytes]:
    recipients = members.get("recipients", [members])
    if len(recipients) > _MAX_RECIPIENTS:
        raise ValueError("it has too many recipients")
    for one in recipients:
        if (algorithm or one.get("header", {}).get("alg")) == "RSA-OAEP":
            yield _bytes(one["encrypted_key"])


def _spelled(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Base64url without padding, and nothing else."""
    data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _spelled(data) != text:
        raise ValueError("base64url has one spelling")
    return data
