"""How bytes are wrapped for a key that is somewhere else: what is written, and what is used of the key.

Two ways, by the key's kind:

    RSA   RSA-OAEP for the public half, in the form of ocicrypt's `pkcs11` annotations. Everybody can wrap so.
    AES   AES-256-GCM under a key that only the HSM's AES key makes: KDF in counter mode with CMAC (NIST SP 800-108, 4.1)
          over a fresh salt. The AES key stays where it is, and what opens was sealed by whoever may use it.

The AES key is asked for single blocks and not for GCM: Debian 12's client carries no mechanism with an IV. `Context` keeps
apart what is sealed for different uses: a layer's options never open as a release. Knows no HSM.
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.jwe import MINIMUM_BITS

__all__ = [
    "MAX_PAYLOAD",
    "Cmac",
    "Context",
    "OaepDecrypt",
    "OaepHash",
    "open_rsa",
    "open_sealed",
    "seal",
    "wrap_rsa",
]

MAX_PAYLOAD: Final = 1 << 16  # bytes, sealed; what fits into one RSA block is much less
_MAX_ANNOTATION: Final = 1 << 18
_MAX_RECIPIENTS: Final = 64
_SALT_LENGTH: Final = 32
_IV_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_CMAC_LENGTH: Final = 16
_KEY_BITS: Final = 256
_SEALED_VERSION: Final = 1
_METHOD: Final = "cmac-kdf+aes-256-gcm"
_OTHER: Final = "this is not wrapped for this key, or was changed: name the key that it was wrapped for"


class OaepHash(enum.StrEnum):
    """The hash of OAEP and of its MGF1, as the annotation spells it. The first that an HSM can do is used."""

    SHA256 = "sha256"
    SHA1 = "sha1"


class Context(enum.StrEnum):
    """What something is sealed for. It is in the key and beside the ciphertext."""

    RELEASE = "keyvisor volume key release"
    LAYER_OPTIONS = "keyvisor ocicrypt layer options"


Cmac: TypeAlias = Callable[[bytes], bytes]  # AES-CMAC under a key that is elsewhere
OaepDecrypt: TypeAlias = Callable[[bytes, OaepHash], bytes]  # raises ValueError for what is not for this key

_HASHES: Final = {OaepHash.SHA256: SHA256, OaepHash.SHA1: SHA1}


def wrap_rsa(payload: bytes, public: RSAPublicKey, hashed: OaepHash) -> bytes:
    """The payload for an RSA key, as ocicrypt's `pkcs11` has it. Raises KeyRefused for a short key or a long payload."""
    if public.key_size < MINIMUM_BITS:
        raise KeyRefused(f"an RSA key of {public.key_size} bits is too short: use {MINIMUM_BITS} or more")
    algorithm = _HASHES[hashed]
    room = public.key_size // 8 - 2 * algorithm().digest_size - 2
    if len(payload) > room:
        raise KeyRefused(f"{len(payload)} bytes do not fit into one RSA block, which has room for {room}")
    blob = public.encrypt(payload, OAEP(MGF1(algorithm()), algorithm(), None))
    recipient = {"version": 0, "blob": _spelled(blob), "hash": hashed.value}
    return _json({"version": 0, "recipients": [recipient]})


def open_rsa(wrapped: bytes, decrypt: OaepDecrypt) -> bytes:
    """What one of the recipients' blobs holds. Raises KeyRefused."""
    try:
        members = _read(wrapped)
        recipients = members["recipients"]
        if members["version"] != 0 or not 0 < len(recipients) <= _MAX_RECIPIENTS:
            raise ValueError("another version")  # noqa: TRY301
        blobs = [(_bytes(one["blob"]), OaepHash(one.get("hash") or "sha1")) for one in recipients]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise KeyRefused("this is no key wrapped for an RSA key of an HSM") from None
    for blob, hashed in blobs:
        try:
            return decrypt(blob, hashed)
        except ValueError:
            continue
    raise KeyRefused(_OTHER)


def seal(payload: bytes, context: Context, cmac: Cmac, random_bytes: Callable[[int], bytes]) -> bytes:
    """The payload sealed so that only the same key opens it, for the same context. Raises KeyRefused for a long one."""
    if len(payload) > MAX_PAYLOAD:
        raise KeyRefused(f"at most {MAX_PAYLOAD} bytes are sealed, not {len(payload)}")
    salt, iv = random_bytes(_SALT_LENGTH), random_bytes(_IV_LENGTH)
    sealed = AESGCM(_derived(cmac, context, salt)).encrypt(iv, payload, _label(context))
    parts = {"salt": salt, "iv": iv, "sealed": sealed}
    spelled = {name: _spelled(value) for name, value in parts.items()}
    return _json({"version": _SEALED_VERSION, "method": _METHOD, **spelled})


def open_sealed(wrapped: bytes, context: Context, cmac: Cmac) -> bytes:
    """What was sealed. Raises KeyRefused."""
    try:
        members = _read(wrapped)
        salt, iv, sealed = (_bytes(members[name]) for name in ("salt", "iv", "sealed"))
        if (
            members.keys() != {"version", "method", "salt", "iv", "sealed"}
            or (members["version"], members["method"]) != (_SEALED_VERSION, _METHOD)
            or (len(salt), len(iv)) != (_SALT_LENGTH, _IV_LENGTH)
            or not _TAG_LENGTH <= len(sealed) <= MAX_PAYLOAD + _TAG_LENGTH
        ):
            raise ValueError("not as it is written here")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise KeyRefused("this is nothing that was sealed under an AES key of an HSM") from None
    try:
        return AESGCM(_derived(cmac, context, salt)).decrypt(iv, sealed, _label(context))
    except InvalidTag:
        raise KeyRefused(_OTHER) from None


def _derived(cmac: Cmac, context: Context, salt: bytes) -> bytes:
    """SP 800-108 in counter mode: PRF(i | label | 00 | salt | length), each number in 32 bits."""
    fixed = _label(context) + b"\0" + salt + _KEY_BITS.to_bytes(4, "big")
    blocks = [cmac(number.to_bytes(4, "big") + fixed) for number in (1, 2)]
    if any(len(block) != _CMAC_LENGTH for block in blocks):
        raise KeyRefused(f"the HSM's CMAC has not {_CMAC_LENGTH} bytes: use another AES key")
    return b"".join(blocks)


def _label(context: Context) -> bytes:
    return context.value.encode("ascii")


def _read(data: bytes) -> Mapping[str, Any]:
    if len(data) > _MAX_ANNOTATION:
        raise ValueError("it is too long")
    members = json.loads(data.decode("ascii"))
    if not isinstance(members, dict):
        raise TypeError("it is no object")
    return members


def _json(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _spelled(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii"), validate=True)
