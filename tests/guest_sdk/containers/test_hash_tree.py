"""Hash trees against the simplest way to write one, and every flipped byte of one is refused."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.hash_tree import build_tree, check_tree, tree_size
from keyvisor_guest.containers.limits import BLOCK

SALT = bytes(reversed(range(32)))


def leaves_of(blocks):
    return b"".join(hashlib.sha256(str(one).encode()).digest() for one in range(blocks))


def by_the_book(digests):
    """Levels from the bottom up: hash blocks of 128 digests, filled up with zeros."""
    levels = []
    while len(digests) > 1:
        blocks = [b"".join(digests[at : at + 128]).ljust(BLOCK, b"\0") for at in range(0, len(digests), 128)]
        levels.insert(0, b"".join(blocks))
        digests = [hashlib.sha256(SALT + block).digest() for block in blocks]
    return b"".join(levels), digests[0] if digests else hashlib.sha256(SALT).digest()


@pytest.mark.parametrize("blocks", [0, 1, 2, 127, 128, 129, 128 * 128, 128 * 128 + 1])
def test_a_hash_tree_leads_to_its_root_or_is_refused(blocks):
    leaves = leaves_of(blocks)
    tree, root = build_tree(leaves, SALT)
    assert (tree, root) == by_the_book([leaves[at : at + 32] for at in range(0, len(leaves), 32)])
    assert len(tree) == tree_size(blocks)
    assert check_tree(tree, blocks, SALT, root) == leaves
    bad = [(tree + bytes(BLOCK), root, SALT)]
    # One block is its own root, and held against that when it is read.
    bad += [(tree, b"\x01" * 32, SALT), (tree, root, bytes(32))] if blocks != 1 else []
    bad += [(bytes([tree[0] ^ 1]) + tree[1:], root, SALT), (tree[:-1] + b"\x01", root, SALT)] if tree else []
    for other, wanted, salt in bad:
        with pytest.raises(ImageRefused) as caught:
            check_tree(other, blocks, salt, wanted)
        assert caught.value.code is Refusal.INTEGRITY_TREE


@given(st.sampled_from([2, 128, 129, 300]), st.integers(0, 1 << 20), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_any_flipped_byte_is_refused_even_in_what_fills_a_block(blocks, at, flip):
    tree, root = build_tree(leaves_of(blocks), SALT)
    damaged = bytearray(tree)
    damaged[at % len(tree)] ^= flip
    with pytest.raises(ImageRefused):
        check_tree(bytes(damaged), blocks, SALT, root)


@given(st.integers(2, 300), st.integers(-300, 300).filter(bool))
@settings(max_examples=60, deadline=None)
def test_a_tree_is_of_so_many_blocks_and_no_others(blocks, more):
    """Padding is no leaf: a tree of 2 blocks does not pass for one of 3."""
    tree, root = build_tree(leaves_of(blocks), SALT)
    other = max(blocks + more, 0)
    try:
        leaves = check_tree(tree, other, SALT, root)
    except ImageRefused:
        return
    # The same level, cut elsewhere: only where what is cut off or added is the zeros that fill the block.
    assert leaves[: 32 * blocks] == leaves_of(blocks)
    assert not any(leaves[32 * blocks :])
    assert other > blocks
