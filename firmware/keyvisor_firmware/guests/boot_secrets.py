"""What an image's header says in secret to the firmware: kept sealed beside the guest's instance until it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.guests.host_key import Sealer
from keyvisor_firmware.guests.instance import Instance
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_ids import CCK_LENGTH
from keyvisor_hsm.errors import SealBroken

_CONTEXT: Final = b"keyvisor boot secrets of instance "
_SCF_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class BootSecrets:
    """The customer communication key (32 bytes) and the secret control flags of the header that a guest started with."""

    cck: bytes = field(repr=False)
    scf: int


def seal_boot_secrets(secrets: BootSecrets, guest: Instance, sealer: Sealer) -> bytes:
    """Sealed for this instance, and no other."""
    return sealer.seal(secrets.cck + secrets.scf.to_bytes(_SCF_LENGTH, "big"), _context(guest))


def unseal_boot_secrets(sealed: bytes, guest: Instance, sealer: Sealer) -> BootSecrets:
    """What was sealed for this instance. Raises StateUnusable."""
    try:
        cursor = Cursor(sealer.unseal(sealed, _context(guest)))
        secrets = BootSecrets(cursor.take(CCK_LENGTH), cursor.number(_SCF_LENGTH))
        cursor.end()
    except (SealBroken, Malformed):
        raise StateUnusable(
            f"the boot secrets of guest `{guest.name}` do not open: "
            "restore the state directory as a whole, or choose another --state"
        ) from None
    return secrets


def _context(guest: Instance) -> bytes:
    return _CONTEXT + guest.id.encode() + guest.cuid + guest.identity.encode()
