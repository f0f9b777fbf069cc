"""Secrets of a guest with the real daemon and command: a key that signs and is never there, and nothing in the clear."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest import Guest, Host, Refused
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind

from .conftest import World

SCALAR = int.from_bytes(b"\xa5\x5a\x17\x71" * 8, "big")
KEY = SCALAR.to_bytes(32, "big")
HMAC_KEY = b"\xb6\x6b\x28\x82" * 16
PAYLOAD = b"an API token, thirty bytes long"[:30]
EXTENSION = b"\xc7\x7c\x39\x93" * 8


def request(world: World, guest: str, name: str, kind: SecretKind, value: bytes) -> Path:
    """The owner's request for a secret of any kind, all with one extension secret."""
    told = Guest(guest, state=world.state).identity()
    identity = BootIdentity(
        *(bytes.fromhex(text) for text in (told.pld, told.ald, told.tld, told.header_tag))
    )
    certificate = x509.load_pem_x509_certificate(Host(state=world.state).host_key_document())
    host_key = certificate.public_key()
    assert isinstance(host_key, ec.EllipticCurvePublicKey)
    fresh = FreshKeys(ec.generate_private_key(ec.SECP521R1()), os.urandom(32), os.urandom(12))
    path = world.directory / f"{name}.request"
    path.write_bytes(build(Draft(kind, identity, id_from_name(name), value, EXTENSION), fresh, [host_key]))
    return path


@pytest.fixture
def personal(world: World) -> World:
    """The guest `payments` with an EC key, an HMAC key and a plaintext secret."""
    world.guest("payments")
    add_all(world)
    return world


def add_all(world: World) -> None:
    text = len(PAYLOAD).to_bytes(2, "big") + PAYLOAD
    files = [
        request(world, "payments", "signer", SecretKind.EC_P256, KEY),
        request(world, "payments", "code", SecretKind.HMAC_SHA_256, HMAC_KEY),
        request(world, "payments", "token", SecretKind.PLAINTEXT, text),
    ]
    world.keyvisor("guest", "secret", "add", "--guest", "payments", *files).ok()


def test_part3_T8_a_key_signs_in_its_guest_and_dies_with_it(personal: World) -> None:
    public = ec.derive_private_key(SCALAR, ec.SECP256R1()).public_key()
    key = Guest("payments", state=personal.state).secrets.retrieve("signer").key()
    assert key.public_key() == public
    for how in (None, signal.SIGTERM, signal.SIGKILL):
        if how is not None:
            personal.restart(how)
        public.verify(key.sign(b"pay 42"), b"pay 42", ec.ECDSA(hashes.SHA256()))
    personal.keyvisor("host", "stop", "payments").ok()
    personal.guest("payments")
    add_all(personal)
    with pytest.raises(Refused) as refused:
        key.sign(b"pay 42")
    assert (refused.value.kind, refused.value.code) == ("key", 0x02)
    again = Guest("payments", state=personal.state).secrets.retrieve("signer").key()
    public.verify(again.sign(b"pay 42"), b"pay 42", ec.ECDSA(hashes.SHA256()))


def test_a_program_in_the_guest_needs_no_more_than_a_name(personal: World) -> None:
    program = (
        "from keyvisor_guest import Guest; print(Guest().secrets.retrieve('code').key().sign(b'x').hex())"
    )
    told = personal.keyvisor("guest", "exec", "--guest", "payments", "--", sys.executable, "-c", program).ok()
    assert len(bytes.fromhex(told.strip())) == 32


def test_the_verbs_of_pvsecret(personal: World) -> None:
    secret = ("guest", "secret")
    guest = ("--guest", "payments")
    listed = personal.keyvisor(*secret, "list", *guest).ok()
    assert listed.startswith("Total number of secrets: 3\n\n0 EC-SECP256R1-PRIVATE-KEY:\n  0x")
    retrieve = (*secret, "retrieve", *guest, "--inform", "name")
    assert PAYLOAD.decode() == personal.keyvisor(*retrieve, "token", "--outform", "bin").ok()
    assert "\nkind: EC-SECP256R1-PRIVATE-KEY\n" in personal.keyvisor(*retrieve, "signer").ok()
    again = personal.directory / "token.request"
    assert "--force" in personal.keyvisor(*secret, "add", *guest, again).refused()
    personal.keyvisor(*secret, "lock", *guest).ok()
    refused = "error: Ultravisor: 'the secret store is locked; a new start of the guest has an empty store' (0x0102,0x0000)\n"
    assert personal.keyvisor(*secret, "lock", *guest).refused() == refused
    assert personal.keyvisor(*secret, "add", *guest, "--force", again).refused() == refused
    assert PAYLOAD.decode() == personal.keyvisor(*retrieve, "token", "--outform", "bin").ok()


def test_part3_T8_secrets_of_all_kinds_are_nowhere_in_the_clear(personal: World) -> None:
    """Neither in what the daemon wrote nor in what it said, nor in its argv or environment, nor in the audit log."""
    secrets = Guest("payments", state=personal.state).secrets
    for name in ("signer", "code"):
        assert secrets.retrieve(name).key().sign(b"pay 42")
    assert secrets.retrieve("token").plaintext() == PAYLOAD
    for attempt in (
        lambda: secrets.retrieve(7),
        lambda: secrets.retrieve("signer").key().encrypt(b"", iv=b""),
        lambda: secrets.add((personal.directory / "token.request").read_bytes()[:-1]),
    ):
        with pytest.raises(Refused):
            attempt()
    said = personal.keyvisor("audit").ok().encode()
    assert personal.daemon is not None
    places = [path for path in personal.state.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" or b"SQLite" in path.read_bytes()[:16] for path in places)
    places += [personal.directory / "daemon.log"]
    places += [Path(f"/proc/{personal.daemon.pid}/{name}") for name in ("cmdline", "environ")]
    for what, data in [("audit", said), *((str(place), place.read_bytes()) for place in places)]:
        for value in (KEY, HMAC_KEY, PAYLOAD, EXTENSION):
            for form in (value[:16], value[:16].hex().encode(), value[:16].hex().upper().encode()):
                assert form not in data, what
