"""The file of attestation requests and answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.attestation_file import AttestationFile
from keyvisor_guest.wire.errors import Malformed

REQUEST = AttestationFile(b"R" * 400, expected={"measurement": 64, "additional": 32, "cuid": 16})
ANSWER = AttestationFile(b"R" * 400, b"M" * 64, b"A" * 32, b"U" * 5, b"C" * 16)


def test_the_layout():
    data = ANSWER.encode()
    assert data[:0x18].hex() == b"pvattest".hex() + "00000100" + f"{0x40 + 517:08x}" + "00" * 8
    entries = [int.from_bytes(data[at : at + 4], "big") for at in range(0x18, 0x40, 4)]
    assert entries == [400, 0x40, 64, 0x1D0, 32, 0x210, 5, 0x230, 16, 0x235]
    assert data[0x40:] == b"R" * 400 + b"M" * 64 + b"A" * 32 + b"U" * 5 + b"C" * 16


def test_a_request_says_what_it_expects():
    data = REQUEST.encode()
    entries = [int.from_bytes(data[at : at + 4], "big") for at in range(0x18, 0x40, 4)]
    assert entries == [400, 0x40, 64, 0, 32, 0, 0, 0, 16, 0]
    assert AttestationFile.decode(data) == REQUEST


@given(
    st.tuples(
        st.binary(min_size=1, max_size=500),
        st.binary(max_size=64),
        st.binary(max_size=128),
        st.binary(max_size=256),
        st.sampled_from([b"", bytes(16)]),
    )
)
def test_everything_comes_back(parts):
    assert AttestationFile.decode(AttestationFile(*parts).encode()) == AttestationFile(*parts)


def patched(offset: int, value: bytes) -> bytes:
    data = ANSWER.encode()
    return data[:offset] + value + data[offset + len(value) :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "bytes are needed"),
        (b"pvatlast" + bytes(0x38), "does not begin with `pvattest`"),
        (patched(8, b"\0\0\2\0"), "version 0x200"),
        (ANSWER.encode() + b"\0", "says it has 581 bytes, 582 are there"),
        (ANSWER.encode()[:-1], "581 bytes, 580 are there"),
        (patched(0x17, b"\1"), "reserved"),
        (patched(0x18, bytes(8)), "no attestation request"),
        (patched(0x1C, bytes(4)), "no attestation request"),
        (patched(0x1C, b"\0\0\0\x3f"), "request at 0x3f is not within the file"),
        (patched(0x24, b"\0\0\2\x06"), "measurement at 0x206 is not within"),
        (patched(0x24, b"\xff\xff\xff\xff"), "not within"),
        (patched(0x30, b"\0\0\1\1"), "user_data has 257 bytes, 256 at most"),
        (patched(0x38, b"\0\0\0\x11"), "cuid has 17 bytes, 16 at most"),
    ],
)
def test_a_broken_twin_says_why(data, said):
    with pytest.raises(Malformed, match=said):
        AttestationFile.decode(data)


@given(st.integers(8, 0x3F), st.integers(1, 255))
def test_a_changed_head_is_refused_or_reads_within_the_file(offset, flip):
    data = bytearray(ANSWER.encode())
    data[offset] ^= flip
    try:
        found = AttestationFile.decode(bytes(data))
    except Malformed:
        return
    for part in (found.request, found.measurement, found.additional, found.user_data, found.cuid):
        assert part in data


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_malformed(data):
    with pytest.raises(Malformed):
        AttestationFile.decode(data)
