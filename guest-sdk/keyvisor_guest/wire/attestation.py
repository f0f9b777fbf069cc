"""Attestation: what a firmware measures of a running guest, and how an owner finds out whether it is theirs.

Firmware and owner both compute the measurement, each from what they know: the owner's own copy of the boot identity
never comes from the host. Pure; the request is `arcb`, the file that goes back and forth `attestation_file`.
(formats, C.6)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from keyvisor_guest.wire.arcb import (
    ADDITIONS,
    AddData,
    AttestationContents,
    additional_length,
    parse,
    unseal,
)
from keyvisor_guest.wire.attestation_file import CUID_LENGTH, MEASUREMENT_LENGTH, AttestationFile
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import AttestationUnverified, CannotDecrypt, Malformed

__all__ = [
    "AdditionalData",
    "Expected",
    "Verified",
    "measurement",
    "secret_store_hash",
    "verify",
]


@dataclass(frozen=True, slots=True)
class AdditionalData:
    """The additional data by their names; None where they were not asked for."""

    image_host_key: bytes | None = None
    attestation_host_key: bytes | None = None
    secret_store_hash: bytes | None = None
    firmware_state: bytes | None = None

    @classmethod
    def decode(cls, asked: Sequence[AddData], data: bytes) -> Self:
        """Take apart what answers a request for `asked`. Raises Malformed for another length."""
        cursor = Cursor(data)
        found = {_FIELDS[name]: cursor.take(ADDITIONS[name].length) for name in asked}
        cursor.end()
        return cls(**found)

    def encode(self, asked: Sequence[AddData]) -> bytes:
        """What was asked for, in its order. Raises ValueError for what is not there or has another length."""
        parts = [getattr(self, _FIELDS[name]) for name in asked]
        if any(
            part is None or len(part) != ADDITIONS[name].length
            for name, part in zip(asked, parts, strict=True)
        ):
            raise ValueError("the additional data are not those that were asked for")
        return b"".join(parts)


_FIELDS: Final = {
    AddData.IMAGE_HOST_KEY: "image_host_key",
    AddData.ATTESTATION_HOST_KEY: "attestation_host_key",
    AddData.SECRET_STORE_HASH: "secret_store_hash",
    AddData.FIRMWARE_STATE: "firmware_state",
}


def measurement(
    contents: AttestationContents, identity: BootIdentity, cuid: bytes, user_data: bytes, additional: bytes
) -> bytes:
    """HMAC-SHA-512 under the request's measurement key, 64 bytes.

    Over PLD ‖ ALD ‖ TLD ‖ header tag ‖ CUID ‖ u16 length of the user data ‖ u16 0 ‖ u32 length of the additional
    data ‖ user data ‖ nonce ‖ additional data.
    """
    measured = b"".join(
        (
            identity.encode(),
            cuid,
            len(user_data).to_bytes(2, "big"),
            bytes(2),
            len(additional).to_bytes(4, "big"),
            user_data,
            contents.nonce or b"",
            additional,
        )
    )
    return hmac.digest(contents.measurement_key, measured, "sha512")


def secret_store_hash(request_tags: Iterable[bytes], *, locked: bool) -> bytes:
    """SHA-512 over the tags of all accepted add-secret requests in order, then 01 if locked, else 00: 64 bytes."""
    return hashlib.sha512(b"".join(request_tags) + (b"\x01" if locked else b"\x00")).digest()


@dataclass(frozen=True, slots=True)
class Expected:
    """What an owner wants to find besides; None where it does not matter. `host_keys` are hashes of 32 bytes."""

    user_data: bytes | None = None
    secret_store_hash: bytes | None = None
    host_keys: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What is proven of a guest: the instance that has this CUID was started from the owner's image."""

    cuid: bytes
    user_data: bytes
    additional: AdditionalData


def verify(
    answer: AttestationFile, request_key: bytes, identity: BootIdentity, expected: Expected | None = None
) -> Verified:
    """What a firmware that could open the owner's request says of a guest. Raises AttestationUnverified.

    `request_key` (32 bytes) was kept when the request was made, `identity` comes from the owner's own image. Who
    put another request, measurement, CUID, user or additional data into the file is found out by the measurement.
    """
    try:
        block = parse(answer.request)
        contents = unseal(block, request_key)
    except Malformed as error:
        raise AttestationUnverified(f"the file holds no attestation request: {error}") from error
    except CannotDecrypt as error:
        raise AttestationUnverified(
            "the request in the file is not the one that this key was made with: take the key's own answer"
        ) from error
    _check_parts(answer, additional_length(block.asked))
    measured = measurement(contents, identity, answer.cuid, answer.user_data, answer.additional)
    if not hmac.compare_digest(measured, answer.measurement):
        raise AttestationUnverified(
            "the measurement is not that of a guest with this boot identity, CUID, user and additional data: "
            "it runs another image, or somebody changed the answer"
        )
    found = Verified(answer.cuid, answer.user_data, AdditionalData.decode(block.asked, answer.additional))
    _check_expected(found, expected or Expected())
    return found


def _check_parts(answer: AttestationFile, additional: int) -> None:
    wanted = {
        "measurement": (len(answer.measurement), MEASUREMENT_LENGTH),
        "CUID": (len(answer.cuid), CUID_LENGTH),
        "additional data": (len(answer.additional), additional),
    }
    for name, (found, length) in wanted.items():
        if found != length:
            raise AttestationUnverified(
                f"the file's {name} has {found} bytes, not {length}: give the answer of `keyvisor guest attest`"
            )


def _check_expected(found: Verified, expected: Expected) -> None:
    if expected.user_data is not None and not hmac.compare_digest(found.user_data, expected.user_data):
        raise AttestationUnverified("the guest has put in other user data than was expected")
    if expected.secret_store_hash is not None:
        _check_store(found.additional.secret_store_hash, expected.secret_store_hash)
    if expected.host_keys is not None:
        _check_host_keys(found.additional, expected.host_keys)


def _check_host_keys(found: AdditionalData, expected: tuple[bytes, ...]) -> None:
    used = [key for key in (found.image_host_key, found.attestation_host_key) if key is not None]
    if not used:
        raise AttestationUnverified(
            "the request did not ask which host keys were used: make one with `--add-data phkh-img`"
        )
    for key in used:
        if key not in expected:
            raise AttestationUnverified(
                f"the host has used the key {key.hex()}, which is in none of the given host-key documents"
            )


def _check_store(found: bytes | None, expected: bytes) -> None:
    if found is None:
        raise AttestationUnverified(
            "the request did not ask for the secret-store hash: make one with `--add-data secret-store-hash`"
        )
    if not hmac.compare_digest(found, expected):
        raise AttestationUnverified(
            "the secret store is not in the expected state: a request was withheld, repeated, added or handed in "
            "out of order, or the lock differs"
        )
