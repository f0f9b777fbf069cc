"""The start of a guest: its boot identity is measured, and its instance gets ids that no other ever has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_guest.wire.boot_identity import measure

_ID_LENGTH: Final = 16  # bytes
_CUID_LENGTH: Final = 16  # bytes


def new_instance(
    name: str, image: bytes, started: str, randomness: Callable[[int], bytes], host_key_hash: bytes
) -> Instance:
    """A new instance of the guest definition `image`. `randomness(n)` gives n random bytes.

    `host_key_hash` (32 bytes) names the host key that is asked for in attestations of the image.
    """
    return Instance(
        id=InstanceId(randomness(_ID_LENGTH).hex()),
        name=name,
        cuid=randomness(_CUID_LENGTH),
        identity=measure(image),
        started=started,
        host_key_hash=host_key_hash,
    )
