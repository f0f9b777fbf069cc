"""An attestation request, checked in the order in which it is asked, and answered.

CHECKS is the order and the return codes, as the secret store's: a check sees the request only as far as the checks
before it have made sure of. Pure: what is told of the guest, and the host keys, come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.attestation.return_codes import AttestCode
from keyvisor_firmware.errors import AttestationRefused
from keyvisor_guest.wire.arcb import (
    AddData,
    AttestationBlock,
    AttestationContents,
    AttestationHead,
    additional_length,
    check_algorithm,
    check_flags,
    check_lengths,
    check_reserved,
    check_sealed_length,
    check_slot_count,
    check_transport,
    check_version,
    open_request,
    read_block,
    read_head,
)
from keyvisor_guest.wire.attestation import AdditionalData, measurement
from keyvisor_guest.wire.attestation_file import MAX_USER_DATA, MEASUREMENT_LENGTH, Attestation
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import WireError

__all__ = ["CHECKS", "AttestCall", "Subject", "attest"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What the firmware says of the guest that asks. `image_host_key` (32 bytes) names the key that opened its image."""

    identity: BootIdentity
    cuid: bytes
    image_host_key: bytes
    secret_store_hash: bytes


@dataclass(frozen=True, slots=True)
class AttestCall:
    """What the guest hands in. The lengths are its room for the answer: None is as much as it takes."""

    request: bytes = field(repr=False)
    user_data: bytes = b""
    measurement_length: int | None = None
    additional_length: int | None = None


class _Attempt:
    """One call on its way through the checks."""

    def __init__(self, call: AttestCall, host_keys: Sequence[ec.EllipticCurvePrivateKey]) -> None:
        self.call = call
        self._host_keys = host_keys

    @cached_property
    def head(self) -> AttestationHead:
        """The first 30h bytes. Raises Malformed."""
        return read_head(self.call.request)

    @cached_property
    def block(self) -> AttestationBlock:
        """The whole request. Raises Malformed."""
        return read_block(self.call.request)

    @cached_property
    def opened(self) -> tuple[AttestationContents, bytes]:
        """What was encrypted, and the host key's hash. Raises CannotDecrypt."""
        return open_request(self.block, self._host_keys)


class _Refused(Exception):
    """A check of the call's own says no; the table knows the code."""


def _user_data(attempt: _Attempt) -> None:
    if len(attempt.call.user_data) > MAX_USER_DATA:
        raise _Refused(f"{len(attempt.call.user_data)} bytes")


def _nothing_unsupported(attempt: _Attempt) -> None:
    if AddData.FIRMWARE_STATE in attempt.block.asked:
        raise _Refused("this firmware has no state of its own to attest")


def _room_for_measurement(attempt: _Attempt) -> None:
    if attempt.call.measurement_length not in (None, MEASUREMENT_LENGTH):
        raise _Refused(f"{attempt.call.measurement_length} bytes, not {MEASUREMENT_LENGTH}")


def _room_for_additional(attempt: _Attempt) -> None:
    room, needed = attempt.call.additional_length, additional_length(attempt.block.asked)
    if room is not None and room < needed:
        raise _Refused(f"{room} bytes, {needed} are needed")


# The numbers' order, but that a request for nobody is told before its length (formats, B.2), and that what is shorter
# than a head has no version to look at. Continuation and access have no counterpart at a door: nothing is continued,
# and there are no addresses. No code is public for reserved fields in use; the last before the lengths is our choice.
CHECKS: Final[tuple[tuple[AttestCode, Callable[[_Attempt], object]], ...]] = (
    (AttestCode.USER_DATA_WRONG, _user_data),
    (AttestCode.REQUEST_NOT_ACCESSIBLE, lambda attempt: check_transport(attempt.call.request)),
    (AttestCode.LENGTH_WRONG, lambda attempt: attempt.head),
    (AttestCode.VERSION_UNSUPPORTED, lambda attempt: check_version(attempt.head)),
    (AttestCode.HOST_KEYS_WRONG, lambda attempt: check_slot_count(attempt.head)),
    (AttestCode.LENGTH_WRONG, lambda attempt: check_lengths(attempt.head, len(attempt.call.request))),
    (AttestCode.SEALED_LENGTH_WRONG, lambda attempt: check_sealed_length(attempt.block)),
    (AttestCode.FLAG_UNSUPPORTED, lambda attempt: check_flags(attempt.block)),
    (AttestCode.FLAG_UNSUPPORTED, _nothing_unsupported),
    (AttestCode.ALGORITHM_UNSUPPORTED, lambda attempt: check_algorithm(attempt.block)),
    (AttestCode.CANNOT_UNSEAL, lambda attempt: attempt.opened),
    (AttestCode.CANNOT_UNSEAL, lambda attempt: check_reserved(attempt.block)),
    (AttestCode.MEASUREMENT_LENGTH_WRONG, _room_for_measurement),
    (AttestCode.ADDITIONAL_LENGTH_WRONG, _room_for_additional),
)


def attest(
    call: AttestCall, subject: Subject, host_keys: Sequence[ec.EllipticCurvePrivateKey]
) -> Attestation:
    """Measure `subject` for whoever made the request. Raises AttestationRefused with the first check that says no."""
    attempt = _Attempt(call, host_keys)
    for code, check in CHECKS:
        try:
            check(attempt)
        except (WireError, _Refused) as error:
            raise AttestationRefused(code, str(error)) from error
    contents, host_key_hash = attempt.opened
    found = AdditionalData(subject.image_host_key, host_key_hash, subject.secret_store_hash)
    additional = found.encode(attempt.block.asked)
    measured = measurement(contents, subject.identity, subject.cuid, call.user_data, additional)
    return Attestation(measured, additional, subject.cuid)
