"""A tree of hashes over the stored blocks of an XTS layer, laid out as dm-verity's (format 1, without its superblock).

A digest is SHA-256(salt ‖ 4096 bytes); a hash block holds 128 of them; the levels stand one after the other, the topmost first,
and the root is the digest of the only block of the topmost. One block is its own root; where there is none, the root is
SHA-256(salt). `veritysetup verify --no-superblock` takes data blob, tree and root as they are. Knows no cipher.
"""

from __future__ import annotations

import hashlib
from typing import Final

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["DIGEST_LENGTH", "block_digest", "build_tree", "check_tree", "tree_size"]

DIGEST_LENGTH: Final = 32
_FANOUT: Final = BLOCK // DIGEST_LENGTH


def block_digest(salt: bytes, block: bytes | memoryview) -> bytes:
    """The digest of one block of data or of hashes."""
    digest = hashlib.sha256(salt)
    digest.update(block)
    return digest.digest()


def build_tree(leaves: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """The tree over the data blocks' digests, and its root."""
    levels: list[bytes] = []
    below = leaves
    while len(below) > DIGEST_LENGTH:
        level = below.ljust(-(-len(below) // BLOCK) * BLOCK, b"\x00")
        levels.insert(0, level)
        below = _digests(level, salt)
    return b"".join(levels), below or hashlib.sha256(salt).digest()


def tree_size(blocks: int) -> int:
    """How long the tree over so many data blocks is, bytes."""
    size = 0
    while blocks > 1:
        blocks = -(-blocks // _FANOUT)
        size += blocks * BLOCK
    return size


def check_tree(tree: bytes, blocks: int, salt: bytes, root: bytes) -> bytes:
    """The data blocks' digests out of a tree that leads to `root`, 32 bytes each. Raises ImageRefused for another."""
    if len(tree) != tree_size(blocks):
        raise _not_the_root()
    if blocks < 2:  # no level at all
        leaves = root if blocks else b""
    else:
        leaf_level = -(-blocks // _FANOUT) * BLOCK
        leaves = tree[len(tree) - leaf_level :][: blocks * DIGEST_LENGTH]
    if build_tree(leaves, salt) != (tree, root):
        raise _not_the_root()
    return leaves


def _digests(level: bytes, salt: bytes) -> bytes:
    view = memoryview(level)
    return b"".join(block_digest(salt, view[at : at + BLOCK]) for at in range(0, len(level), BLOCK))


def _not_the_root() -> ImageRefused:
    return ImageRefused(
        "the hash tree of a layer does not lead to the root in its map: pull the image again",
        Refusal.INTEGRITY_TREE,
    )
