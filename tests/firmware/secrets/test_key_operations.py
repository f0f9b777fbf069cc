"""What is done with a protected key, held against `cryptography` with the key in clear, and every refusal's code."""

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR, XTS
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keyvisor_firmware.secrets import Hash, KeyCode, KeyParameters, KeyRefused, KeyUse, Mode, Operation
from keyvisor_firmware.secrets.key_operations import OPERATIONS, perform, require_key
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

from .conftest import VALUES

DATA = b"sixteen bytes it" * 3
IV = bytes(range(16))
AES_KINDS = (SecretKind.AES_128, SecretKind.AES_192, SecretKind.AES_256)
XTS_KINDS = (SecretKind.AES_XTS_128, SecretKind.AES_XTS_256)
HMACS = {SecretKind.HMAC_SHA_256: hashes.SHA256(), SecretKind.HMAC_SHA_512: hashes.SHA512()}
EC = {
    SecretKind.EC_P256: (ec.SECP256R1(), hashes.SHA256()),
    SecretKind.EC_P384: (ec.SECP384R1(), hashes.SHA384()),
    SecretKind.EC_P521: (ec.SECP521R1(), hashes.SHA512()),
}
ED = {
    SecretKind.ED25519: ed25519.Ed25519PrivateKey.from_private_bytes(VALUES[SecretKind.ED25519]),
    SecretKind.ED448: ed448.Ed448PrivateKey.from_private_bytes(VALUES[SecretKind.ED448][7:]),
}


def do(kind: SecretKind, operation: str, data: bytes = DATA, **parameters: object) -> bytes:
    given = KeyParameters(**parameters)  # type: ignore[arg-type]  # tests give bad ones too
    return perform(KeyUse(kind, b"", Operation(operation), data, given), VALUES[kind])


def refused(code: KeyCode):
    return pytest.raises(KeyRefused, check=lambda error: error.code is code)


def test_the_table_has_a_row_for_every_kind_of_key():
    assert set(OPERATIONS) == {row.kind for row in KINDS.values() if row.is_key}


@pytest.mark.parametrize("kind", AES_KINDS)
def test_gcm(kind):
    sealed = do(kind, "encrypt", mode=Mode.GCM, iv=IV[:12], associated=b"head")
    assert sealed == AESGCM(VALUES[kind]).encrypt(IV[:12], DATA, b"head")
    assert do(kind, "decrypt", sealed, mode=Mode.GCM, iv=IV[:12], associated=b"head") == DATA
    for changed in (
        {"data": sealed[:-1] + bytes([sealed[-1] ^ 1])},
        {"iv": IV[1:13]},
        {"associated": b"hand"},
        {"associated": None},
        {"data": b""},
    ):
        with refused(KeyCode.NOT_AUTHENTIC):
            do(
                kind,
                "decrypt",
                **{"data": sealed, "mode": Mode.GCM, "iv": IV[:12], "associated": b"head", **changed},
            )


@pytest.mark.parametrize("kind", AES_KINDS)
@pytest.mark.parametrize(("mode", "made"), [(Mode.CBC, CBC), (Mode.CTR, CTR)])
def test_cbc_and_ctr(kind, mode, made):
    encryptor = Cipher(AES(VALUES[kind]), made(IV)).encryptor()
    assert do(kind, "encrypt", mode=mode, iv=IV) == encryptor.update(DATA) + encryptor.finalize()
    assert do(kind, "decrypt", do(kind, "encrypt", mode=mode, iv=IV), mode=mode, iv=IV) == DATA
    assert do(kind, "encrypt", b"", mode=mode, iv=IV) == b""


@pytest.mark.parametrize("kind", XTS_KINDS)
@pytest.mark.parametrize("mode", [None, Mode.XTS])
def test_xts(kind, mode):
    data = DATA + b"not whole blocks"[:5]
    encryptor = Cipher(AES(VALUES[kind]), XTS(IV)).encryptor()
    assert do(kind, "encrypt", data, mode=mode, iv=IV) == encryptor.update(data) + encryptor.finalize()
    assert do(kind, "decrypt", do(kind, "encrypt", data, iv=IV), iv=IV) == data


@pytest.mark.parametrize("kind", HMACS)
def test_hmac(kind):
    code = hmac.HMAC(VALUES[kind], HMACS[kind])
    code.update(DATA)
    expected = code.finalize()
    assert do(kind, "sign") == expected
    assert do(kind, "verify", signature=expected) == b""
    for wrong in (expected[:-1], b"", expected[:-1] + bytes([expected[-1] ^ 1])):
        with refused(KeyCode.NOT_AUTHENTIC):
            do(kind, "verify", signature=wrong)


@pytest.mark.parametrize("kind", EC)
def test_ecdsa(kind):
    curve, own_hash = EC[kind]
    public = ec.derive_private_key(int.from_bytes(VALUES[kind], "big"), curve).public_key()
    assert load_der_public_key(do(kind, "public-key", b"")) == public
    public.verify(do(kind, "sign"), DATA, ec.ECDSA(own_hash))
    public.verify(do(kind, "sign", hash=Hash.SHA_384), DATA, ec.ECDSA(hashes.SHA384()))
    digest = bytes(range(own_hash.digest_size))
    signature = do(kind, "sign", digest, digest=True)
    public.verify(signature, digest, ec.ECDSA(Prehashed(own_hash)))
    assert do(kind, "verify", digest, digest=True, signature=signature) == b""
    assert do(kind, "verify", signature=do(kind, "sign")) == b""
    for wrong in (b"", bytes(70), do(kind, "sign", b"other data")):
        with refused(KeyCode.NOT_AUTHENTIC):
            do(kind, "verify", signature=wrong)
    for wrong_digest in (b"", digest[:-1], digest + b"\x00"):
        with refused(KeyCode.DATA_WRONG):
            do(kind, "sign", wrong_digest, digest=True)


@pytest.mark.parametrize("kind", ED)
def test_eddsa(kind):
    public = ED[kind].public_key()
    assert load_der_public_key(do(kind, "public-key", b"")) == public
    public.verify(do(kind, "sign"), DATA)
    assert do(kind, "verify", signature=do(kind, "sign")) == b""
    with refused(KeyCode.NOT_AUTHENTIC):
        do(kind, "verify", b"other data", signature=do(kind, "sign"))


@pytest.mark.parametrize("kind", [row.kind for row in KINDS.values() if row.is_key])
def test_what_a_kind_has_not_is_refused(kind):
    for operation in set(Operation) - set(OPERATIONS[kind]):
        with refused(KeyCode.NO_SUCH_OPERATION):
            do(kind, operation)


@pytest.mark.parametrize(
    ("kind", "operation", "parameters"),
    [
        (SecretKind.AES_128, "encrypt", {}),
        (SecretKind.AES_128, "encrypt", {"iv": IV}),
        (SecretKind.AES_128, "encrypt", {"mode": Mode.XTS, "iv": IV}),
        (SecretKind.AES_128, "encrypt", {"mode": Mode.GCM}),
        (SecretKind.AES_128, "encrypt", {"mode": Mode.GCM, "iv": IV}),
        (SecretKind.AES_128, "decrypt", {"mode": Mode.CBC, "iv": IV[:12]}),
        (SecretKind.AES_128, "decrypt", {"mode": Mode.CTR, "iv": b""}),
        (SecretKind.AES_128, "decrypt", {"mode": Mode.CTR, "iv": IV, "associated": b""}),
        (SecretKind.AES_128, "decrypt", {"mode": Mode.CTR, "iv": IV, "digest": True}),
        (SecretKind.AES_XTS_128, "encrypt", {"mode": Mode.GCM, "iv": IV[:12]}),
        (SecretKind.AES_XTS_128, "encrypt", {}),
        (SecretKind.AES_XTS_128, "encrypt", {"iv": IV, "associated": b""}),
        (SecretKind.HMAC_SHA_256, "sign", {"hash": Hash.SHA_256}),
        (SecretKind.HMAC_SHA_256, "sign", {"signature": b""}),
        (SecretKind.HMAC_SHA_256, "verify", {}),
        (SecretKind.EC_P256, "sign", {"iv": IV}),
        (SecretKind.EC_P256, "verify", {}),
        (SecretKind.EC_P256, "public-key", {"digest": True}),
        (SecretKind.ED25519, "sign", {"digest": True}),
        (SecretKind.ED25519, "verify", {}),
    ],
)
def test_parameters_that_are_missing_wrong_or_too_many_are_refused(kind, operation, parameters):
    with refused(KeyCode.PARAMETERS_WRONG):
        do(kind, operation, **parameters)


@pytest.mark.parametrize(
    ("kind", "operation", "data", "parameters"),
    [
        (SecretKind.AES_128, "encrypt", DATA[:-1], {"mode": Mode.CBC, "iv": IV}),
        (SecretKind.AES_128, "decrypt", DATA + b"\x00", {"mode": Mode.CBC, "iv": IV}),
        (SecretKind.AES_XTS_256, "encrypt", DATA[:15], {"iv": IV}),
        (SecretKind.AES_XTS_256, "decrypt", b"", {"iv": IV}),
        (SecretKind.EC_P384, "public-key", b"\x00", {}),
        (SecretKind.ED448, "public-key", b"\x00", {}),
    ],
)
def test_data_that_cannot_be_are_refused(kind, operation, data, parameters):
    with refused(KeyCode.DATA_WRONG):
        do(kind, operation, data, **parameters)


@pytest.mark.parametrize("kind", [row.kind for row in KINDS.values() if row.is_key])
def test_the_keys_of_these_tests_are_keys(kind):
    require_key(kind, VALUES[kind])


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SecretKind.EC_P256, bytes(32)),
        (SecretKind.EC_P256, b"\xff" * 32),
        (SecretKind.EC_P256, P256_ORDER.to_bytes(32, "big")),
        (SecretKind.EC_P384, b"\xff" * 48),
        (SecretKind.EC_P521, b"\x01" * 80),
        (SecretKind.ED448, b"\x01" + bytes(63)),
        (SecretKind.AES_XTS_128, bytes(32)),
        (SecretKind.AES_XTS_256, bytes(range(32)) * 2),
    ],
)
def test_a_key_that_is_none_is_not_one(kind, value):
    with pytest.raises(Malformed):
        require_key(kind, value)


def test_the_last_scalar_is_a_key():
    require_key(SecretKind.EC_P256, (P256_ORDER - 1).to_bytes(32, "big"))


def test_no_key_is_in_a_repr_or_an_error():
    use = KeyUse(
        SecretKind.AES_128, b"blob", Operation.SIGN, b"the data", KeyParameters(associated=b"beside")
    )
    with refused(KeyCode.NO_SUCH_OPERATION) as error:
        perform(use, VALUES[SecretKind.AES_128])
    for text in (repr(use), str(error.value)):
        assert "the data" not in text
        assert "beside" not in text
        assert VALUES[SecretKind.AES_128].hex() not in text
