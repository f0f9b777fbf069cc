"""Every use of pkcs11-tool that the stock client of Debian 12 can carry, on an associated HSM, with the real programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.end_to_end.conftest import HSM, World


@pytest.fixture
def world(associated: World) -> World:
    """The module's world, with fresh files. Ids of keys are the test's own."""
    (associated.directory / "data").write_bytes(b"0123456789abcdef" * 8)
    (associated.directory / "digest").write_bytes(bytes(32))
    return associated


def _read(world: World, name: str) -> bytes:
    return (world.directory / name).read_bytes()


def test_tells_about_itself(world: World) -> None:
    assert HSM in world.tool("payments", "-L").ok()
    assert HSM in world.tool("payments", "-T").ok()
    assert "AES-KEY-GEN" in world.tool("payments", "-M").ok()


def test_digests_like_openssl(world: World) -> None:
    world.tool("payments", "--hash", "-m", "SHA256", "-i", "data", "-o", "hash").ok()
    assert world.run("openssl", "dgst", "-sha256", "-binary", "-out", "expected", "data").ok() == ""
    assert _read(world, "hash") == _read(world, "expected")


def test_rsa(world: World) -> None:
    key = ("--login", "--id", "01")
    world.tool("payments", *key, "--keypairgen", "--key-type", "rsa:2048").ok()
    sign = ("-m", "RSA-PKCS-PSS", "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256")
    world.tool("payments", *key, "--sign", *sign, "-i", "digest", "-o", "signature").ok()
    verify = (*key, "--verify", *sign, "-i", "digest", "--signature-file", "signature")
    assert "valid" in world.tool("payments", *verify).ok()
    (world.directory / "digest").write_bytes(b"\1" * 32)
    assert "Invalid signature" in world.tool("payments", *verify).told

    world.tool("payments", "--read-object", "--type", "pubkey", "--id", "01", "-o", "public.der").ok()
    encrypt = ("openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "public.der")
    world.run(*encrypt, "-in", "digest", "-out", "secret").ok()
    world.tool("payments", *key, "--decrypt", "-m", "RSA-PKCS", "-i", "secret", "-o", "plain").ok()
    assert _read(world, "plain") == _read(world, "digest")


@pytest.mark.parametrize(("curve", "id_"), [("prime256v1", "02"), ("secp384r1", "03"), ("secp521r1", "04")])
def test_elliptic_curves(world: World, curve: str, id_: str) -> None:
    key = ("--login", "--id", id_)
    world.tool("payments", *key, "--keypairgen", "--key-type", f"EC:{curve}").ok()
    sign = ("-m", "ECDSA", "--signature-format", "openssl", "-i", "digest")
    world.tool("payments", *key, "--sign", *sign, "-o", "signature").ok()
    assert "valid" in world.tool("payments", *key, "--verify", *sign, "--signature-file", "signature").ok()
    if curve == "secp384r1":
        return  # OpenSC 0.23 cannot write this public key out ("cannot create EVP_PKEY"), from plain SoftHSM neither
    world.tool("payments", "--read-object", "--type", "pubkey", "--id", id_, "-o", "public.der").ok()
    verify = ("openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "public.der")
    assert "Successfully" in world.run(*verify, "-in", "digest", "-sigfile", "signature").ok()


def test_secret_keys(world: World) -> None:
    aes = ("--login", "--id", "10")
    world.tool("payments", *aes, "--keygen", "--key-type", "AES:32").ok()
    world.tool("payments", *aes, "--encrypt", "-m", "AES-ECB", "-i", "data", "-o", "secret").ok()
    assert _read(world, "secret") != _read(world, "data")
    world.tool("payments", *aes, "--decrypt", "-m", "AES-ECB", "-i", "secret", "-o", "plain").ok()
    assert _read(world, "plain") == _read(world, "data")

    mac = ("--login", "--id", "11")
    world.tool("payments", *mac, "--keygen", "--key-type", "GENERIC:32").ok()
    world.tool("payments", *mac, "--sign", "-m", "SHA256-HMAC", "-i", "data", "-o", "tag").ok()
    verify = ("--verify", "-m", "SHA256-HMAC", "-i", "data", "--signature-file", "tag")
    assert "valid" in world.tool("payments", *mac, *verify).ok()


def test_objects_are_written_read_and_deleted(world: World) -> None:
    data = ("--type", "data", "--label", "note")
    world.tool("payments", "--login", "--write-object", "data", *data, "--private").ok()
    assert "note" in world.tool("payments", "--login", "-O").ok()
    assert "note" not in world.tool("payments", "-O").ok()
    world.tool("payments", "--login", "--read-object", *data, "-o", "read").ok()
    assert _read(world, "read") == _read(world, "data")
    world.tool("payments", "--login", "--delete-object", *data).ok()
    assert "note" not in world.tool("payments", "--login", "-O").ok()


def test_imported_keys_are_the_same_keys(world: World) -> None:
    world.run(
        "openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-outform", "DER", "-out", "key.der"
    ).ok()
    world.tool("payments", "--login", "--write-object", "key.der", "--type", "privkey", "--id", "20").ok()
    sign = ("--sign", "-m", "ECDSA", "--signature-format", "openssl", "-i", "digest", "-o", "signature")
    world.tool("payments", "--login", "--id", "20", *sign).ok()
    verify = ("openssl", "pkeyutl", "-verify", "-keyform", "DER", "-inkey", "key.der", "-in", "digest")
    assert "Successfully" in world.run(*verify, "-sigfile", "signature").ok()


def test_keys_are_wrapped_and_unwrapped(world: World) -> None:
    world.tool("payments", "--login", "--id", "31", "--keypairgen", "--key-type", "rsa:2048").ok()
    world.tool("payments", "--login", "--id", "32", "--keygen", "--key-type", "AES:32", "--extractable").ok()
    wrap = ("--wrap", "-m", "RSA-PKCS", "--id", "31", "--application-id", "32", "-o", "wrapped")
    world.tool("payments", "--login", *wrap).ok()
    assert len(_read(world, "wrapped")) == 256
    unwrap = ("--unwrap", "-m", "RSA-PKCS", "--id", "31", "-i", "wrapped", "--key-type", "AES:")
    world.tool("payments", "--login", *unwrap, "--application-id", "33").ok()
    for id_, name in (("32", "first"), ("33", "second")):
        world.tool(
            "payments", "--login", "--encrypt", "-m", "AES-ECB", "--id", id_, "-i", "data", "-o", name
        ).ok()
    assert _read(world, "first") == _read(world, "second")


def test_certificates(world: World, tmp_path: Path) -> None:
    make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=keyvisor test")
    world.run(*make, "-keyout", tmp_path / "key.pem", "-outform", "DER", "-out", "certificate.der").ok()
    certificate = ("--type", "cert", "--id", "21")
    world.tool("payments", "--login", "--write-object", "certificate.der", *certificate).ok()
    world.tool("payments", "--read-object", *certificate, "-o", "read").ok()
    assert _read(world, "read") == _read(world, "certificate.der")


def test_where_no_pin_is_set_none_must_be_given(world: World) -> None:
    assert "CKR_PIN_INCORRECT" in world.tool("payments", "--login", "--pin", "1234", "-O").refused()
