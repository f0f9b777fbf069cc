"""What can be seen to be wrong with an add-secret request without any key, check by check.

They stand one by one, so that a firmware can make them in its own order and give each its own return code;
`keyvisor_guest.wire.asrcb.parse` makes all of them. What a store does with a request is not known here.
"""

from __future__ import annotations

from typing import Final

from keyvisor_guest.wire.asrcb_layout import (
    FLAG_BITS,
    MAGIC,
    VERSION,
    ControlBlock,
    Head,
    PublicPart,
    UserDataKind,
)
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_ids import EXTENSION_LENGTH
from keyvisor_guest.wire.secret_kinds import KINDS

__all__ = ["check_flags", "check_reserved", "check_secret_length", "check_slot_count", "check_version"]

_USER_DATA_KINDS: Final = frozenset(UserDataKind)


def check_version(head: Head) -> None:
    """Raises Malformed for what is not an add-secret request of version 1."""
    if head.magic != MAGIC:
        raise Malformed("not an add-secret request: it does not begin with `asrcbM`")
    if head.version != VERSION:
        raise Malformed(f"version {head.version:#x}, only {VERSION:#x} is known")


def check_slot_count(head: Head) -> None:
    """Raises Malformed for a request without key slots. More than 255 cannot be said in it."""
    if head.slot_count == 0:
        raise Malformed("the request is for no host key")


def check_flags(public: PublicPart) -> None:
    """Raises Malformed for a flag that is not in FLAG_BITS."""
    if unknown := public.flags & ~sum(FLAG_BITS.values()):
        raise Malformed(f"unknown flags {unknown:016x}")


def check_secret_length(block: ControlBlock) -> None:
    """Raises Malformed where header, announced length or encrypted area are not those of the secret's kind."""
    secret = block.public.secret
    row = KINDS.get(secret.kind)
    if row is None:
        raise Malformed(f"secret type {secret.kind:04x} is reserved")
    if secret.length not in row.lengths:
        raise Malformed(f"a secret of type {row.title} has {row.lengths_text}, not {secret.length}")
    if (secret.id is not None) != row.has_id:
        raise Malformed(f"the header of a secret of type {row.title} has {'an' if row.has_id else 'no'} id")
    if len(block.sealed) != secret.length + EXTENSION_LENGTH:
        raise Malformed(
            f"a secret of {secret.length} bytes is announced, {len(block.sealed)} bytes are encrypted"
        )


def check_reserved(block: ControlBlock) -> None:
    """Raises Malformed where a reserved field is not zero, or the user-data kind is not known."""
    if block.used_reserved:
        raise Malformed(f"the reserved field at {block.used_reserved[0]:#x} is not zero")
    kind = block.public.user_data.kind
    if kind not in _USER_DATA_KINDS:
        raise Malformed(f"user-data kind {kind} is not known")
