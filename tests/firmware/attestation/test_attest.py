"""Attestation in the firmware: what it measures, and the code of every refusal (formats, C.6)."""

from __future__ import annotations

import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.attestation.attest import CHECKS, AttestCall, Subject, attest
from keyvisor_firmware.attestation.return_codes import MEANINGS, AttestCode
from keyvisor_firmware.errors import AttestationRefused, NotFound
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_guest.owner import AttestationRequest, Owner
from keyvisor_guest.wire.arcb import AddData, AttestationContents, build
from keyvisor_guest.wire.asrcb import FreshKeys
from keyvisor_guest.wire.attestation import AdditionalData, Expected, Verified, secret_store_hash, verify
from keyvisor_guest.wire.attestation_file import Attestation, AttestationFile
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.p521 import public_key_hash

from ..machine import Machine

HOST, BACKUP, OTHER, CUSTOMER = (
    ec.derive_private_key(n, ec.SECP521R1()) for n in (0x1001, 0x1002, 0x2002, 0x3003)
)
RPK, IV = b"\x17" * 32, b"\x55" * 12
ASKED = (AddData.IMAGE_HOST_KEY, AddData.ATTESTATION_HOST_KEY, AddData.SECRET_STORE_HASH)
SUBJECT = Subject(
    BootIdentity(b"\x01" * 64, b"\x02" * 64, b"\x03" * 64, b"\x04" * 16),
    b"\x42" * 16,
    b"\x1a" * 32,
    b"\x5e" * 64,
)


def request(host: ec.EllipticCurvePrivateKey = HOST, asked: tuple[AddData, ...] = ASKED) -> bytes:
    contents = AttestationContents(b"\x77" * 64, b"\xab" * 16)
    return build(contents, asked, FreshKeys(CUSTOMER, RPK, IV), [host.public_key()])


def patched(patches: dict[int, bytes], clear: bytes = b"\x77" * 64 + b"\xab" * 16) -> bytes:
    """A request with other public bytes, under a tag that is valid for them."""
    public = bytearray(request()[:0x130])
    for offset, value in patches.items():
        public[offset : offset + len(value)] = value
    return bytes(public) + AESGCM(RPK).encrypt(IV, clear, bytes(public))


def refused(call: AttestCall) -> AttestationRefused:
    with pytest.raises(AttestationRefused) as caught:
        attest(call, SUBJECT, [HOST, BACKUP])
    return caught.value


def test_the_codes_are_those_of_the_source():
    assert [int(code) for code in AttestCode] == list(range(0x0101, 0x010F))
    assert MEANINGS.keys() == set(AttestCode)
    for meaning in MEANINGS.values():
        for text in (meaning.text, meaning.way_out):
            assert text[0].islower()
            assert not text.endswith(".")


def test_all_codes_that_a_door_can_meet_have_a_check():
    unmet = {
        AttestCode.CONTINUATION_WRONG, AttestCode.MEASUREMENT_NOT_ACCESSIBLE, AttestCode.ADDITIONAL_NOT_ACCESSIBLE
    }  # fmt: skip
    assert {code for code, _ in CHECKS} == set(AttestCode) - unmet


def test_a_request_for_either_host_key_is_answered():
    for host in (HOST, BACKUP):
        answer = attest(AttestCall(request(host), b"mine", 64, 128), SUBJECT, [HOST, BACKUP])
        found = verify(
            AttestationFile(request(host), answer.measurement, answer.additional, b"mine", answer.cuid),
            RPK,
            SUBJECT.identity,
        )
        hash_ = public_key_hash(host.public_key())
        assert found == Verified(
            SUBJECT.cuid, b"mine", AdditionalData(SUBJECT.image_host_key, hash_, SUBJECT.secret_store_hash)
        )


def test_more_room_than_needed_is_no_matter():
    assert len(attest(AttestCall(request(), b"", 64, 0x8000), SUBJECT, [HOST]).additional) == 128


BROKEN = {
    "257 bytes of user data": (AttestCall(request(), bytes(257)), 0x0102, "257 bytes"),
    "longer than the device takes": (AttestCall(bytes(0x100001)), 0x0103, "at most 1048576"),
    "nothing": (AttestCall(b""), 0x0107, "needed at 0x0"),
    "half a head": (AttestCall(request()[:0x2F]), 0x0107, "needed"),
    "an add-secret request": (AttestCall(patched({0: b"asrcbM"})), 0x0106, "eight zero bytes"),
    "version 0200": (AttestCall(patched({8: b"\x00\x00\x02\x00"})), 0x0106, "version 0x200"),
    "for nobody": (AttestCall(patched({0x27: b"\x00"})), 0x0108, "for no host key"),
    "for two, and one is there": (AttestCall(patched({0x27: b"\x02"})), 0x0107, "do not add up"),
    "cut": (AttestCall(request()[:-1]), 0x0107, "400 bytes, 399 are there"),
    "lengthened": (AttestCall(request() + b"\0"), 0x0107, "400 bytes, 401 are there"),
    "no nonce flagged, but one there": (
        AttestCall(patched({0x30: b"\x38"})),
        0x0109,
        "80 bytes are encrypted",
    ),
    "an unknown flag": (AttestCall(patched({0x30: b"\xc0"})), 0x010A, "unknown flags"),
    "the firmware's state": (AttestCall(patched({0x30: b"\x44"})), 0x010A, "no state of its own"),
    "algorithm 0": (AttestCall(patched({0x3B: b"\x00"})), 0x010B, "algorithm 0"),
    "for another host": (AttestCall(request(OTHER)), 0x010C, "no key slot is for this host's key"),
    "another tag": (AttestCall(request()[:-1] + bytes([request()[-1] ^ 1])), 0x010C, "not as it was made"),
    "a customer key off the curve": (AttestCall(patched({0x8F: b"\x00"})), 0x010C, "not on the curve"),
    "a reserved field": (AttestCall(patched({0x3F: b"\x01"})), 0x010C, "reserved field at 0x3c"),
    "room for less of a measurement": (AttestCall(request(), b"", 63), 0x010D, "63 bytes, not 64"),
    "room for more of a measurement": (AttestCall(request(), b"", 65), 0x010D, "65 bytes, not 64"),
    "no room for the additional data": (
        AttestCall(request(), b"", 64, 127),
        0x010E,
        "127 bytes, 128 are needed",
    ),
}


@pytest.mark.parametrize("twin", BROKEN)
def test_a_broken_twin_gets_its_code(twin: str) -> None:
    call, code, said = BROKEN[twin]
    error = refused(call)
    assert error.code == code
    assert said in str(error)
    assert re.search(rf"; .+ \({code:#06x}\)$", str(error))


def test_what_is_wrong_twice_is_told_in_the_order_of_the_table():
    """From the last check to the first, one more thing is wrong, and that is what is told."""
    wrong: dict[int, bytes] = {}
    data = request(OTHER)
    call = {"user_data": b"", "measurement_length": 1, "additional_length": 1}
    assert refused(AttestCall(request(), **{**call, "measurement_length": 64})).code == 0x010E
    assert refused(AttestCall(request(), **call)).code == 0x010D
    assert refused(AttestCall(data, **call)).code == 0x010C
    for offset, value, code in (
        (0x3B, b"\x02", 0x010B),
        (0x37, b"\x01", 0x010A),
        (0x30, b"\x38", 0x0109),
        (0x0C, b"\x00\x00\x01\x91", 0x0107),
        (0x27, b"\x00", 0x0108),
        (0x08, b"\x00\x00\x02\x00", 0x0106),
    ):
        wrong[offset] = value
        assert refused(AttestCall(patched(wrong), **call)).code == code
    assert refused(AttestCall(patched(wrong), **{**call, "user_data": bytes(300)})).code == 0x0102


def test_part3_T1_every_flipped_byte_of_a_request_is_refused():
    good = request()
    for offset in range(len(good)):
        bad = bytearray(good)
        bad[offset] ^= 0x10
        refused(AttestCall(bytes(bad)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=500), st.binary(max_size=300), st.integers(0, 0x10000), st.integers(0, 0x10000))
def test_no_bytes_are_more_than_refused(data: bytes, user: bytes, first: int, second: int) -> None:
    refused(AttestCall(data, user, first, second))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_lengths_that_lie_are_refused(data: st.DataObject) -> None:
    good = request()
    offset, width = data.draw(st.sampled_from([(0x0C, 4), (0x27, 1), (0x2C, 4)]))
    value = data.draw(st.integers(0, 256**width - 1)).to_bytes(width, "big")
    if value != good[offset : offset + width]:
        refused(AttestCall(good[:offset] + value + good[offset + width :]))


# --- with a whole machine


def _asked(machine: Machine, document: str | None = None) -> AttestationRequest:
    pem = document or machine.firmware.host_key_certificate()
    return Owner([pem.encode()]).attestation_request(ASKED)


def _attested(machine: Machine, guest: Instance, made: AttestationRequest) -> AttestationFile:
    asked = AttestationFile.decode(made.data)
    answer: Attestation = machine.firmware.attest(guest.id, AttestCall(asked.request, b"mine"))
    return AttestationFile(asked.request, answer.measurement, answer.additional, b"mine", answer.cuid)


def test_the_owner_learns_cuid_and_store(machine: Machine) -> None:
    guest = machine.guest("payments")
    tags = []
    made = _asked(machine)
    for secret in ("a", "b"):
        request_ = machine.request(guest, secret)
        tags.append(request_[-16:])
        machine.firmware.add_secret(guest.id, request_)
        expected = Expected(b"mine", secret_store_hash(tags, locked=False), (machine.host_key.hash,))
        found = verify(_attested(machine, guest, made), made.key, guest.identity, expected)
        assert found.cuid == guest.cuid
    machine.firmware.lock_secrets(guest.id)
    expected = Expected(secret_store_hash=secret_store_hash(tags, locked=True))
    verify(_attested(machine, guest, made), made.key, guest.identity, expected)


def test_two_instances_of_one_image_have_two_cuids(machine: Machine) -> None:
    made = _asked(machine)
    first = machine.start("one")
    second = machine.start("two", machine.image("one"))
    cuids = {
        verify(_attested(machine, guest, made), made.key, guest.identity).cuid for guest in (first, second)
    }
    assert cuids == {first.cuid, second.cuid}
    assert len(cuids) == 2


def test_the_image_was_opened_with_an_older_key_than_the_request(machine: Machine) -> None:
    """Both are told apart, over a restart too."""
    guest = machine.guest("payments")
    older = machine.host_key.hash
    machine.firmware.host_keys.rotate()
    machine.again()
    made = _asked(machine)
    found = verify(_attested(machine, guest, made), made.key, guest.identity)
    assert found.additional.image_host_key == older
    assert found.additional.attestation_host_key == machine.host_key.hash != older


def test_part3_T2_a_request_for_an_older_host_key_is_refused(machine: Machine) -> None:
    guest = machine.guest("payments")
    made = _asked(machine)
    machine.firmware.host_keys.rotate()
    verify(_attested(machine, guest, made), made.key, guest.identity)
    machine.firmware.host_keys.rotate()
    with pytest.raises(AttestationRefused) as caught:
        _attested(machine, guest, made)
    assert caught.value.code == 0x010C


def test_attestations_are_in_the_audit_log(machine: Machine) -> None:
    guest = machine.guest("payments")
    _attested(machine, guest, _asked(machine))
    with pytest.raises(AttestationRefused):
        machine.firmware.attest(guest.id, AttestCall(b""))
    done, not_done = machine.firmware.audit_log()[-2:]
    assert (done.event, done.detail["outcome"]) == ("attest", "done")
    assert (not_done.event, not_done.detail["outcome"]) == ("attest", "refused")
    assert "0x0107" in not_done.detail["reason"]


def test_a_guest_that_does_not_run_is_not_measured(machine: Machine) -> None:
    with pytest.raises(NotFound):
        machine.firmware.attest(InstanceId("0" * 32), AttestCall(request()))
