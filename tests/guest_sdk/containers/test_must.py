"""The must-tests of the method (patents, 4.5) that can be shown without a file system: T2 to T9, T11 to T13."""

import json
import subprocess

import pytest

from keyvisor_guest.containers.block_order import BlockOrder
from keyvisor_guest.containers.blocks import TAG_LENGTHS, layer_blocks
from keyvisor_guest.containers.chain import InsecureAnyImage
from keyvisor_guest.containers.errors import ImageRefused, KeyRefused, Refusal
from keyvisor_guest.containers.hash_tree import check_tree
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher, parse_map
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.thin import CLUSTER_BLOCKS, device_mapping
from keyvisor_guest.containers.writer import LayerInput

from .images import CHANGED, CONFIG, KEY, VOLUME_BLOCKS, block, inputs, make, states

ANY = InsecureAnyImage()


def blob(made, layer, which):
    return made.layout.blobs.path_of(getattr(made.built.secure.layers[layer], which).digest).read_bytes()


def everything_stored(path):
    return {one: one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
@pytest.mark.parametrize("portion", ["0-", "1-", "2", "0,2"])
def test_T1_round_trip_of_the_volume(tmp_path, cipher, portion):
    made = make(tmp_path, cipher=cipher, portion=portion)
    with made.open(ANY) as reader:
        assert reader.read_at(0, reader.size) == made.volume
        assert reader.read_at(reader.size - 10, 100) == made.volume[-10:]
        assert reader.read_at(reader.size, 1) == b""
        reader.verify()


def test_T2_only_changed_blocks_in_each_layer(tmp_path):
    made = make(tmp_path)
    for layer, runs in enumerate(CHANGED):
        assert len(blob(made, layer, "data")) == BLOCK * sum(count for _, count in runs)


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
def test_T3_the_order_is_rebuilt_from_metadata_alone_without_a_key(tmp_path, cipher):
    made = make(tmp_path, cipher=cipher)
    order = BlockOrder(parse_map(blob(made, layer, "map")).map.plan for layer in range(3))
    assert [piece.first for piece in order.stored] == [0, 2, 3, 10, 12, 13, 14, 22, 50]
    encrypted = {
        piece: blob(made, piece.layer, "data")[piece.index * BLOCK : (piece.index + piece.count) * BLOCK]
        for piece in order.stored
    }
    # So far without a key. Who has it finds each block where the order has put it, and zeros elsewhere.
    volume = bytearray(VOLUME_BLOCKS * BLOCK)
    for piece, ciphertext in encrypted.items():
        volume[piece.first * BLOCK : (piece.first + piece.count) * BLOCK] = opened(made, piece, ciphertext)
    assert bytes(volume) == made.volume


def opened(made, piece, ciphertext):
    layer = parse_map(blob(made, piece.layer, "map")).map
    tags = blob(made, piece.layer, "tags")
    if layer.root is not None:
        tags = check_tree(tags, layer.data_blocks, layer.salt, layer.root)
    length = TAG_LENGTHS[layer.plan.cipher]
    own = tags[piece.index * length : (piece.index + piece.count) * length]
    return layer_blocks(VolumeKey(KEY), layer.plan, layer.salt).open(piece.first, ciphertext, own)


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
def test_T4_known_plaintext_is_absent_from_all_encrypted_layers(tmp_path, cipher):
    made = make(tmp_path, cipher=cipher, portion="1-")
    stored = everything_stored(tmp_path)
    clear = made.layout.blobs.path_of(made.built.secure.layers[0].data.digest)
    for path, data in stored.items():
        assert (b"plaintext of layer" in data) == (path == clear)
    hashes = [one.diff_id for one in inputs()]
    maps = [blob(made, layer, "map").decode() for layer in range(3)]
    assert hashes[0] in maps[0]
    assert not any(one[7:] in text for one in hashes[1:] for text in maps)  # a hash confirms a guess


def test_T5_clear_layers_are_byte_identical(tmp_path):
    made = make(tmp_path, portion="2")
    for layer, runs in enumerate(CHANGED[:2]):
        plain = [block(layer, one) for first, count in runs for one in range(first, first + count)]
        assert blob(made, layer, "data") == b"".join(plain)


@pytest.mark.parametrize("damage", ["swap", "drop", "duplicate", "truncate", "flip"])
@pytest.mark.parametrize("which", ["map", "tags", "data"])
def test_T6_swap_drop_duplicate_truncate_flip_are_refused(tmp_path, damage, which):
    """Of a layer's blob, whatever it is; test_attacks has the same with digests and order fixed up."""
    made = make(tmp_path)
    path, above = (
        made.layout.blobs.path_of(getattr(made.built.secure.layers[layer], which).digest) for layer in (0, 1)
    )
    data = path.read_bytes()
    damaged = {
        "swap": above.read_bytes(),
        "drop": b"",
        "duplicate": data + data,
        "truncate": data[: len(data) // 2],
        "flip": bytes([data[0] ^ 1]) + data[1:],
    }
    path.write_bytes(damaged[damage])

    def use():
        with made.open(ANY) as reader:
            reader.read_at(0, reader.size)

    with pytest.raises(ImageRefused):
        use()
    path.write_bytes(data)
    use()


def test_T7_wrong_key(tmp_path):
    made = make(tmp_path)
    with pytest.raises(ImageRefused) as caught:
        made.open(ANY, key=bytes(32))
    assert caught.value.code is Refusal.MAP_MAC
    for length in (0, 31, 33):
        with pytest.raises(KeyRefused):
            VolumeKey(bytes(length))


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
@pytest.mark.parametrize("portion", ["0-", "0"])
def test_T8_empty_layer_deletions_only_sparse_and_large(tmp_path, cipher, portion):
    blocks = 1 << 20  # a volume of 4 GiB, of which little is there
    changed = (((5, 1), (300_000, 200), (blocks - 1, 1)), (), (), ((300_050, 3),))
    zero = ((), (), ((300_010, 20), (300_100, 1)), ())

    def content(layer, number):
        return block(layer, number)

    def reader(layer):
        def read_at(offset, length):
            first = offset // BLOCK
            return b"".join(content(layer, number) for number in range(first, first + length // BLOCK))

        return read_at

    layers = [
        LayerInput(reader(layer), runs, holes, "sha256:" + "0" * 64)
        for layer, (runs, holes) in enumerate(zip(changed, zero, strict=True))
    ]
    made = make(tmp_path, layers=layers, volume=b"", volume_blocks=blocks, cipher=cipher, portion=portion)
    assert blob(made, 1, "data") == blob(made, 2, "data") == b""
    with made.open(ANY) as reader_:
        reader_.verify()
        assert reader_.size == blocks * BLOCK
        for number, expected in {
            5: block(0, 5),
            6: bytes(BLOCK),
            300_000: block(0, 300_000),
            300_010: bytes(BLOCK),
            300_029: bytes(BLOCK),
            300_030: block(0, 300_030),
            300_049: block(0, 300_049),
            300_052: block(3, 300_052),
            300_100: bytes(BLOCK),
            blocks - 1: block(0, blocks - 1),
        }.items():
            assert reader_.read_at(number * BLOCK, BLOCK) == expected, number
        assert sum(map(any, [reader_.read_at(0, 5 * BLOCK)])) == 0


def test_T9_what_the_host_stores_holds_no_key(tmp_path):
    made = make(tmp_path)
    key = VolumeKey(KEY)
    image = made.open(ANY).maps[0].plan.image
    secrets = [KEY, key.meta_key(image), key.image_key(image), key.diff_key(image)]
    secrets += [key.layer_key(image, one.plan.layer, one.salt, 32) for one in made.open(ANY).maps]
    for data in everything_stored(tmp_path).values():
        for secret in secrets:
            assert secret not in data
            assert secret.hex().encode() not in data
    assert KEY.hex() not in repr(key)
    assert str(KEY) not in repr(key)


def test_T9_a_closed_reader_gives_nothing(tmp_path):
    reader = make(tmp_path).open(ANY)
    reader.read_at(0, BLOCK)
    reader.close()
    reader.close()
    for ask in (lambda: reader.read_at(0, BLOCK), reader.verify, lambda: reader.opened_blocks):
        with pytest.raises(ImageRefused) as caught:
            ask()
        assert caught.value.code is Refusal.CLOSED


# T10, the key through a secret and through an HSM, needs the firmware: end_to_end/test_container_run.py.


def test_T11_original_metadata_kept(tmp_path):
    with make(tmp_path).open(ANY) as reader:
        kept, source = json.loads(reader.config), json.loads(CONFIG)
    assert {**kept, "rootfs": None} == {**source, "rootfs": None}
    assert kept["rootfs"]["diff_ids"] != source["rootfs"]["diff_ids"]


def test_T12_thin_metadata_in_each_layer(tmp_path):
    made = make(tmp_path)
    layers = [parse_map(blob(made, layer, "map")).map.thin for layer in range(3)]
    volumes = states()
    pool: dict[int, bytes] = {}
    size = CLUSTER_BLOCKS * BLOCK
    for layer, volume in zip(layers, volumes, strict=True):
        for row in layer.rows:
            for one in range(row.count):
                at = (row.virtual + one) * size
                assert row.pool + one not in pool  # nothing of a lower device is written over
                pool[row.pool + one] = volume[at : at + size]
    assert sorted(pool) == list(range(len(pool)))
    for top, volume in enumerate(volumes):
        device = bytearray(len(volume))
        for row in device_mapping(layers[: top + 1]):
            for one in range(row.count):
                at = (row.virtual + one) * size
                device[at : at + size] = pool[row.pool + one]
        assert bytes(device) == volume


def test_T13_deterministic_output(tmp_path):
    one = make(tmp_path / "one", random_bytes=None)
    other = make(tmp_path / "other", random_bytes=None)
    assert one.built == other.built
    first = {
        path.relative_to(tmp_path / "one"): data for path, data in everything_stored(tmp_path / "one").items()
    }
    second = everything_stored(tmp_path / "other").items()
    assert first == {path.relative_to(tmp_path / "other"): data for path, data in second}
    drawn = make(tmp_path / "drawn")
    assert drawn.built.root != one.built.root


def test_the_tree_is_one_that_veritysetup_verifies(tmp_path, program):
    veritysetup = program("veritysetup", "cryptsetup-bin")
    made = make(tmp_path / "image", cipher=Cipher.XTS)
    layer = made.open(ANY).maps[0]
    data, tree = (made.layout.blobs.path_of(one) for one in (layer.data, layer.tags))
    command = [veritysetup, "verify", "--no-superblock", "--format=1", "--hash=sha256"]
    command += ["--data-block-size=4096", "--hash-block-size=4096", f"--data-blocks={layer.data_blocks}"]
    command += [f"--salt={layer.salt.hex()}", str(data), str(tree)]
    good = subprocess.run([*command, layer.root.hex()], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    bad = subprocess.run([*command, "00" * 32], capture_output=True, text=True, check=False)
    assert bad.returncode != 0
