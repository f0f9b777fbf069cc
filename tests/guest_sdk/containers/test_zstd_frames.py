"""The zstd decoder, fed in any pieces: frames by hand (RFC 8878, 3.1.1), so that no compressor decides what is tested."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.zstd_frames import ZstdInflater

from .zstd_by_hand import zstd_block, zstd_frame

ROOM = 1000
SKIPPED = b"\x52\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def inflate(pieces):
    """All that comes out, and whether the input ended with a frame's end."""
    inflater, out = ZstdInflater(27, ROOM), b""
    try:
        for piece in pieces:
            assert inflater.hungry
            inflater.feed(piece)
            while (part := inflater.take()) or not inflater.hungry:
                assert len(part) <= ROOM
                out += part
        return out, inflater.finished
    finally:
        inflater.close()


def cut(data, places):
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[one:other] for one, other in pairwise(edges)]


BLOCK = st.one_of(
    st.tuples(st.binary(max_size=3000), st.just(0)),
    st.tuples(st.binary(min_size=1, max_size=1), st.integers(1, 5000)),
)
FRAME = st.lists(BLOCK, min_size=1, max_size=4)


def written(frame):
    """The frame, and what it inflates to."""
    last = len(frame) - 1
    blocks = [
        zstd_block(content, times, last=number == last) for number, (content, times) in enumerate(frame)
    ]
    return zstd_frame(b"".join(blocks)), b"".join(
        content * times if times else content for content, times in frame
    )


@given(st.lists(FRAME, min_size=1, max_size=3), st.lists(st.integers(0, 1 << 16), max_size=8))
@settings(max_examples=100, deadline=None)
def test_what_was_put_in_comes_out_however_it_is_cut(frames, places):
    both = [written(frame) for frame in frames]
    blob, expected = SKIPPED.join(one for one, _ in both), b"".join(content for _, content in both)
    assert inflate(cut(blob, places)) == (expected, True)


@given(FRAME, st.integers(0, 1 << 16))
@settings(max_examples=60, deadline=None)
def test_what_is_cut_short_is_a_beginning_and_not_finished(frame, at):
    blob, expected = written(frame)
    at = 1 + at % (len(blob) - 1)
    out, finished = inflate([blob[:at]])
    assert expected.startswith(out)
    assert not finished


def test_one_byte_at_a_time():
    blob, expected = written([(b"abc", 0), (b"x", 4000)])
    assert inflate([bytes([one]) for one in blob]) == (expected, True)


@pytest.mark.parametrize(
    "blob",
    [
        b"\x28\xb5\x2f\xfe" + bytes(20),
        zstd_frame(zstd_block(b"x"), window_log=28),
        zstd_frame((3 << 1 | 1).to_bytes(3, "little")),  # a block of the reserved type
        zstd_frame(zstd_block(b"x", (128 << 10) + 1)),  # a block larger than any may be
        b"\x28\xb5\x2f\xfd\x01\x38\x07" + zstd_block(b"x"),  # wants a dictionary
    ],
    ids=["magic", "window", "type", "size", "dictionary"],
)
def test_what_is_no_frame(blob):
    with pytest.raises(ImageRefused, match="no zstd stream") as refused:
        inflate([blob])
    assert str(refused.value).isprintable()


def test_at_the_window_limit_it_is_taken():
    assert inflate([zstd_frame(zstd_block(b"x"), window_log=27)]) == (b"x", True)
