"""An owner who trusts the operator's word about one root CA, and a host that is not trusted: with the real command."""

from __future__ import annotations

from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from .conftest import World

TRUST = ("-C", "keys/signing-key.crt", "--crl", "keys/signing-key.crl", "--root-ca", "keys/root-ca.crt")


def _keys(world: World) -> None:
    """The host's documents; the owner compares the root's fingerprint with what the operator says."""
    world.keyvisor("host", "host-keys", "-o", "keys").ok()
    root = x509.load_pem_x509_certificate((world.directory / "keys/root-ca.crt").read_bytes())
    told = world.json("hsm", "host-key", "list")["root_fingerprint"]
    assert root.fingerprint(hashes.SHA256()).hex() == told


def _attested(world: World, *asked: str, key: str = "host-key.crt") -> Any:
    words = [word for name in asked for word in ("--add-data", name)]
    create = (
        "owner",
        "attest",
        "create",
        "-k",
        f"keys/{key}",
        *TRUST,
        "-o",
        "q",
        "--arpk",
        "k",
        "-f",
        *words,
    )
    world.keyvisor(*create).ok()
    return world.keyvisor("guest", "attest", "--guest", "payments", "-i", "q", "-o", "a")


def _verified(world: World, *expected: str) -> Any:
    verify = ("owner", "attest", "verify", "-i", "a", "--arpk", "k", "--identity", "payments.identity")
    return world.keyvisor(*verify, *expected)


def test_an_owner_learns_the_instance_and_personalizes_only_it(world: World) -> None:
    world.guest("payments")
    _keys(world)
    first = world.request("payments", "first")  # also writes the owner's own copy of the boot identity
    world.keyvisor("guest", "secret", "add", "--guest", "payments", first).ok()
    _attested(world, "phkh-img", "phkh-att", "secret-store-hash").ok()
    told = yaml.safe_load(_verified(world, "--request", str(first), "--open", "-k", "keys/host-key.crt").ok())
    assert told["cuid"].removeprefix("0x") == world.json("host", "list")["guests"][0]["cuid"]
    assert told["verified"] == ["measurement", "secret_store_hash", "host_keys"]

    world.keyvisor(
        "owner", "request", "association", "second", "-k", "keys/host-key.crt", *TRUST, "--identity",
        "payments.identity", "--cuid-hex", told["cuid"], "-o", "second.request",
    ).ok()  # fmt: skip
    world.keyvisor("guest", "secret", "add", "--guest", "payments", "second.request").ok()
    world.keyvisor("guest", "secret", "lock", "--guest", "payments").ok()
    _attested(world, "secret-store-hash").ok()
    both = ("--request", str(first), "--request", "second.request")
    _verified(world, *both, "--locked").ok()
    assert "not in the expected state" in _verified(world, *both, "--open").refused()
    assert "not in the expected state" in _verified(world, "--request", str(first), "--locked").refused()

    world.keyvisor("host", "stop", "payments").ok()
    world.keyvisor("host", "start", "payments", "--image", "payments.img").ok()
    refused = world.keyvisor("guest", "secret", "add", "--guest", "payments", "second.request").refused()
    assert "another instance" in refused
    _attested(world).ok()
    assert yaml.safe_load(_verified(world).ok())["cuid"] != told["cuid"]
    by_image = ("owner", "attest", "verify", "-i", "a", "--arpk", "k", "--hdr", "payments.img")
    assert yaml.safe_load(world.keyvisor(*by_image).ok())["cuid"] != told["cuid"]
    assert "exclude each other" in world.keyvisor(*by_image, "--identity", "payments.identity").told


def test_part3_T2_another_image_under_the_same_name_is_found_out(world: World) -> None:
    world.guest("payments")
    _keys(world)
    world.keyvisor("host", "stop", "payments").ok()
    build = ("owner", "image", "build", "-k", "host-key.pem", "--no-verify", "--cmdline", "the host's own")
    world.keyvisor(*build, "-o", "hosts.img").ok()
    world.keyvisor("host", "start", "payments", "--image", "hosts.img").ok()
    _attested(world).ok()
    assert "NOT verified" in _verified(world).refused()


def test_host_keys_rotate_and_are_revoked_over_a_restart(world: World) -> None:
    world.guest("payments")
    _keys(world)
    world.request("payments", "first")
    world.keyvisor("hsm", "host-key", "rotate").ok()
    world.restart()
    _attested(world).ok()  # for the key that is the backup now
    world.keyvisor("hsm", "host-key", "rotate").ok()
    world.restart()
    assert "0x010c" in _attested(world).refused()
    documents = {one["use"]: one for one in world.json("hsm", "host-key", "list")["documents"]}
    world.keyvisor("hsm", "host-key", "revoke", documents["current"]["serial"]).ok()
    _keys(world)
    create = ("owner", "attest", "create", "-k", "keys/host-key.crt", *TRUST, "-o", "q", "--arpk", "k", "-f")
    assert "was revoked" in world.keyvisor(*create).refused()
    _attested(world, key="host-key-backup.crt").ok()
    audit = [entry["event"] for entry in world.json("audit")["entries"]]
    assert audit.count("rotate host key") == 2
    assert audit.count("revoke host key") == 1
