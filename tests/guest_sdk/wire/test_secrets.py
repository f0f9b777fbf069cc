"""Secret kinds as a table, secret ids, extension secrets, and the cursor below all of it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed, Truncated, Unbuildable
from keyvisor_guest.wire.secret_ids import derive_extension_secret, id_from_name, name_as_id
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind


def test_every_kind_has_its_row_and_reserved_numbers_have_none():
    """Formats, A.3: 0000 and 000b to 0010 are reserved."""
    assert set(KINDS) == set(SecretKind) == {*range(0x01, 0x0B), *range(0x11, 0x17)}
    assert all(row.kind == number for number, row in KINDS.items())
    assert len({row.title for row in KINDS.values()}) == len(KINDS)


def test_lengths_and_what_lists_show_are_those_of_the_format():
    """Formats, A.3 (clear length) and C.3 (length in lists)."""
    exact = {k: row.lengths[0] for k, row in KINDS.items() if len(row.lengths) == 1}
    assert exact == {
        0x01: 0, 0x02: 32, 0x04: 16, 0x05: 24, 0x06: 32, 0x07: 32, 0x08: 64, 0x09: 64, 0x0A: 128,
        0x11: 32, 0x12: 48, 0x13: 80, 0x14: 32, 0x15: 64, 0x16: 32,
    }  # fmt: skip
    listed = {k: exact.get(k, 0) + row.listed_extra for k, row in KINDS.items() if row.listed and k != 0x03}
    assert listed == {
        0x02: 32, 0x04: 48, 0x05: 56, 0x06: 64, 0x07: 64, 0x08: 96, 0x09: 96, 0x0A: 160,
        0x11: 64, 0x12: 80, 0x13: 112, 0x14: 64, 0x15: 96,
    }  # fmt: skip
    plain = KINDS[SecretKind.PLAINTEXT].lengths
    assert (plain[0], plain[-1], plain.step) == (16, 8192, 16)


def test_ids_from_names():
    assert id_from_name("add_secret_request").hex() == (
        "70dc758d711fef605b1b1b1774a2a4ab701020ea4b2cb399ebbdd5a3971c76a9"
    )
    assert id_from_name("Schlüssel") == hashlib.sha256("Schlüssel".encode()).digest()
    assert name_as_id("payments") == b"payments" + bytes(24)
    assert name_as_id("x" * 40) == b"x" * 31 + b"\x00"


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "a\x00b", "a\tb", "x" * 4097, "\ud800"])
def test_names_that_no_policy_could_mean_are_refused(name):
    for made in (id_from_name, name_as_id):
        with pytest.raises(Unbuildable) as refused:
            made(name)
        assert "\n" not in str(refused.value)


def test_the_derived_extension_secret_has_its_check_value():
    """Formats, A.5."""
    assert derive_extension_secret(bytes(32), b"\x04" * 16).hex() == (
        "b7e28c1ed1ecd063afe5eb9b54c6685aca5c193163e82e2071c3150ed6ff6473"
    )


def test_a_derived_extension_secret_belongs_to_one_image_and_one_key():
    made = derive_extension_secret(bytes(32), bytes(16))
    assert made != derive_extension_secret(bytes(32), bytes(15) + b"\x01")
    assert made != derive_extension_secret(bytes(31) + b"\x01", bytes(16))
    for cck, tag in ((bytes(31), bytes(16)), (bytes(33), bytes(16)), (bytes(32), bytes(15))):
        with pytest.raises(Unbuildable, match="bytes, not"):
            derive_extension_secret(cck, tag)


@given(data=st.binary(max_size=40), length=st.integers(0, 60))
def test_the_cursor_takes_what_is_there_and_nothing_more(data, length):
    cursor = Cursor(data)
    if length > len(data):
        with pytest.raises(Truncated):
            cursor.take(length)
        assert cursor.left == len(data)
        return
    assert cursor.take(length) == data[:length]
    if length < len(data):
        with pytest.raises(Malformed, match="left over"):
            cursor.end()
    else:
        cursor.end()


def test_the_cursor_remembers_reserved_fields_that_are_used():
    cursor = Cursor(bytes(4) + b"\x00\x01" + bytes(2))
    for _ in range(4):
        cursor.reserved(2)
    assert cursor.used_reserved == (4,)
    with pytest.raises(Truncated):
        cursor.reserved(1)
