"""What comes back of a guest's secrets, and protected keys, against the firmware's story."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvisor_guest import DoorBroken, Guest, Refused, SdkError
from keyvisor_guest.secrets import ProtectedKey, Retrieved
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.messages import MAX_KEY_DATA
from keyvisor_guest.wire.secret_kinds import SecretKind

TEXT_ID = hashlib.sha256(b"greeting").hexdigest()
BLOB = bytes(range(64))


def listed(index: int, kind: int, secret_id: str, length: int = 64) -> messages.Secret:
    return messages.Secret(index=index, type=kind, length=length, id=secret_id)


@pytest.fixture
def guest(firmware: Any) -> Guest:
    """After its association secret: a greeting in clear, an EC key, and a key under its own name."""
    firmware.story.secrets += [
        listed(1, SecretKind.PLAINTEXT, TEXT_ID, 16),
        listed(2, SecretKind.EC_P256, "ab" * 32),
        listed(3, SecretKind.AES_256, b"disk".ljust(32, b"\x00").hex()),
    ]
    firmware.story.values |= {1: b"\x00\x05hello" + bytes(9), 2: BLOB, 3: BLOB[::-1]}
    return Guest("payments", state=firmware.state)


@pytest.mark.parametrize(
    ("which", "index"),
    [("greeting", 1), (bytes.fromhex(TEXT_ID), 1), (1, 1), (b"\xab" * 32, 2), ("disk", 3), (3, 3)],
)
def test_a_secret_is_found_by_name_id_and_index(guest: Guest, which: str | bytes | int, index: int) -> None:
    found = guest.secrets.retrieve(which)
    assert found.index == index
    assert found.id.hex() == guest.secrets.list()[index].id


def test_the_hash_of_a_name_goes_before_the_name_itself(firmware: Any, guest: Guest) -> None:
    firmware.story.secrets.insert(0, listed(9, SecretKind.AES_256, b"greeting".ljust(32, b"\x00").hex()))
    assert guest.secrets.retrieve("greeting").index == 1


def test_of_several_with_one_id_the_first_that_can_be_retrieved_is_taken(firmware: Any, guest: Guest) -> None:
    firmware.story.secrets += [
        listed(4, SecretKind.ASSOCIATION, "cd" * 32, 32),
        listed(5, SecretKind.EC_P256, "cd" * 32),
        listed(6, SecretKind.EC_P256, "cd" * 32),
    ]
    firmware.story.values |= {5: BLOB, 6: BLOB}
    assert guest.secrets.retrieve(b"\xcd" * 32).index == 5


@pytest.mark.parametrize("which", ["unknown", b"\x00" * 32, b""])
def test_what_is_not_there_is_said(firmware: Any, guest: Guest, which: str | bytes) -> None:
    with pytest.raises(SdkError, match=r"no secret has .*keyvisor guest secret list"):
        guest.secrets.retrieve(which)
    assert "retrieve_secret" not in firmware.story.asked


def test_what_can_be_no_name_is_said(guest: Guest) -> None:
    with pytest.raises(SdkError, match="name"):
        guest.secrets.retrieve(" blank")


def test_the_firmwares_refusal_is_handed_on(guest: Guest) -> None:
    for which in (7, "payments-signing"):
        with pytest.raises(Refused) as refused:
            guest.secrets.retrieve(which)
        assert (refused.value.kind, refused.value.code) == ("uv", 0x0110)


def test_a_plaintext_secret_is_read_and_no_key(guest: Guest) -> None:
    found = guest.secrets.retrieve("greeting")
    assert (found.kind, found.plaintext()) == (SecretKind.PLAINTEXT, b"hello")
    with pytest.raises(SdkError, match=r"secret 1 is a plaintext: it is read with `plaintext\(\)`"):
        found.key()
    with pytest.raises(SdkError, match="read with"):
        _ = found.protected
    assert "hello" not in repr(found)


def test_a_key_is_used_and_never_read(guest: Guest) -> None:
    found = guest.secrets.retrieve(2)
    assert (found.kind, found.protected) == (SecretKind.EC_P256, BLOB)
    with pytest.raises(SdkError, match=r"secret 2 is an EC P-256 private key: it is used with `key\(\)`"):
        found.plaintext()
    assert repr(found.key()) == "<ProtectedKey: EC P-256 private key>"


def test_what_a_key_does_is_said_to_the_firmware(firmware: Any, guest: Guest) -> None:
    key = guest.secrets.retrieve(2).key()
    assert key.sign(b"abc") == b"cba", "the story answers backwards"
    assert key.sign(b"d" * 48, hash="SHA-384", digest=True)
    key.verify(b"abc", b"\xff\xfe")
    assert key.encrypt(b"abc", mode="GCM", iv=bytes(12), associated=b"head") == b"cba"
    assert key.decrypt(b"cba", iv=bytes(16)) == b"abc"
    said = [
        (use.operation, use.data, {name: getattr(use.parameters, name) for name in _given(use)})
        for use in firmware.story.uses
    ]
    assert said == [
        ("sign", b"abc", {}),
        ("sign", b"d" * 48, {"hash": "SHA-384", "digest": True}),
        ("verify", b"abc", {"signature": b"\xff\xfe"}),
        ("encrypt", b"abc", {"mode": "GCM", "iv": bytes(12), "associated": b"head"}),
        ("decrypt", b"cba", {"iv": bytes(16)}),
    ]
    assert {(use.blob, use.kind) for use in firmware.story.uses} == {(BLOB, 0x11)}


def _given(use: messages.UseProtectedKey) -> set[str]:
    return set(use.parameters.model_dump(exclude_defaults=True))


def test_a_public_key_is_one(firmware: Any, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    public = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = guest.secrets.retrieve(2).key()
    monkeypatch.setattr(ProtectedKey, "_use", lambda *_: der)
    assert key.public_key() == public


def test_a_key_of_another_start_is_refused_with_its_numbering(firmware: Any, guest: Guest) -> None:
    key = guest.secrets.retrieve(2).key()
    firmware.story.values.clear()
    with pytest.raises(Refused) as refused:
        key.sign(b"abc")
    assert (refused.value.kind, refused.value.code) == ("key", 0x02)


def test_more_data_than_one_use_takes_are_not_sent(firmware: Any, guest: Guest) -> None:
    key = guest.secrets.retrieve(2).key()
    with pytest.raises(SdkError, match="at most 1048576 bytes, not 1048577"):
        key.sign(bytes(MAX_KEY_DATA + 1))
    assert firmware.story.uses == []


def test_a_kind_that_is_unknown_here_is_another_version(firmware: Any, guest: Guest) -> None:
    firmware.story.secrets[1] = listed(1, 0x99, TEXT_ID)
    with pytest.raises(DoorBroken, match="another version"):
        guest.secrets.retrieve(1)


def test_a_secret_of_another_kind_meets_no_rule(firmware: Any, guest: Guest) -> None:
    """A policy's secret is an association secret; a plaintext one with its id is none."""
    firmware.story.secrets[0] = listed(0, SecretKind.PLAINTEXT, firmware.story.secrets[0].id)
    text = "version: 1\nassociations:\n  - name: payments-signing\n    hsm: {mode: ep11, serial: 93AADFK719460083}\n"
    plan = guest.apply(text, dry_run=True)
    assert plan.unmet


def test_what_was_retrieved_compares_without_its_door(guest: Guest) -> None:
    one, other = guest.secrets.retrieve(2), guest.secrets.retrieve(2)
    assert isinstance(one, Retrieved)
    assert one == other


def test_a_key_is_used_from_its_document(firmware: Any, guest: Guest) -> None:
    found = guest.secrets.retrieve(2)
    key = guest.secrets.protected_key(found.pem())
    assert key.kind is SecretKind.EC_P256
    key.sign(b"abc")
    found.key().sign(b"abc")
    assert firmware.story.uses[0] == firmware.story.uses[1]
    with pytest.raises(Malformed, match="secret retrieve"):
        guest.secrets.protected_key(guest.secrets.retrieve(1).pem())
