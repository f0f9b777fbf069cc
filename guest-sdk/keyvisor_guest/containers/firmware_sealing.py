"""Sealed by a key in a guest's secret store: AES-256-GCM, done by the firmware, so that the key is never here.

Good as long as the guest has that secret: after a new start its owner's request brings the same key again. Knows no door.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.key_wrapping import MAX_PAYLOAD, Context
from keyvisor_guest.errors import Refused
from keyvisor_guest.wire.secret_kinds import SecretKind

if TYPE_CHECKING:
    from keyvisor_guest.secrets import ProtectedKey, Secrets

__all__ = ["open_in_firmware", "protected_aes_key", "seal_in_firmware"]

_VERSION: Final = 1
_METHOD: Final = "aes-256-gcm"
_IV_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_NOT_AUTHENTIC: Final = ("key", 0x07)


def protected_aes_key(secrets: Secrets, name: str) -> ProtectedKey:
    """The AES-256 key in the guest's store with this name. Raises KeyRefused, and what the door raises."""
    way_out = f"its owner adds one with `keyvisor owner request retrievable {name} --type aes --secret FILE`"
    if secrets.missing([name]):
        raise KeyRefused(f"no secret of the guest has the name `{name}`: {way_out}")
    found = secrets.retrieve(name)
    if found.kind is not SecretKind.AES_256:
        raise KeyRefused(f"the secret `{name}` is no AES-256 key: {way_out}")
    return found.key()


def seal_in_firmware(
    key: ProtectedKey, payload: bytes, context: Context, random_bytes: Callable[[int], bytes]
) -> bytes:
    """The payload sealed under the key, for the context. Raises KeyRefused, Refused."""
    if len(payload) > MAX_PAYLOAD:
        raise KeyRefused(f"at most {MAX_PAYLOAD} bytes are sealed, not {len(payload)}")
    iv = random_bytes(_IV_LENGTH)
    sealed = key.encrypt(payload, iv=iv, mode="GCM", associated=context.encode("ascii"))
    spelled = {
        name: base64.b64encode(value).decode("ascii") for name, value in (("iv", iv), ("sealed", sealed))
    }
    return json.dumps({"version": _VERSION, "method": _METHOD, **spelled}, separators=(",", ":")).encode(
        "ascii"
    )


def open_in_firmware(key: ProtectedKey, wrapped: bytes, context: Context) -> bytes:
    """What was sealed. Raises KeyRefused, Refused."""
    try:
        if len(wrapped) > 2 * MAX_PAYLOAD:
            raise ValueError("it is too long")  # noqa: TRY301
        members: Any = json.loads(wrapped.decode("ascii"))
        iv, sealed = (
            base64.b64decode(members[name].encode("ascii"), validate=True) for name in ("iv", "sealed")
        )
        if (
            members.keys() != {"version", "method", "iv", "sealed"}
            or (members["version"], members["method"], len(iv)) != (_VERSION, _METHOD, _IV_LENGTH)
            or len(sealed) < _TAG_LENGTH
        ):
            raise ValueError("not as it is written here")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise KeyRefused(
            "this is nothing that was sealed under an AES key of a guest's secret store"
        ) from None
    try:
        return key.decrypt(sealed, iv=iv, mode="GCM", associated=context.encode("ascii"))
    except Refused as refused:
        if (refused.kind, refused.code) != _NOT_AUTHENTIC:
            raise
        raise KeyRefused(
            "this was sealed under another key, or changed: name the secret that it was sealed under"
        ) from None
