"""The operator token: what is computed in it, and what never leaves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_hsm.errors import OperatorTokenError, SealBroken
from keyvisor_hsm.master_keys import OperatorToken

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "operator"


@pytest.fixture(scope="module")
def token(home: Path, softhsm: Path) -> Iterator[OperatorToken]:
    token = OperatorToken.open(home, softhsm)
    for name in ("red", "blue"):
        token.ensure_master_key(name)
    yield token
    token.close()


@pytest.fixture(scope="module")
def reopened(token: OperatorToken, home: Path, softhsm: Path) -> Iterator[OperatorToken]:
    """The same token after a restart."""
    again = OperatorToken.open(home, softhsm)
    yield again
    again.close()


# --- verification patterns


def test_a_pattern_has_16_bytes_and_stays_over_a_restart(
    token: OperatorToken, reopened: OperatorToken
) -> None:
    assert len(token.mkvp("red")) == 16
    assert token.mkvp("red") == token.mkvp("red") == reopened.mkvp("red")


def test_a_pattern_tells_which_key_it_is(token: OperatorToken) -> None:
    assert token.mkvp("red") != token.mkvp("blue")


def test_a_master_key_that_is_there_is_not_made_again(token: OperatorToken, reopened: OperatorToken) -> None:
    before = token.mkvp("red")
    token.ensure_master_key("red")
    reopened.ensure_master_key("red")
    assert token.mkvp("red") == before


def test_the_same_name_on_another_machine_is_another_key(
    token: OperatorToken, softhsm: Path, tmp_path: Path
) -> None:
    other = OperatorToken.open(tmp_path / "operator", softhsm)
    other.ensure_master_key("red")
    assert other.mkvp("red") != token.mkvp("red")
    other.close()


@pytest.mark.parametrize("name", ["green", "", "Red", "red\0", "master key: red", "seal"])
def test_an_unknown_master_key_is_said_so(name: str, token: OperatorToken) -> None:
    with pytest.raises(OperatorTokenError, match="no master key `"):
        token.mkvp(name)


# --- partition keys


def test_partition_keys_are_the_same_each_time(token: OperatorToken, reopened: OperatorToken) -> None:
    assert token.partition_keys("red", SECRET) == reopened.partition_keys("red", SECRET)


def test_partition_keys_differ_by_master_key_and_by_secret(token: OperatorToken) -> None:
    other = bytes((SECRET[0] ^ 1, *SECRET[1:]))
    all_keys = [token.partition_keys(name, secret) for name in ("red", "blue") for secret in (SECRET, other)]
    for part in ("directory", "user_pin", "so_pin"):
        assert len({getattr(keys, part) for keys in all_keys}) == 4


def test_what_is_derived_for_one_use_is_nothing_of_another(token: OperatorToken) -> None:
    """Who knows a directory's name, which lies open, must not know a PIN or a pattern."""
    keys = token.partition_keys("red", SECRET)
    derived = {keys.directory, keys.user_pin.decode(), keys.so_pin.decode(), token.mkvp("red").hex()}
    assert len(derived) == 4
    assert all(len(one) == 32 for one in derived)


def test_neither_the_secret_nor_its_digest_is_in_what_is_derived(token: OperatorToken) -> None:
    keys = token.partition_keys("red", SECRET)
    assert SECRET.hex()[:16] not in keys.directory + keys.user_pin.decode() + keys.so_pin.decode()


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_an_association_secret_has_32_bytes(length: int, token: OperatorToken) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        token.partition_keys("red", bytes(length))


# --- what never leaves


def test_no_key_can_be_read_or_taken_out(token: OperatorToken) -> None:
    token.seal(b"", b"")  # so that the sealing key is there
    keys = list(token._session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY}))
    assert len(keys) == 3
    for key in keys:
        assert (key[pkcs11.Attribute.EXTRACTABLE], key[pkcs11.Attribute.SENSITIVE]) == (False, True)
        assert (key[pkcs11.Attribute.NEVER_EXTRACTABLE], key[pkcs11.Attribute.ALWAYS_SENSITIVE]) == (
            True,
            True,
        )
        assert not any(
            key[use] for use in (pkcs11.Attribute.WRAP, pkcs11.Attribute.UNWRAP, pkcs11.Attribute.DERIVE)
        )
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]
        with pytest.raises(pkcs11.PKCS11Error):
            key[pkcs11.Attribute.EXTRACTABLE] = True


def test_a_master_key_seals_nothing_and_the_sealing_key_signs_nothing(token: OperatorToken) -> None:
    token.seal(b"", b"")
    keys = {
        key[pkcs11.Attribute.LABEL]: key
        for key in token._session.get_objects({pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES})
    }
    assert keys["master key: red"][pkcs11.Attribute.ENCRYPT] is False
    assert keys["master key: red"][pkcs11.Attribute.DECRYPT] is False
    assert keys["seal"][pkcs11.Attribute.SIGN] is False


def test_the_pin_file_is_its_owners_alone(token: OperatorToken, home: Path) -> None:
    assert (home / "pin").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    pins = (home / "pin").read_text().split()
    assert len(pins) == 2
    for path in home.rglob("*"):
        if path.is_file() and path.name != "pin":
            assert not any(pin.encode() in path.read_bytes() for pin in pins), path


def test_two_tokens_have_other_pins(home: Path, token: OperatorToken, softhsm: Path, tmp_path: Path) -> None:
    OperatorToken.open(tmp_path / "operator", softhsm).close()
    pins = {*(home / "pin").read_text().split(), *(tmp_path / "operator" / "pin").read_text().split()}
    assert len(pins) == 4


@pytest.mark.parametrize("content", [b"", b"one\n", b"one two three\n", b"\xff\xfe \xff\n", b"wrong pins\n"])
def test_a_damaged_pin_file_is_said_so(content: bytes, softhsm: Path, tmp_path: Path) -> None:
    OperatorToken.open(tmp_path / "operator", softhsm).close()
    (tmp_path / "operator" / "pin").write_bytes(content)
    with pytest.raises(OperatorTokenError, match=r"does not open: .*(two PINs|C_Login answered)"):
        OperatorToken.open(tmp_path / "operator", softhsm)


def test_a_draft_that_a_crash_left_does_not_matter(softhsm: Path, tmp_path: Path) -> None:
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "pin.draft").write_text("half")
    OperatorToken.open(tmp_path / "operator", softhsm).close()
    assert not (tmp_path / "operator" / "pin.draft").exists()


def test_a_missing_module_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(OperatorTokenError, match=r"does not open: .*missing\.so"):
        OperatorToken.open(tmp_path / "operator", tmp_path / "missing.so")


def test_the_environment_is_left_as_it_was(
    softhsm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "/somebody's/own")
    OperatorToken.open(tmp_path / "operator", softhsm).close()
    assert os.environ["SOFTHSM2_CONF"] == "/somebody's/own"


# --- sealing


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.binary(max_size=64))
def test_what_is_sealed_opens_for_its_place(token: OperatorToken, plaintext: bytes, context: bytes) -> None:
    sealed = token.seal(plaintext, context)
    assert token.unseal(sealed, context) == plaintext
    assert len(sealed) == len(plaintext) + 28
    with pytest.raises(SealBroken):
        token.unseal(sealed, context + b"x")


def test_what_was_sealed_opens_after_a_restart(token: OperatorToken, reopened: OperatorToken) -> None:
    assert reopened.unseal(token.seal(b"value", b"place"), b"place") == b"value"


def test_the_same_value_is_never_sealed_to_the_same_bytes(token: OperatorToken) -> None:
    sealed = [token.seal(b"value", b"place") for _ in range(8)]
    assert len({one[:12] for one in sealed}) == len(set(sealed)) == 8


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_seal_does_not_open(token: OperatorToken, data: st.DataObject) -> None:
    sealed = bytearray(token.seal(b"sixteen bytes...", b"place"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealBroken):
        token.unseal(bytes(sealed), b"place")


@pytest.mark.parametrize("length", [0, 1, 12, 27, 28, 43])
def test_a_shortened_seal_does_not_open(length: int, token: OperatorToken) -> None:
    with pytest.raises(SealBroken):
        token.unseal(token.seal(b"sixteen bytes...", b"place")[:length], b"place")


def test_another_machines_seal_does_not_open(token: OperatorToken, softhsm: Path, tmp_path: Path) -> None:
    other = OperatorToken.open(tmp_path / "operator", softhsm)
    with pytest.raises(SealBroken):
        token.unseal(other.seal(b"value", b"place"), b"place")
    other.close()


# --- signing keys


def good(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the signature is by the key, as somebody outside the token finds."""
    key = serialization.load_der_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature:
        return False
    return True


def test_a_signature_is_verified_with_the_public_key_alone(token: OperatorToken) -> None:
    key = token.signing_key("audit")
    digest = os.urandom(32)
    signature = key.sign(digest)
    assert len(signature) == 64
    assert good(key.public_key, digest, signature)
    assert not good(key.public_key, os.urandom(32), signature)
    assert not good(token.signing_key("other").public_key, digest, signature)


def test_a_signing_key_is_made_once_and_stays_over_a_restart(
    token: OperatorToken, home: Path, softhsm: Path
) -> None:
    key = token.signing_key("stays")
    again = OperatorToken.open(home, softhsm)
    assert again.signing_key("stays").public_key == key.public_key == token.signing_key("stays").public_key
    digest = os.urandom(32)
    assert good(key.public_key, digest, again.signing_key("stays").sign(digest))
    again.close()


def test_a_signing_key_signs_digests_only(token: OperatorToken) -> None:
    for length in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            token.signing_key("audit").sign(bytes(length))


def test_a_private_key_does_not_leave_the_token(token: OperatorToken) -> None:
    token.signing_key("audit")
    private = token._session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="signing key: audit")
    assert (private[pkcs11.Attribute.EXTRACTABLE], private[pkcs11.Attribute.SENSITIVE]) == (False, True)
    with pytest.raises(pkcs11.exceptions.PKCS11Error):
        _ = private[pkcs11.Attribute.VALUE]


# --- what the token remembers


def test_the_token_remembers_the_last_value_over_a_restart(
    token: OperatorToken, home: Path, softhsm: Path
) -> None:
    assert token.remembered("head") == ()
    for value in (b"1", b"two", b""):
        token.remember("head", value)
        assert token.remembered("head") == (value,)
    token.remember("head", b"3")
    assert token.remembered("other") == ()
    again = OperatorToken.open(home, softhsm)
    assert again.remembered("head") == (b"3",)
    again.close()


def test_after_a_crash_between_the_new_value_and_the_old_both_are_there(
    token: OperatorToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.remember("crash", b"old")
    monkeypatch.setattr(token, "_data", lambda _label: ())  # as if it died before it took the old one away
    token.remember("crash", b"new")
    monkeypatch.undo()
    assert set(token.remembered("crash")) == {b"old", b"new"}
    token.remember("crash", b"newest")
    assert token.remembered("crash") == (b"newest",)


def test_a_token_that_is_gone_says_so(home: Path, softhsm: Path, token: OperatorToken) -> None:
    closed = OperatorToken.open(home, softhsm)
    key = closed.signing_key("audit")
    closed.close()
    with pytest.raises(OperatorTokenError, match="refused"):
        key.sign(bytes(32))
    assert token.signing_key("audit").sign(bytes(32))
