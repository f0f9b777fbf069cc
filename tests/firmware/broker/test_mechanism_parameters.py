"""Mechanisms as each release of the client writes them, and the structures that the module gets (pkcs11-rpc, section 7)."""

from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import Failed, ProtocolError
from keyvisor_firmware.broker.mechanism_parameters import (
    NOT_READ,
    PARAMETERS,
    WITHOUT_PARAMETER,
    Encoding,
    read_mechanism,
)
from keyvisor_hsm.cryptoki import CKM, CKR
from keyvisor_hsm.cryptoki.native import Mechanism

from .encoder import NULL, sized, u32, u64

OLDEST, OLD, NEW = Encoding.UP_TO_0_24, Encoding.UP_TO_0_25_5, Encoding.FROM_0_25_6
VENDOR = 0x80001234


def read(data: bytes, encoding: Encoding = OLD) -> Mechanism | None:
    cursor = Cursor(data)
    found = read_mechanism(cursor, encoding)
    cursor.end()
    return found


def words(mechanism: Mechanism | None) -> tuple[int, ...]:
    """The parameter of a mechanism in memory, as numbers of eight bytes; whatever is at the module's disposal."""
    assert mechanism is not None
    type_, address, length = struct.unpack("=QQQ", ctypes.string_at(mechanism.address, 24))
    assert type_ == mechanism.type
    assert bool(address) == bool(length)
    return struct.unpack(f"={length // 8}Q", ctypes.string_at(address, length)) if length else ()


def flat(mechanism: Mechanism | None) -> bytes:
    return struct.pack(f"={len(words(mechanism))}Q", *words(mechanism))


def test_the_first_byte_tells_the_encoding() -> None:
    assert [Encoding.of(byte) for byte in (0, 1, 2, 3, 255)] == [OLDEST, OLD, NEW, NEW, NEW]


# --- both encodings of the same mechanism

_CASES = {
    CKM.RSA_PKCS_PSS: u64(0x250) + u64(2) + u64(32),
    CKM.SHA256_RSA_PKCS_PSS: u64(0x250) + u64(2) + u64(32),
    CKM.RSA_PKCS_OAEP: u64(0x220) + u64(1) + u64(1) + sized(b"label"),
    CKM.ECDH1_DERIVE: u64(1) + sized(b"") + sized(b"\4point"),
    CKM.AES_CBC: sized(bytes(range(16))),
    CKM.AES_CTR: u64(32) + sized(bytes(16)),
    CKM.AES_GCM: sized(bytes(12)) + u64(96) + sized(b"") + u64(128),
    CKM.DES3_CBC: sized(bytes(8)),
    CKM.SHA256_HMAC_GENERAL: u64(16),
    CKM.DH_PKCS_DERIVE: sized(b"public"),
}


@pytest.mark.parametrize(("type_", "parameter"), _CASES.items())
def test_both_encodings_lead_to_the_same_mechanism(type_: int, parameter: bytes) -> None:
    old = read(u32(type_) + parameter, OLD)
    new = read(u32(type_) + b"\1" + parameter, NEW)
    assert old is not None
    assert new is not None
    lengths = [struct.unpack("=QQQ", ctypes.string_at(one.address, 24))[2] for one in (old, new)]
    assert lengths[0] == lengths[1] > 0


@pytest.mark.parametrize(("type_", "parameter"), _CASES.items())
def test_a_mechanism_that_is_cut_short_is_no_mechanism(type_: int, parameter: bytes) -> None:
    for encoding, whole in ((OLD, u32(type_) + parameter), (NEW, u32(type_) + b"\1" + parameter)):
        for length in range(len(whole)):
            with pytest.raises((ProtocolError, Failed)):
                read(whole[:length], encoding)


@pytest.mark.parametrize("type_", sorted(WITHOUT_PARAMETER))
def test_a_type_of_the_list_travels_without_parameter(type_: int) -> None:
    assert words(read(u32(type_) + u32(NULL), OLD)) == ()
    assert words(read(u32(type_), NEW)) == ()


@pytest.mark.parametrize("type_", sorted(PARAMETERS))
def test_the_new_encoding_can_say_that_there_is_no_parameter(type_: int) -> None:
    assert words(read(u32(type_) + b"\0", NEW)) == ()


def test_the_lists_do_not_overlap_and_are_as_long_as_the_protocols() -> None:
    assert not WITHOUT_PARAMETER & PARAMETERS.keys()
    assert len(WITHOUT_PARAMETER) == 89 + 35
    assert len(PARAMETERS) == 6 + 1 + 3 + 8 + 1 + 1 + 7 + 11 + 1


# --- structures


def test_pss_is_three_numbers() -> None:
    assert words(read(u32(CKM.RSA_PKCS_PSS) + u64(0x250) + u64(2) + u64(32))) == (0x250, 2, 32)


def test_oaep_points_to_its_source() -> None:
    mechanism = read(u32(CKM.RSA_PKCS_OAEP) + _CASES[CKM.RSA_PKCS_OAEP])
    hash_, mgf, source, pointer, length = words(mechanism)
    assert (hash_, mgf, source, length) == (0x220, 1, 1, 5)
    assert ctypes.string_at(pointer, 5) == b"label"


@pytest.mark.parametrize("nothing", [sized(b""), u32(NULL)])
def test_oaep_without_source_has_a_null_pointer_of_length_0(nothing: bytes) -> None:
    mechanism = read(u32(CKM.RSA_PKCS_OAEP) + u64(0x220) + u64(1) + u64(1) + nothing)
    assert words(mechanism)[3:] == (0, 0)


def test_ecdh_points_to_both_sides() -> None:
    mechanism = read(u32(CKM.ECDH1_DERIVE) + u64(1) + sized(b"shared!!") + sized(b"public"))
    kdf, shared_length, shared, public_length, public = words(mechanism)
    assert (kdf, ctypes.string_at(shared, shared_length)) == (1, b"shared!!")
    assert ctypes.string_at(public, public_length) == b"public"


def test_gcm_points_to_iv_and_aad() -> None:
    mechanism = read(u32(CKM.AES_GCM) + sized(b"twelve bytes") + u64(96) + sized(b"aad") + u64(128))
    iv, iv_length, iv_bits, aad, aad_length, tag_bits = words(mechanism)
    assert (ctypes.string_at(iv, iv_length), iv_bits, tag_bits) == (b"twelve bytes", 96, 128)
    assert ctypes.string_at(aad, aad_length) == b"aad"


@pytest.mark.parametrize("iv", [sized(b""), u32(NULL)])
@pytest.mark.parametrize(("encoding", "present"), [(OLD, b""), (NEW, b"\1")])
def test_hazard_12_3_gcm_without_iv_never_reaches_the_module(
    iv: bytes, encoding: Encoding, present: bytes
) -> None:
    """SoftHSM 2.6.1 dies of a NULL pIv with a length, and of a NULL pAAD with a length."""
    with pytest.raises(Failed, match="no IV") as failed:
        read(u32(CKM.AES_GCM) + present + iv + u64(96) + sized(b"") + u64(128), encoding)
    assert failed.value.rv is CKR.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize("aad", [sized(b""), u32(NULL)])
def test_hazard_12_3_gcm_without_aad_has_a_null_pointer_of_length_0(aad: bytes) -> None:
    assert words(read(u32(CKM.AES_GCM) + sized(bytes(12)) + u64(96) + aad + u64(128)))[3:5] == (0, 0)


def test_ctr_is_a_number_and_its_block() -> None:
    mechanism = read(u32(CKM.AES_CTR) + u64(64) + sized(bytes(range(16))))
    assert flat(mechanism) == struct.pack("=Q", 64) + bytes(range(16))


def test_a_length_of_a_mac_is_a_number() -> None:
    assert words(read(u32(CKM.SHA_1_HMAC_GENERAL) + u64(10))) == (10,)


@pytest.mark.parametrize("type_", [CKM.AES_CBC, CKM.AES_CBC_PAD, CKM.AES_OFB, CKM.AES_CFB128, CKM.AES_CTS])
def test_an_iv_of_aes_has_16_bytes(type_: int) -> None:
    assert flat(read(u32(type_) + sized(bytes(range(16))))) == bytes(range(16))
    for length in (0, 8, 15, 17, 32):
        with pytest.raises(Failed) as failed:
            read(u32(type_) + sized(bytes(length)))
        assert failed.value.rv is CKR.MECHANISM_PARAM_INVALID
    with pytest.raises(Failed):
        read(u32(type_) + u32(NULL))


@pytest.mark.parametrize("type_", [CKM.DES_CBC, CKM.DES3_CBC_PAD, CKM.DES_OFB64])
def test_an_iv_of_des_has_8_bytes(type_: int) -> None:
    assert flat(read(u32(type_) + sized(bytes(range(8))))) == bytes(range(8))
    with pytest.raises(Failed):
        read(u32(type_) + sized(bytes(16)))


@pytest.mark.parametrize("value", [sized(b""), u32(NULL)])
def test_a_public_value_is_not_empty(value: bytes) -> None:
    with pytest.raises(Failed) as failed:
        read(u32(CKM.DH_PKCS_DERIVE) + value)
    assert failed.value.rv is CKR.MECHANISM_PARAM_INVALID


# --- what is not known


@given(st.binary(min_size=1, max_size=64))
def test_bytes_of_a_client_are_never_taken_for_a_structure(data: bytes) -> None:
    """A structure's pointers would be the client's: CCM and HKDF have some, and no row here."""
    for type_ in (CKM.AES_CCM, CKM.AES_KEY_WRAP, CKM.AES_CBC_ENCRYPT_DATA, 0x402A, VENDOR):
        with pytest.raises(Failed) as failed:
            read(u32(type_) + sized(data))
        assert failed.value.rv is CKR.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize("empty", [sized(b""), u32(NULL)])
def test_an_unknown_type_travels_without_parameter_in_the_old_encoding(empty: bytes) -> None:
    assert words(read(u32(VENDOR) + empty)) == ()


def test_an_unknown_type_is_ambiguous_in_the_new_encoding() -> None:
    for rest in (b"", b"\0", b"\1" + sized(b"x")):
        with pytest.raises(Failed, match="0x80001234 cannot be read") as failed:
            read(u32(VENDOR) + rest, NEW)
        assert failed.value.rv is CKR.MECHANISM_INVALID


@pytest.mark.parametrize("parameter", [b"", b"\0", b"\1" + sized(b""), b"\1" + u32(NULL)])
@pytest.mark.parametrize(("rest", "behind"), [(u64(7), 8), (b"", 0)])
def test_rule_7_what_is_left_tells_whether_an_unknown_type_has_a_parameter(
    parameter: bytes, rest: bytes, behind: int
) -> None:
    cursor = Cursor(u32(VENDOR) + parameter + rest)
    assert words(read_mechanism(cursor, NEW, behind)) == ()
    assert cursor.take(len(rest)) == rest
    cursor.end()


def test_rule_7_the_parameter_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(Failed) as failed:
        read_mechanism(Cursor(u32(VENDOR) + b"\1" + sized(bytes(32)) + u64(7)), NEW, 8)
    assert failed.value.rv is CKR.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize("type_", [CKM.IBM_EC_X25519, CKM.IBM_EC_X448, CKM.ECDH1_DERIVE])
def test_rule_7_1_curves_agree_with_the_other_sides_value(type_: int) -> None:
    parameter = u64(1) + sized(b"") + sized(b"public")
    for mechanism in (read(u32(type_) + parameter), read(u32(type_) + b"\1" + parameter, NEW)):
        kdf, shared_length, shared, public_length, public = words(mechanism)
        assert (kdf, shared_length, shared, public_length) == (1, 0, 0, 6)
        assert ctypes.string_at(public, public_length) == b"public"
    with pytest.raises(Failed, match="empty") as failed:
        read(u32(type_) + u64(1) + sized(b"") + sized(b""))
    assert failed.value.rv is CKR.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize("type_", sorted(NOT_READ))
@pytest.mark.parametrize(("encoding", "present"), [(OLD, b""), (NEW, b"\1")])
def test_rule_7_1_a_key_named_in_a_parameter_is_refused(
    type_: int, encoding: Encoding, present: bytes
) -> None:
    with pytest.raises(Failed) as failed:
        read(u32(type_) + present + u64(7), encoding)
    assert failed.value.rv in (CKR.MECHANISM_INVALID, CKR.MECHANISM_PARAM_INVALID)


@pytest.mark.parametrize("encoding", Encoding)
def test_all_ones_are_a_null_pointer(encoding: Encoding) -> None:
    assert read(u32(NULL), encoding) is None


@pytest.mark.parametrize(("rest", "behind"), [(u64(7), 8), (b"", 0)])
def test_clients_0_25_0_to_0_25_2_write_a_null_pointer_as_0(rest: bytes, behind: int) -> None:
    assert read_mechanism(Cursor(u32(0) + rest), OLD, behind) is None


def test_0_is_the_mechanism_where_it_is_followed_by_no_parameter() -> None:
    mechanism = read_mechanism(Cursor(u32(0) + u32(NULL) + u64(7)), OLD, 8)
    assert mechanism is not None
    assert mechanism.type == CKM.RSA_PKCS_KEY_PAIR_GEN
    assert read_mechanism(Cursor(u32(0) + u64(7)), NEW, 8) is not None
