"""Layers inflate whatever they were compressed with, and never to more than the limits let through."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.inflating import InflatedStream
from keyvisor_guest.containers.limits import Limits

zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd program to compress with")
TEXT = b"".join(b"line %d of a layer\n" % number for number in range(40_000))
SMALL = Limits(uncompressed=1 << 20, ratio=20, ratio_from=100_000)


def inflate(blob: bytes, limits: Limits | None = None, step: int = 10_000) -> bytes:
    stream = InflatedStream(io.BytesIO(blob), Budget(limits or Limits()))
    return b"".join(iter(lambda: stream.read(step), b""))


def compressed_by_zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


class TestForms:
    def test_plain(self) -> None:
        assert inflate(TEXT) == TEXT

    def test_nothing(self) -> None:
        assert inflate(b"") == b""

    def test_gzip(self) -> None:
        assert inflate(gzip.compress(TEXT)) == TEXT

    def test_gzip_of_several_members(self) -> None:
        """As pigz, estargz and `cat a.gz b.gz` make them; some are empty."""
        pieces = [TEXT[:5], b"", TEXT[5:100_000], TEXT[100_000:]]
        assert inflate(b"".join(gzip.compress(piece) for piece in pieces)) == TEXT

    def test_zeros_behind_gzip_are_padding(self) -> None:
        assert inflate(gzip.compress(TEXT) + bytes(70_000)) == TEXT

    @zstd
    def test_zstd(self) -> None:
        assert inflate(compressed_by_zstd(TEXT, "-19")) == TEXT

    @zstd
    def test_zstd_of_several_frames(self) -> None:
        assert inflate(compressed_by_zstd(TEXT[:999]) + compressed_by_zstd(TEXT[999:])) == TEXT

    @given(st.lists(st.binary(max_size=3000), max_size=6), st.integers(1, 5000))
    @settings(max_examples=100, deadline=None)
    def test_what_went_in_comes_out(self, pieces: list[bytes], step: int) -> None:
        blob = b"".join(gzip.compress(piece) for piece in [b"first", *pieces])
        assert inflate(blob, step=step) == b"first" + b"".join(pieces)

    def test_the_diff_id_is_of_what_was_inflated(self) -> None:
        stream = InflatedStream(io.BytesIO(gzip.compress(b"abc")), Budget())
        stream.read(100)
        assert stream.diff_id() == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class TestRefusals:
    def test_gzip_cut_short(self) -> None:
        with pytest.raises(ImageRefused, match="cut short: pull the image again"):
            inflate(gzip.compress(TEXT)[:-9])

    def test_gzip_with_a_flipped_byte(self) -> None:
        blob = bytearray(gzip.compress(TEXT))
        blob[len(blob) // 2] ^= 1
        with pytest.raises(ImageRefused, match="no gzip stream"):
            inflate(bytes(blob))

    @zstd
    def test_zstd_cut_short(self) -> None:
        with pytest.raises(ImageRefused, match="cut short"):
            inflate(compressed_by_zstd(TEXT)[:-5])

    @zstd
    def test_zstd_with_a_flipped_byte(self) -> None:
        blob = bytearray(compressed_by_zstd(TEXT))
        blob[-2] ^= 1  # in the checksum
        with pytest.raises(ImageRefused, match="no zstd stream"):
            inflate(bytes(blob))

    @zstd
    def test_zstd_with_a_window_beyond_the_limit(self) -> None:
        blob = compressed_by_zstd(TEXT * 2, "--long=20", "--no-check", "-1")
        with pytest.raises(ImageRefused, match="no zstd stream"):
            inflate(blob, Limits(zstd_window_log=12))


class TestBombs:
    def test_a_layer_that_inflates_too_much_for_its_size(self) -> None:
        with pytest.raises(ImageRefused, match="looks like a bomb") as refused:
            inflate(gzip.compress(bytes(900_000)), SMALL)
        assert refused.value.code is Refusal.LIMIT

    def test_what_is_inside_a_layer_is_not_inflated(self) -> None:
        inner = gzip.compress(bytes(900_000))
        assert inflate(gzip.compress(inner), SMALL) == inner

    def test_a_small_layer_of_zeros_is_none(self) -> None:
        assert len(inflate(gzip.compress(bytes(99_000)), SMALL)) == 99_000

    def test_more_than_all_layers_may_have(self) -> None:
        budget = Budget(Limits(uncompressed=len(TEXT) * 2 - 1))
        InflatedStream(io.BytesIO(TEXT), budget).read(len(TEXT))
        with pytest.raises(ImageRefused, match="inflate to more than"):
            InflatedStream(io.BytesIO(gzip.compress(TEXT)), budget).read(len(TEXT))

    def test_it_ends_before_it_is_inflated(self) -> None:
        """A gigabyte of zeros: refused after a piece or two, not after all."""
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
        blob = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(1024)) + squeeze.flush()
        budget = Budget(Limits(uncompressed=1 << 40, ratio_from=1 << 20))
        stream = InflatedStream(io.BytesIO(blob), budget)
        pieces = iter(lambda: stream.read(1 << 16), b"")
        taken: list[int] = []
        with pytest.raises(ImageRefused, match="bomb"):
            taken.extend(map(len, pieces))
        assert 0 < sum(taken) < 1 << 25
