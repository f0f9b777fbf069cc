"""The files that an owner has of a host: documents of two keys, and who vouches for them, at the present time."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from keyvisor_firmware.guests import host_key_authority as authority

HOST_KEY = ec.derive_private_key(0x1001, ec.SECP521R1())
OTHER_HOST_KEY = ec.derive_private_key(0x1002, ec.SECP521R1())
_ROOT, _SIGNING, _STRANGER = (ec.derive_private_key(number, ec.SECP521R1()) for number in range(21, 24))


def write_host_keys(folder: Path) -> None:
    """As `keyvisor host host-keys -o` writes them, and besides a stranger's document and a list that revokes."""
    now = datetime.datetime.now(datetime.UTC)
    root = authority.root(_ROOT, now)
    signing = authority.signing(_SIGNING.public_key(), root, _ROOT, now)
    current, backup = (
        authority.document(key.public_key(), signing, _SIGNING, now) for key in (HOST_KEY, OTHER_HOST_KEY)
    )
    strange_root = authority.root(_STRANGER, now)
    files = {
        "root-ca.crt": root,
        "signing-key.crt": signing,
        "host-key.crt": current,
        "host-key-backup.crt": backup,
        "stranger.crt": authority.document(HOST_KEY.public_key(), strange_root, _STRANGER, now),
        "signing-key.crl": authority.revocation_list([], signing, _SIGNING, now),
        "revoking.crl": authority.revocation_list([(current.serial_number, now)], signing, _SIGNING, now),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content.public_bytes(Encoding.PEM))
