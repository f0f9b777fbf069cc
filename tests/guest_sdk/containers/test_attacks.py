"""The attack list of the design (secure-containers, 5), line by line: refused before a block is used, or at the block.

Each attacker has all that is stored, and no key. Beside each attack stands that the same image without it is taken.
"""

import json
import shutil

import pytest

from keyvisor_guest.containers.chain import ExactImage, InsecureAnyImage, MinimumVersion
from keyvisor_guest.containers.errors import BlockRefused, ImageRefused, Refusal
from keyvisor_guest.containers.keys import image_id
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor

from .images import Counted, make

ANY = InsecureAnyImage()
CIPHERS = pytest.mark.parametrize(("cipher", "portion"), [("gcm", "0-"), ("gcm", "2"), ("xts", "0-")])


@pytest.fixture
def made(tmp_path):
    made = make(tmp_path / "image")
    made.open(ExactImage(made.built.root)).close()
    return made


def make_as(tmp_path, cipher, portion):
    return make(tmp_path / "image", cipher={"gcm": Cipher.GCM, "xts": Cipher.XTS}[cipher], portion=portion)


def blob_path(made, layer, which):
    return made.layout.blobs.path_of(getattr(made.built.secure.layers[layer], which).digest)


def manifest_of(made):
    return json.loads(made.layout.blobs.path_of(made.built.manifest.digest).read_bytes())


def store(made, data):
    return {"digest": made.layout.blobs.put(data).digest, "size": len(data)}


def refused(made, manifest=None, demand=ANY):
    """Open the image with the attacker's manifest; the code of the refusal."""
    if manifest is None:
        digest = made.built.manifest.digest
    else:
        data = json.dumps(manifest).encode()
        digest = made.layout.blobs.put(data).digest
        made.layout.tag(Descriptor(MANIFEST, digest, len(data)))
    with pytest.raises(ImageRefused) as caught:
        made.open(demand, manifest=digest)
    assert "\n" not in str(caught.value)
    return caught.value.code


def swapped(data, one, other):
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    blocks[one], blocks[other] = blocks[other], blocks[one]
    return b"".join(blocks)


@CIPHERS
def test_attack_1_blocks_swapped_under_the_same_name(tmp_path, cipher, portion):
    made = make_as(tmp_path, cipher, portion)
    path = blob_path(made, 0, "data")
    path.write_bytes(swapped(path.read_bytes(), 1, 7))
    with made.open(ANY) as reader:
        assert reader.read_at(0, BLOCK) == made.volume[:BLOCK]
        for block in (1, 13):  # block 13 is hidden by layer 1, and so never read
            good = reader.order.pieces(block, 1)
            if next(iter(good)).layer == 0:
                with pytest.raises(BlockRefused) as caught:
                    reader.read_at(block * BLOCK, 1)
                assert (caught.value.block, caught.value.layer) == (block, 0)
        with pytest.raises(BlockRefused):
            reader.verify()


@CIPHERS
def test_attack_1_a_block_and_its_tag_swapped_together(tmp_path, cipher, portion):
    made = make_as(tmp_path, cipher, portion)
    data, tags = blob_path(made, 0, "data"), blob_path(made, 0, "tags")
    data.write_bytes(swapped(data.read_bytes(), 1, 7))
    length = 32 if cipher == "xts" else 16
    table = bytearray(tags.read_bytes())
    one, other = slice(length, 2 * length), slice(7 * length, 8 * length)
    table[one], table[other] = table[other], table[one]
    tags.write_bytes(table)
    assert refused(made) is Refusal.DIGEST


def test_attack_2_swap_with_all_digests_fixed_up(made):
    manifest = manifest_of(made)
    data = swapped(blob_path(made, 0, "data").read_bytes(), 1, 7)
    tags = bytearray(blob_path(made, 0, "tags").read_bytes())
    tags[16:32], tags[112:128] = tags[112:128], tags[16:32]
    layer_map = json.loads(blob_path(made, 0, "map").read_bytes())
    layer_map["data"]["digest"] = digest_of(data)
    layer_map["tags"]["digest"] = digest_of(bytes(tags))
    written = json.dumps(layer_map, sort_keys=True, separators=(",", ":")).encode()
    for place, blob in enumerate((written, bytes(tags), data)):
        manifest["layers"][place].update(store(made, blob))
    assert refused(made, manifest) is Refusal.MAP_MAC


def test_attack_2_other_blobs_in_the_manifest_than_in_the_map(made):
    manifest = manifest_of(made)
    manifest["layers"][2].update(store(made, swapped(blob_path(made, 0, "data").read_bytes(), 1, 7)))
    assert refused(made, manifest) is Refusal.CHAIN


def test_attack_3_two_layers_exchanged(made):
    manifest = manifest_of(made)
    layers = manifest["layers"]
    layers[3:6], layers[6:9] = layers[6:9], layers[3:6]
    for place, layer in enumerate(layers):
        layer["annotations"] = {"io.keyvisor.layer": str(place // 3)}
    assert refused(made, manifest) is Refusal.CHAIN


def test_attack_3_a_layer_twice(made):
    manifest = manifest_of(made)
    manifest["layers"] += [
        {**one, "annotations": {"io.keyvisor.layer": "3"}} for one in manifest["layers"][6:9]
    ]
    assert refused(made, manifest) is Refusal.CHAIN


def test_attack_4_top_layer_dropped(made):
    manifest = manifest_of(made)
    del manifest["layers"][6:]
    assert refused(made, manifest) is Refusal.IMAGE_ROOT


def test_attack_4_all_layers_dropped(made):
    manifest = manifest_of(made)
    del manifest["layers"][:]
    assert refused(made, manifest) is Refusal.MALFORMED


def test_attack_4_bottom_layer_dropped(made):
    manifest = manifest_of(made)
    del manifest["layers"][:3]
    for place, layer in enumerate(manifest["layers"]):
        layer["annotations"] = {"io.keyvisor.layer": str(place // 3)}
    assert refused(made, manifest) is Refusal.CHAIN


@pytest.mark.parametrize(
    "edit",
    [
        lambda it: it["extents"].__setitem__(0, [1, 4]),
        lambda it: it["zero"].append([60, 1]),
        lambda it: it.__setitem__("version", it["version"] + 1),
        lambda it: it.__setitem__("salt", "00" * 32),
        lambda it: it.__setitem__("cipher", "none+hmac"),
        lambda it: it.__setitem__("plain_diff_id", "sha256:" + "0" * 64),
    ],
    ids=["extents", "zero", "version", "salt", "cipher", "source"],
)
def test_attack_5_map_edited(made, edit):
    manifest = manifest_of(made)
    layer_map = json.loads(blob_path(made, 0, "map").read_bytes())
    edit(layer_map)
    # The thin rows follow, so that it is the MAC that says no and not the parser.
    if layer_map["zero"]:
        layer_map["thin"]["rows"] = [[0, 0, 4]]
    written = json.dumps(layer_map, sort_keys=True, separators=(",", ":")).encode()
    manifest["layers"][0].update(store(made, written))
    assert refused(made, manifest) is Refusal.MAP_MAC


@pytest.mark.parametrize("left", [0, BLOCK, 34 * BLOCK - 1])
def test_attack_6_truncated_data(made, left):
    path = blob_path(made, 0, "data")
    path.write_bytes(path.read_bytes()[:left])
    assert refused(made) is Refusal.SIZE


def test_attack_6_truncated_under_an_open_image(made):
    with made.open(ANY) as reader:
        path = blob_path(made, 0, "data")
        with path.open("r+b") as file:
            file.truncate(5 * BLOCK + 100)
        assert reader.read_at(0, 2 * BLOCK) == made.volume[: 2 * BLOCK]
        with pytest.raises(BlockRefused) as caught:
            reader.read_at(10 * BLOCK, 2 * BLOCK)
        assert caught.value.block == 11


def test_attack_6_appended_data(made):
    path = blob_path(made, 2, "data")
    path.write_bytes(path.read_bytes() + bytes(BLOCK))
    assert refused(made) is Refusal.SIZE


@pytest.mark.parametrize("which", ["map", "tags", "data"])
def test_attack_6_a_blob_is_gone(made, which):
    blob_path(made, 1, which).unlink()
    assert refused(made) is Refusal.MISSING


def test_attack_7_entrypoint_changed_in_the_config(made):
    manifest = manifest_of(made)
    config = json.loads(made.layout.blobs.path_of(manifest["config"]["digest"]).read_bytes())
    config["config"]["Entrypoint"] = ["/bin/sh", "-c", "cat /run/secrets"]
    manifest["config"].update(store(made, json.dumps(config).encode()))
    assert refused(made, manifest) is Refusal.IMAGE_ROOT


@CIPHERS
def test_attack_8_bytes_flipped_under_an_open_reader(tmp_path, cipher, portion):
    made = make_as(tmp_path, cipher, portion)
    with made.open(ANY) as reader:
        assert reader.read_at(0, BLOCK) == made.volume[:BLOCK]
        with blob_path(made, 0, "data").open("r+b") as file:
            file.seek(3 * BLOCK + 17)
            file.write(b"\xff\xfe")
        for offset, length in ((3 * BLOCK, BLOCK), (0, 20 * BLOCK), (3 * BLOCK + 4000, 1)):
            with pytest.raises(BlockRefused) as caught:
                reader.read_at(offset, length)
            assert (caught.value.block, caught.value.code) == (3, Refusal.BLOCK)
        assert reader.read_at(BLOCK, BLOCK) == made.volume[BLOCK : 2 * BLOCK]


def test_attack_9_an_older_image_replayed(tmp_path):
    old = make(tmp_path / "image", version=3)
    new = make(tmp_path / "image", version=4, random_bytes=Counted(50))
    image = new.built.secure.image_root
    assert image != old.built.root
    for demand, code in (
        (ExactImage(new.built.root), Refusal.OTHER_IMAGE),
        (MinimumVersion(4, image_id(b"payments-service")), Refusal.TOO_OLD),
    ):
        assert refused(old, demand=demand) is code
        new.open(demand).close()
    # Nothing inside the image stops it: that is why the released key says what it is for.
    old.open(ANY).close()


def test_attack_9_another_image_under_the_same_key(tmp_path):
    wanted = image_id(b"payments-service")
    other = make(tmp_path / "other", image=image_id(b"reporting-jobs.."), version=9)
    assert refused(other, demand=MinimumVersion(3, wanted)) is Refusal.OTHER_IMAGE
    make(tmp_path / "image").open(MinimumVersion(3, wanted)).close()


def test_attack_10_clear_lower_layers_exchanged(tmp_path):
    made = make(tmp_path / "image", portion="2")
    manifest = manifest_of(made)
    layers = manifest["layers"]
    layers[:3], layers[3:6] = layers[3:6], layers[:3]
    for place, layer in enumerate(layers):
        layer["annotations"] = {"io.keyvisor.layer": str(place // 3)}
    assert refused(made, manifest) is Refusal.CHAIN


def test_attack_10_a_clear_layer_of_another_build(tmp_path):
    made = make(tmp_path / "image", portion="2")
    other = make(tmp_path / "image", portion="2", random_bytes=Counted(9))
    manifest, others = manifest_of(made), manifest_of(other)
    manifest["layers"][:3] = others["layers"][:3]
    assert refused(made, manifest) is Refusal.CHAIN


def test_attack_10_a_clear_block_changed(tmp_path):
    made = make(tmp_path / "image", portion="2")
    with blob_path(made, 0, "data").open("r+b") as file:
        file.write(b"P")
    with made.open(ANY) as reader, pytest.raises(BlockRefused):
        reader.read_at(0, 1)


def test_the_tree_of_an_xts_layer_leads_to_the_root_in_its_map(tmp_path):
    made = make(tmp_path / "image", cipher=Cipher.XTS)
    path = blob_path(made, 0, "tags")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert refused(made) is Refusal.DIGEST


def test_a_blob_is_no_link_to_somewhere_else(made, tmp_path):
    path = blob_path(made, 0, "data")
    shutil.copy(path, tmp_path / "elsewhere")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert refused(made) is Refusal.MISSING
