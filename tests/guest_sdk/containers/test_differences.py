"""The blocks in which two files differ, wherever their holes are."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.differences import Differences, differences
from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.runs import Runs

BLOCK = 4096
CONTENT = {"zeros": bytes(BLOCK), "a": b"a" * BLOCK, "b": b"b" * BLOCK, "last byte": bytes(BLOCK - 1) + b"\1"}
some_blocks = st.dictionaries(st.integers(0, 299), st.sampled_from(sorted(CONTENT)), max_size=40)


def write(path: Path, blocks: dict[int, str], count: int = 300) -> Path:
    """A file of `count` blocks: what is not named is a hole, and `zeros` is written out."""
    with path.open("wb") as file:
        file.truncate(count * BLOCK)
        for block, content in blocks.items():
            file.seek(block * BLOCK)
            file.write(CONTENT[content])
    return path


def numbers(runs: Runs) -> set[int]:
    return {block for first, count in runs for block in range(first, first + count)}


@given(some_blocks, some_blocks)
@settings(max_examples=150, deadline=None)
def test_as_a_dictionary_says(old: dict[int, str], new: dict[int, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        found = differences(write(Path(directory, "old"), old), write(Path(directory, "new"), new))
    differing = {block for block in range(300) if old.get(block, "zeros") != new.get(block, "zeros")}
    zero = {block for block in differing if new.get(block, "zeros") == "zeros"}
    assert numbers(found.changed) == differing - zero
    assert numbers(found.zero) == zero
    for runs in (found.changed, found.zero):
        assert all(first + count < following for (first, count), (following, _) in pairwise(runs))


def test_the_first_layer_is_held_against_zeros(tmp_path: Path) -> None:
    new = write(tmp_path / "new", {0: "a", 1: "b", 2: "zeros", 299: "last byte"})
    assert differences(None, new) == Differences(((0, 2), (299, 1)), ())


def test_nothing_differs_from_itself(tmp_path: Path) -> None:
    new = write(tmp_path / "new", {7: "a"})
    assert differences(new, new) == Differences((), ())


def test_a_terabyte_of_holes_costs_nothing(tmp_path: Path) -> None:
    count = 1 << 28
    old, new = (
        write(tmp_path / "old", {3: "a"}, count),
        write(tmp_path / "new", {3: "a", count - 1: "b"}, count),
    )
    assert differences(old, new) == Differences(((count - 1, 1),), ())


def test_states_of_different_sizes(tmp_path: Path) -> None:
    with pytest.raises(VolumeUnusable, match="different sizes"):
        differences(write(tmp_path / "old", {}, 4), write(tmp_path / "new", {}, 5))


def test_a_size_that_is_no_number_of_blocks(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    with pytest.raises(VolumeUnusable, match="no whole number of blocks"):
        differences(None, tmp_path / "new")
