"""The boot identity: measured the same by owner and firmware, different for every other content."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.boot_identity import BootIdentity, measure
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Truncated


def test_the_digests_are_those_of_the_format():
    content = b"\x01" * 4096 + b"\x02" * 5
    pages = [b"\x01" * 4096, b"\x02" * 5 + bytes(4091)]
    measured = measure(content)
    assert measured.pld == hashlib.sha512(b"".join(pages)).digest()
    assert measured.ald == hashlib.sha512(struct.pack(">QQ", 0, 4096)).digest()
    assert measured.tld == hashlib.sha512(struct.pack(">QQQQ", 0, 0, 0, 4096)).digest()


def test_measured_values_stay_what_they_are():
    """Golden: requests made by one release must fit the guests of the next."""
    measured = measure(b"a guest definition\n")
    assert hashlib.sha256(measured.encode()).hexdigest() == (
        "7372956d9d48a0f4c0e8861630825f6c05c064d71e8a01212729503bc9ae59a0"
    )


def test_empty_content_has_no_page():
    nothing = hashlib.sha512(b"").digest()
    measured = measure(b"")
    assert (measured.pld, measured.ald, measured.tld) == (nothing, nothing, nothing)
    assert any(measured.header_tag)


@given(content=st.binary(max_size=9000), other=st.binary(max_size=9000))
def test_two_contents_have_two_identities(content, other):
    assert (measure(content) == measure(other)) == (content == other)


@given(content=st.binary(max_size=5000))
def test_zeros_that_fill_a_page_do_not_hide_in_it(content):
    assert measure(content) != measure(content + b"\x00")


def test_part3_T2_one_changed_byte_changes_it():
    content = bytes(10000)
    for offset in (0, 4095, 4096, 9999):
        changed = bytearray(content)
        changed[offset] = 1
        assert measure(bytes(changed)).pld != measure(content).pld
        assert measure(bytes(changed)).header_tag != measure(content).header_tag


def test_its_lengths_are_held():
    good = (bytes(64), bytes(64), bytes(64), bytes(16))
    assert len(BootIdentity(*good).encode()) == 208
    for place in range(4):
        for value in (good[place][:-1], good[place] + b"\x00", "x" * len(good[place])):
            with pytest.raises(ValueError, match="of a boot identity is"):
                BootIdentity(*(value if n == place else part for n, part in enumerate(good)))


@given(data=st.binary(min_size=208, max_size=208))
def test_it_comes_back_from_the_wire(data):
    cursor = Cursor(data)
    assert BootIdentity.read(cursor).encode() == data
    cursor.end()
    with pytest.raises(Truncated):
        BootIdentity.read(Cursor(data[:-1]))
