"""The firmware's own storage: reserved and donated once. Hosts may do it at the same time; one of them is first."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from keyvisor_guest.errors import Refused, SdkError
from keyvisor_guest.hosting.giving_back import with_note
from keyvisor_guest.hosting.labels import zone_label
from keyvisor_guest.hosting.not_free import giving

if TYPE_CHECKING:
    from keyvisor_guest.host import Host

__all__ = ["ALREADY_DONE", "initialise", "reserve_and_init"]

ALREADY_DONE: Final = 0x0101  # formats, D.2
_ALIGNMENT: Final = 1 << 20
_AT_LEAST: Final = 1 << 31


def initialise(host: Host) -> None:
    """Initialise the firmware. That another host was faster is fine."""
    try:
        host.init()
    except Refused as refused:
        if (refused.kind, refused.code) != ("uv", ALREADY_DONE):
            raise


def reserve_and_init(host: Host) -> None:
    """Reserve the zone's base storage as the query wants it, and donate it. What is refused is given back."""
    length = host.query_storage().zone_base
    label = zone_label(secrets.token_hex(4))

    def give() -> None:
        host.init(host.memory.allocate(label, length, _ALIGNMENT, _AT_LEAST), length)

    try:
        giving("zone", give, lambda: host.memory.free(label))
    except SdkError as first:
        try:
            host.memory.free(label)
        except SdkError as refusal:
            raise with_note(first, f"`{label}` stays allocated ({refusal})") from first
        raise
