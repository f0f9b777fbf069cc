"""One start of one guest: what is fixed from its start to its stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from keyvisor_guest.wire.boot_identity import BootIdentity

InstanceId = NewType("InstanceId", str)
"""32 hex digits, new for every start: what belongs to one start never fits another."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A guest's name is used again; its instance id and its CUID (16 random bytes) never are.

    `started` is ISO 8601, UTC. `host_key_hash` (32 bytes) names the host key that the image was opened with; zeros
    where none was.
    """

    id: InstanceId
    name: str
    cuid: bytes
    identity: BootIdentity
    started: str
    host_key_hash: bytes = bytes(32)
    opens_after_lock: bool = False
