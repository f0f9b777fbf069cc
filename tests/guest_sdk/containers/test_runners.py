"""Both ways to seal and open runs: the same bytes, the same refusals; and what is there where one of them cannot be."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers import block_runs, blocks, runners
from keyvisor_guest.containers.block_runs import RUN_BLOCKS, BlockCipher, BlockRuns, BlockRunsMissing, Room
from keyvisor_guest.containers.chain import InsecureAnyImage
from keyvisor_guest.containers.errors import CipherFailed
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.runners import IN_PYTHON, BadBlock, best_runners, in_c

from .images import make

ASSOCIATED: Final = hashlib.shake_256(b"associated").digest(52)
TAG: Final = 16

keys = st.binary(min_size=64, max_size=64).filter(lambda key: key[:32] != key[32:])
firsts = st.one_of(
    st.integers(0, 2**64 - RUN_BLOCKS), st.sampled_from([0, 255, 2**32 - 3, 2**64 - RUN_BLOCKS])
)
counts = st.integers(1, 5) | st.just(RUN_BLOCKS)


@pytest.fixture(scope="module")
def runs() -> BlockRuns:
    """The library; where it was not built, what is about it alone is skipped."""
    try:
        return BlockRuns()
    except BlockRunsMissing as missing:
        pytest.skip(str(missing))


def noise(seed: int, count: int) -> bytes:
    return hashlib.shake_256(str(seed).encode()).digest(count * BLOCK)


# --- the same on both paths


@given(key=keys, first=firsts, count=counts, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_gcm_gives_the_same_bytes_and_tags(
    runs: BlockRuns, key: bytes, first: int, count: int, seed: int
) -> None:
    plain = noise(seed, count)
    one, other = (how.gcm(key[:32], ASSOCIATED) for how in (IN_PYTHON, in_c(runs)))
    stored, tags = one.seal(first, plain)
    stored = bytes(stored)
    found, found_tags = other.seal(first, plain)
    assert (bytes(found), found_tags) == (stored, tags)
    assert one.open(first, stored, tags) == other.open(first, stored, tags) == plain


@given(key=keys, first=firsts, count=counts, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_xts_gives_the_same_bytes(runs: BlockRuns, key: bytes, first: int, count: int, seed: int) -> None:
    plain = noise(seed, count)
    one, other = (how.xts(key) for how in (IN_PYTHON, in_c(runs)))
    stored = bytes(one.seal(first, plain))
    assert bytes(other.seal(first, plain)) == stored
    assert one.open(first, stored) == other.open(first, stored) == plain


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_both_refuse_the_same_block_and_go_on(runs: BlockRuns, data: st.DataObject) -> None:
    count, first = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 1 << 32))
    both = [how.gcm(bytes(range(32)), ASSOCIATED) for how in (IN_PYTHON, in_c(runs))]
    plain = noise(1, count)
    stored, tags = both[0].seal(first, plain)
    good = bytes(stored), tags
    whole = bytearray(good[0] + good[1])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    bad = bytes(whole[: count * BLOCK]), bytes(whole[count * BLOCK :])
    wrong = [
        n
        for n in range(count)
        if any(
            one[n * step : (n + 1) * step] != other[n * step : (n + 1) * step]
            for one, other, step in zip(bad, good, (BLOCK, TAG), strict=True)
        )
    ]
    for one in both:
        if wrong:
            with pytest.raises(BadBlock) as caught:
                one.open(first, *bad)
            assert caught.value.block == first + wrong[0]
        with pytest.raises(BadBlock) as caught:
            one.open(first + 1, *good)
        assert caught.value.block == first + 1
        assert one.open(first, *good) == plain


def test_another_key_or_other_additional_data_open_nothing(runs: BlockRuns) -> None:
    plain = noise(2, 2)
    for how in (IN_PYTHON, in_c(runs)):
        stored, tags = how.gcm(bytes(32), ASSOCIATED).seal(5, plain)
        for key, associated in ((bytes(31) + b"\x01", ASSOCIATED), (bytes(32), bytes(52))):
            with pytest.raises(BadBlock):
                how.gcm(key, associated).open(5, bytes(stored), tags)


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
def test_an_image_is_the_same_and_read_by_both(
    runs: BlockRuns, cipher: Cipher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways, images = {"python": IN_PYTHON, "c": in_c(runs)}, {}
    for name, how in ways.items():
        monkeypatch.setattr(blocks, "best_runners", lambda how=how: how)
        images[name] = make(tmp_path / name, cipher=cipher)
    assert images["python"].built.manifest == images["c"].built.manifest
    for name, how in ways.items():
        monkeypatch.setattr(blocks, "best_runners", lambda how=how: how)
        for made in images.values():
            with made.open(InsecureAnyImage()) as reader:
                reader.verify()
                assert (name, reader.read_at(0, reader.size)) == (name, made.volume)


# --- threads and lifetimes


def test_threads_open_with_one_key_at_once(runs: BlockRuns) -> None:
    gcm, xts = in_c(runs).gcm(bytes(32), ASSOCIATED), in_c(runs).xts(bytes(range(64)))
    plains = [noise(number, 1 + number % 7) for number in range(16)]
    sealed = [
        (bytes(stored), tags) for stored, tags in (gcm.seal(9 * n, one) for n, one in enumerate(plains))
    ]
    hidden = [bytes(xts.seal(9 * n, one)) for n, one in enumerate(plains)]
    together = threading.Barrier(4)

    def read(thread: int) -> int:
        together.wait(30)
        refused = 0
        for turn in range(200):
            n = (turn * (thread + 1)) % len(plains)
            assert gcm.open(9 * n, *sealed[n]) == plains[n]
            assert xts.open(9 * n, hidden[n]) == plains[n]
            try:
                gcm.open(9 * n + 1, *sealed[n])
            except BadBlock:
                refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [200] * 4


class Watched:
    """libcrypto's functions, each call counted; the one with number `fails` does nothing and says that it failed."""

    def __init__(self, runs: BlockRuns) -> None:
        self.calls: Counter[str] = Counter()
        self.fails = 0
        self._kept = [self._watching(runs, index, name) for index, name in enumerate(block_runs._FUNCTIONS)]

    def _watching(self, runs: BlockRuns, index: int, name: str) -> object:
        result, arguments, failed = _TYPES[index]
        kind = ctypes.CFUNCTYPE(result, *arguments)
        real = kind(runs._evp[index])

        def watched(*given: object) -> object:
            self.calls[name] += 1
            self.calls["all"] += failed is not None
            if failed is not None and self.calls["all"] == self.fails:
                self.calls[f"failed {name}"] += 1
                return failed
            return real(*given)

        made = kind(watched)
        runs._evp[index] = ctypes.cast(made, ctypes.c_void_p)
        return made

    def fail_at(self, number: int) -> None:
        """The `number`th call from now on, of those that can."""
        self.calls["all"], self.fails = 0, number


_P, _I = ctypes.c_void_p, ctypes.c_int
# Result, arguments, and what it gives where it fails; None: it cannot.
_TYPES: Final[tuple[tuple[Any, tuple[Any, ...], int | None], ...]] = (
    (_P, (), 0),
    (_P, (), 0),
    (_P, (), 0),
    (None, (_P,), None),
    (_I, (_P, _P), 0),
    (_I, (_P, _I, _I, _P), 0),
    (_I, (_P, _P, _P, _P, _P, _I), 0),
    (_I, (_P, _P, _P, _P, _I), 0),
    (_I, (_P, _P, _P), 0),
    (None, (_P, ctypes.c_size_t), None),
)


def test_every_key_is_freed(runs: BlockRuns) -> None:
    watched = Watched(mine := BlockRuns())
    how = in_c(mine)
    gcm, xts = how.gcm(bytes(32), ASSOCIATED), how.xts(bytes(range(64)))
    stored, tags = gcm.seal(0, bytes(BLOCK))
    sealed = bytes(stored)
    gcm.open(0, sealed, tags)
    with pytest.raises(BadBlock):
        gcm.open(1, sealed, tags)
    xts.open(0, bytes(xts.seal(0, bytes(BLOCK))))
    assert watched.calls["EVP_CIPHER_CTX_new"] == 6  # two ways each, and a reader of each
    del gcm, xts, how
    gc.collect()
    assert watched.calls["EVP_CIPHER_CTX_free"] == 6


# --- libcrypto fails


def sealing(mine: BlockRuns, room: Room) -> None:
    mine.worker(BlockCipher.GCM, bytes(32), ASSOCIATED, seals=True).seal_gcm(0, noise(3, 3), room)


def opening(mine: BlockRuns, room: Room) -> None:
    stored, tags = IN_PYTHON.gcm(bytes(32), ASSOCIATED).seal(0, noise(3, 3))
    made = mine.worker(BlockCipher.GCM, bytes(32), ASSOCIATED, seals=False).copy()
    if (bad := made.open_gcm(0, bytes(stored), tags, room)) is not None:
        raise BadBlock(bad)  # a failure in the end is that of a tag


def tweaking(mine: BlockRuns, room: Room) -> None:
    mine.worker(BlockCipher.XTS, bytes(range(64)), ASSOCIATED, seals=True).run_xts(0, noise(3, 3), room)


@pytest.mark.parametrize(("work", "calls", "whole"), [(sealing, 18, 0), (opening, 20, 2), (tweaking, 9, 0)])
def test_a_failure_at_any_step_is_an_error_and_leaves_no_bytes(
    runs: BlockRuns, work: Callable[[BlockRuns, Room], None], calls: int, whole: int
) -> None:
    watched = Watched(mine := BlockRuns())
    watched.fail_at(0)
    work(mine, Room())
    assert watched.calls["all"] == calls
    for number in range(1, calls + 1):
        room = Room()
        watched.fail_at(number)
        with pytest.raises((CipherFailed, BadBlock)) as caught:
            work(mine, room)
        assert "free memory" in str(caught.value) or isinstance(caught.value, BadBlock)
        opened = room.view[: 3 * BLOCK].tobytes()
        # Blocks that were vouched for before may stand there, in opening; nothing else does.
        good = next(n for n in range(whole + 1) if opened == noise(3, 3)[: n * BLOCK].ljust(3 * BLOCK, b"\0"))
        assert good <= whole
    del caught
    gc.collect()
    made = watched.calls["EVP_CIPHER_CTX_new"] - watched.calls["failed EVP_CIPHER_CTX_new"]
    assert watched.calls["EVP_CIPHER_CTX_free"] == made >= calls


# --- what C is told


def test_what_is_no_run_never_reaches_c(runs: BlockRuns) -> None:
    worker = runs.worker(BlockCipher.GCM, bytes(32), ASSOCIATED, seals=False)
    room, block = Room(), bytes(BLOCK)
    for first, stored, tags in (
        (0, block[1:], bytes(TAG)),
        (0, block + b"\0", bytes(TAG)),
        (0, block * (RUN_BLOCKS + 1), bytes(TAG * (RUN_BLOCKS + 1))),
        (0, block, bytes(TAG - 1)),
        (0, block, bytes(2 * TAG)),
        (-1, block, bytes(TAG)),
        (2**64 - 1, block, bytes(TAG)),
    ):
        with pytest.raises(ValueError, match="blocks"):
            worker.open_gcm(first, stored, tags, room)
    for key, associated in ((bytes(31), ASSOCIATED), (bytes(64), ASSOCIATED), (bytes(32), bytes(51))):
        with pytest.raises(ValueError, match="length"):
            runs.worker(BlockCipher.GCM, key, associated, seals=True)
    assert in_c(runs).gcm(bytes(32), ASSOCIATED).open(0, b"", b"") == b""


# --- where it is missing


def test_what_is_missing_is_said_with_the_way_out(tmp_path: Path, runs: BlockRuns) -> None:
    with pytest.raises(BlockRunsMissing, match="install a C compiler and run `make setup`"):
        BlockRuns(tmp_path / "block_loop.so")
    with pytest.raises(BlockRunsMissing, match="apt-get install libssl3"):
        BlockRuns(crypto="libcrypto.so.of.tomorrow")
    with pytest.raises(BlockRunsMissing, match="another release: run `make setup`"):
        BlockRuns(Path("libc.so.6"))
    with pytest.raises(BlockRunsMissing, match="has no EVP_aes_256_gcm"):
        BlockRuns(crypto="libc.so.6")


def test_without_it_python_seals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> BlockRuns:
        return BlockRuns(tmp_path / "block_loop.so")

    monkeypatch.setattr(runners, "BlockRuns", none)
    best_runners.cache_clear()
    try:
        assert best_runners() is IN_PYTHON
        made = make(tmp_path / "image")
        with made.open(InsecureAnyImage()) as reader:
            assert reader.read_at(0, reader.size) == made.volume
    finally:
        best_runners.cache_clear()


def test_a_libcrypto_that_copies_no_key_is_not_used(runs: BlockRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_runs.Worker, "copy", lambda _: (_ for _ in ()).throw(CipherFailed("no copy")))
    with pytest.raises(BlockRunsMissing, match="newer release of libssl3"):
        BlockRuns()
