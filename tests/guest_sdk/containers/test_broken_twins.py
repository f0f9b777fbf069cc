"""Each check of the reader, left out: the attack that it is for is then found later or not at all.

Shows that the attack list tests these checks and no others by accident, and what stands behind each of them.
"""

import json

import pytest

from keyvisor_guest.containers import blocks, chain, hash_tree, reader
from keyvisor_guest.containers.chain import Chain, ExactImage, InsecureAnyImage, MinimumVersion
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.layer_map import Cipher, SignedMap
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci import blobs

from .images import IMAGE, Counted, make
from .test_attacks import blob_path, manifest_of, store, swapped

ANY = InsecureAnyImage()
GOOD, OTHER = "the volume as it was built", "another volume"


def nothing(*_args, **_named):
    """A check that lets everything through."""


def always(*_args):
    """A comparison that finds everything equal."""
    return True


def use(made, manifest=None, demand=ANY):
    """What a reader of the attacker's image has in the end."""
    digest = None if manifest is None else made.layout.blobs.put(json.dumps(manifest).encode()).digest
    try:
        with made.open(demand, manifest=digest) as opened:
            volume = opened.read_at(0, opened.size)
            config = json.loads(opened.config)["config"]
    except ImageRefused as error:
        return error.code
    return GOOD if volume == made.volume and config.get("Entrypoint") == ["/bin/pay"] else OTHER


def edited_map(path):
    made = make(path)
    manifest = manifest_of(made)
    members = json.loads(blob_path(made, 2, "map").read_bytes())
    members["version"] = 4
    written = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    manifest["layers"][6].update(store(made, written))
    return made, manifest, ANY


def exchanged_layers(path):
    made = make(path)
    manifest = manifest_of(made)
    layers = manifest["layers"]
    layers[3:6], layers[6:9] = layers[6:9], layers[3:6]
    for place, layer in enumerate(layers):
        layer["annotations"] = {"io.keyvisor.layer": str(place // 3)}
    return made, manifest, ANY


def dropped_layer(path):
    made = make(path)
    manifest = manifest_of(made)
    del manifest["layers"][6:]
    return made, manifest, ANY


def another_entrypoint(path):
    made = make(path)
    manifest = manifest_of(made)
    config = json.loads(made.layout.blobs.path_of(manifest["config"]["digest"]).read_bytes())
    config["config"]["Entrypoint"] = ["/bin/sh"]
    manifest["config"].update(store(made, json.dumps(config).encode()))
    return made, manifest, ANY


def older_image(path):
    made = make(path, version=3)
    return made, None, MinimumVersion(4, IMAGE)


def another_image(path):
    made = make(path)
    return made, None, ExactImage(make(path, random_bytes=Counted(70)).built.root)


def changed_clear_block(path):
    made = make(path, portion="2")
    with blob_path(made, 0, "data").open("r+b") as file:
        file.write(b"P")
    return made, None, ANY


def swapped_xts_blocks(path):
    """Two blocks exchanged, with their digests in the tree."""
    made = make(path, cipher=Cipher.XTS)
    data, tree = blob_path(made, 0, "data"), blob_path(made, 0, "tags")
    data.write_bytes(swapped(data.read_bytes(), 0, 7))
    leaves = bytearray(tree.read_bytes())
    leaves[:32], leaves[7 * 32 : 8 * 32] = leaves[7 * 32 : 8 * 32], leaves[:32]
    tree.write_bytes(leaves)
    return made, None, ANY


def truncated_data(path):
    made = make(path)
    file = blob_path(made, 0, "data")
    file.write_bytes(file.read_bytes()[:BLOCK])
    return made, None, ANY


def no_tree(tree, count, salt, root):
    return tree[: count * 32] if count > 1 else root


# The check, how it is left out, the attack, what the whole reader says, and what it says without the check.
TWINS = {
    "map MAC": ([(SignedMap, "verify", nothing)], edited_map, Refusal.MAP_MAC, Refusal.CHAIN),
    "map MAC, chain": (
        [(SignedMap, "verify", nothing), (Chain, "_check_place", nothing)],
        edited_map,
        Refusal.MAP_MAC,
        Refusal.IMAGE_ROOT,
    ),
    "chain": ([(Chain, "_check_place", nothing)], exchanged_layers, Refusal.CHAIN, Refusal.CHAIN),
    "image root": ([(chain, "macs_equal", always)], dropped_layer, Refusal.IMAGE_ROOT, OTHER),
    "config in the root": ([(chain, "macs_equal", always)], another_entrypoint, Refusal.IMAGE_ROOT, OTHER),
    "version": ([(chain, "_check_demand", nothing)], older_image, Refusal.TOO_OLD, GOOD),
    "image": ([(chain, "_check_demand", nothing)], another_image, Refusal.OTHER_IMAGE, GOOD),
    "tag of a clear block": ([(blocks, "macs_equal", always)], changed_clear_block, Refusal.BLOCK, OTHER),
    "digest of the tags": (
        [(blobs, "digest_of", None)],
        swapped_xts_blocks,
        Refusal.DIGEST,
        Refusal.INTEGRITY_TREE,
    ),
    "digest of the tags, tree": (
        [(blobs, "digest_of", None), (reader, "check_tree", no_tree)],
        swapped_xts_blocks,
        Refusal.DIGEST,
        OTHER,
    ),
    "size of the data": (
        [(reader, "_data", lambda source, one: source.open(one.data))],
        truncated_data,
        Refusal.SIZE,
        Refusal.BLOCK,
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_check_left_out(tmp_path, monkeypatch, name):
    patches, attack, whole, without = TWINS[name]
    made, manifest, demand = attack(tmp_path / "image")
    assert use(made, manifest, demand) == whole
    real = hash_tree.check_tree
    assert reader.check_tree is real
    for module, attribute, other in patches:
        monkeypatch.setattr(module, attribute, other or AnyDigest)
    assert use(made, manifest, demand) == without


class AnyDigest(str):
    """A digest that is like every other: what a store without checks would have."""

    __slots__ = ()

    def __new__(cls, _data):
        return super().__new__(cls, "sha256:" + "0" * 64)

    def __eq__(self, _other):
        return True

    def __ne__(self, _other):
        return False

    __hash__ = str.__hash__
