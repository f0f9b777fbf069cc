"""Blocks, keys and nonces: standard vectors, every place of its own, and no nonce twice under one key, whatever is built."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as Aes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers import blocks as blocks_module
from keyvisor_guest.containers import runners
from keyvisor_guest.containers.block_runs import BlockRuns, BlockRunsMissing
from keyvisor_guest.containers.blocks import RUN_BLOCKS, TAG_LENGTHS, layer_blocks
from keyvisor_guest.containers.errors import BlockRefused, Unbuildable
from keyvisor_guest.containers.keys import ImageId, VolumeKey, image_id
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci.blobs import BlobDirectory
from keyvisor_guest.containers.writer import ImageWriter, LayerInput, WriterOptions

from .images import CONFIG, Counted

KEY = VolumeKey(bytes(range(32)))
IMAGE = ImageId(b"payments-service")
SALT = bytes(reversed(range(32)))


@pytest.fixture(scope="module", params=["in Python", "in C"], autouse=True)
def way(request):
    """Everything here with both ways to seal; where there is no compiled one, with one."""
    try:
        how = runners.IN_PYTHON if request.param == "in Python" else runners.in_c(BlockRuns())
    except BlockRunsMissing as missing:
        pytest.skip(str(missing))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_module, "best_runners", lambda: how)
        yield


def plan(cipher, layer=2, prev=b"\x07" * 32):
    return LayerPlan(1, IMAGE, layer, 1 << 20, cipher, (), (), prev)


def hkdf(key, salt, info, length=32):
    """RFC 5869, by hand."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    output, last = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        last = hmac.digest(extracted, last + info + bytes([counter]), "sha256")
        output += last
    return output[:length]


def test_keys_are_those_of_the_design():
    value = KEY.reveal()
    assert KEY.meta_key(IMAGE) == hkdf(value, b"", b"meta" + IMAGE)
    assert KEY.image_key(IMAGE) == hkdf(value, b"", b"image" + IMAGE)
    assert KEY.layer_key(IMAGE, 5, SALT, 64) == hkdf(value, SALT, b"layer" + IMAGE + b"\0\0\0\x05", 64)
    with pytest.raises(ValueError, match="16 bytes"):
        image_id(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        KEY.layer_key(IMAGE, 0, b"", 32)


def test_the_volume_key_shows_and_leaves_nothing():
    import copy
    import pickle

    for text in (repr(KEY), str(KEY), f"{KEY}", repr([KEY]), repr(layer_blocks(KEY, plan(Cipher.GCM), SALT))):
        assert KEY.reveal().hex() not in text
        assert repr(KEY.reveal())[2:10] not in text
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(KEY)


def test_a_gcm_block_is_as_the_design_has_it():
    plain = bytes(range(256)) * 16
    stored, tags = layer_blocks(KEY, plan(Cipher.GCM), SALT).seal(77, plain)
    nonce = bytes(4) + (77).to_bytes(8, "big")
    associated = IMAGE + b"\x07" * 32 + (2).to_bytes(4, "big") + (77).to_bytes(8, "big")
    expected = AESGCM(hkdf(KEY.reveal(), SALT, b"layer" + IMAGE + b"\0\0\0\x02")).encrypt(
        nonce, plain, associated
    )
    assert bytes(stored) + tags == expected


def test_an_xts_block_is_as_dm_crypt_has_it():
    """plain64 with 4096-byte sectors: the tweak is the block's number, little-endian."""
    plain = bytes(range(256)) * 16
    stored, tags = layer_blocks(KEY, plan(Cipher.XTS), SALT).seal(300, plain)
    key = hkdf(KEY.reveal(), SALT, b"layer" + IMAGE + b"\0\0\0\x02", 64)
    expected = Aes(AES(key), XTS((300).to_bytes(8, "little") + bytes(8))).encryptor().update(plain)
    assert bytes(stored) == expected
    assert tags == hashlib.sha256(SALT + expected).digest()


def test_a_clear_block_is_tagged():
    plain = bytes(range(256)) * 16
    stored, tags = layer_blocks(KEY, plan(Cipher.CLEAR), SALT).seal(1, plain)
    associated = IMAGE + b"\x07" * 32 + (2).to_bytes(4, "big") + (1).to_bytes(8, "big")
    key = hkdf(KEY.reveal(), SALT, b"layer" + IMAGE + b"\0\0\0\x02")
    assert bytes(stored) == plain
    assert tags == hmac.digest(key, associated + plain, "sha256")[:16]


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("count", [1, 2, RUN_BLOCKS])
def test_runs_come_back_and_only_at_their_place(cipher, count):
    plain = hashlib.shake_256(b"plain").digest(count * BLOCK)
    cell = layer_blocks(KEY, plan(cipher), SALT)
    stored, tags = cell.seal(9, plain)
    stored = bytes(stored)
    assert len(tags) == count * TAG_LENGTHS[cipher]
    assert cell.open(9, stored, tags) == plain
    others = [
        layer_blocks(KEY, plan(cipher), bytes(32)),
        layer_blocks(VolumeKey(bytes(32)), plan(cipher), SALT),
        layer_blocks(KEY, plan(cipher, layer=3), SALT),
        layer_blocks(KEY, plan(cipher, prev=bytes(32)), SALT),
    ]
    if cipher is Cipher.XTS:  # its place is bound by the tree's root, which stands in the map under its MAC
        return
    for other in others:
        with pytest.raises(BlockRefused):
            other.open(9, stored, tags)
    with pytest.raises(BlockRefused) as caught:
        cell.open(10, stored, tags)
    assert (caught.value.block, caught.value.layer) == (10, 2)


@pytest.mark.parametrize("cipher", Cipher)
@given(data=st.data())
@settings(max_examples=30)
def test_every_flipped_bit_is_seen(cipher, data):
    cell = layer_blocks(KEY, plan(cipher), SALT)
    stored, tags = cell.seal(0, bytes(3 * BLOCK))
    both = bytearray(bytes(stored) + tags)
    at = data.draw(st.integers(0, len(both) - 1))
    both[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BlockRefused) as caught:
        cell.open(0, bytes(both[: 3 * BLOCK]), bytes(both[3 * BLOCK :]))
    place = at // BLOCK if at < 3 * BLOCK else (at - 3 * BLOCK) // TAG_LENGTHS[cipher]
    assert caught.value.block == place


class _Watched:
    """Remembers what every (key, nonce) of AES-GCM was used for, over all builds."""

    def __init__(self):
        self.uses = {}

    def look_on(self, patch):
        """In Python, where nonces are seen. In C they are the same: test_runners.py compares what comes out."""
        patch.setattr(blocks_module, "best_runners", lambda: runners.IN_PYTHON)
        patch.setattr(runners, "AESGCM", self._aead())

    def _aead(self):
        watched = self

        class Watching:
            def __init__(self, key):
                self._key, self._real = bytes(key), AESGCM(key)

            def encrypt_into(self, nonce, data, associated, target):
                use = (bytes(data), bytes(associated))
                known = watched.uses.setdefault((self._key, bytes(nonce)), use)
                assert known == use, "one nonce for two contents"
                return self._real.encrypt_into(nonce, data, associated, target)

        return Watching


RUNS = st.sets(st.integers(0, 7), max_size=5).map(lambda numbers: tuple((one, 1) for one in sorted(numbers)))
LAYER = st.tuples(RUNS, st.integers(0, 3))


@given(
    builds=st.lists(
        st.tuples(st.lists(LAYER, min_size=1, max_size=3), st.integers(1, 2), st.booleans()),
        min_size=2,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_nonce_serves_two_contents_over_rebuilds_with_one_id_and_key(builds, tmp_path_factory):
    watched = _Watched()
    with pytest.MonkeyPatch.context() as patch:
        watched.look_on(patch)
        random = Counted()
        for layers, version, reproducible in builds:
            build(tmp_path_factory.mktemp("blobs"), layers, version, None if reproducible else random)


def build(path, layers, version, random):
    options = WriterOptions(version=version, volume_blocks=8, random_bytes=random)
    writer = ImageWriter(BlobDirectory(path), KEY, IMAGE, options)
    for runs, content in layers:
        writer.add_layer(
            LayerInput(
                lambda _, length, content=content: bytes([content]) * length, runs, (), "sha256:" + "0" * 64
            )
        )
    return writer.finish(CONFIG)


def test_the_watch_notices_a_fixed_salt(tmp_path):
    """The broken twin: the one thing that must never be done."""
    watched = _Watched()
    with pytest.MonkeyPatch.context() as patch:
        watched.look_on(patch)
        build(tmp_path, [(((0, 1),), 1)], 1, lambda length: bytes(length))
        with pytest.raises(AssertionError, match="two contents"):
            build(tmp_path, [(((0, 1),), 2)], 1, lambda length: bytes(length))


def test_a_volume_that_changes_between_salt_and_sealing_is_not_built(tmp_path):
    reads = iter(range(1, 100))
    options = WriterOptions(version=1, volume_blocks=8, random_bytes=None)
    blobs = BlobDirectory(tmp_path)
    writer = ImageWriter(blobs, KEY, IMAGE, options)
    source = LayerInput(lambda _, length: bytes([next(reads)]) * length, ((0, 1),), (), "sha256:" + "0" * 64)
    with pytest.raises(Unbuildable, match="changed while"):
        writer.add_layer(source)
    # What was sealed under that key must not be kept either: with the right content's, it would tell both.
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


@pytest.mark.parametrize(
    ("changed", "zero", "reason"),
    [
        (((0, 9),), (), "the volume at 8"),
        (((3, 1), (2, 1)), (), "begins before"),
        (((0, 2),), ((1, 1),), "both changed and zero"),
    ],
)
def test_differences_that_cannot_be(tmp_path, changed, zero, reason):
    options = WriterOptions(version=1, volume_blocks=8, random_bytes=Counted())
    writer = ImageWriter(BlobDirectory(tmp_path), KEY, IMAGE, options)
    with pytest.raises(Unbuildable, match=reason):
        writer.add_layer(LayerInput(lambda _, length: bytes(length), changed, zero, "sha256:" + "0" * 64))


def test_a_volume_that_ends_early_is_not_built(tmp_path):
    options = WriterOptions(version=1, volume_blocks=8, random_bytes=Counted())
    writer = ImageWriter(BlobDirectory(tmp_path), KEY, IMAGE, options)
    with pytest.raises(Unbuildable, match="ends in block 1"):
        writer.add_layer(LayerInput(lambda *_: bytes(BLOCK), ((0, 2),), (), "sha256:" + "0" * 64))
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]
