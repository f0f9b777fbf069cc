"""Random stacks of layers, written and read back, against the bytes they should be; readers in threads."""

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers import blocks as blocks_module
from keyvisor_guest.containers.chain import ExactImage, InsecureAnyImage
from keyvisor_guest.containers.errors import BlockRefused, ImageRefused, Refusal, Unbuildable
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK, Limits
from keyvisor_guest.containers.oci.blobs import BlobDirectory
from keyvisor_guest.containers.reader import CACHED_BLOCKS, ImageReader
from keyvisor_guest.containers.runs import joined
from keyvisor_guest.containers.writer import ImageWriter, WriterOptions

from .images import IMAGE, KEY, Counted, inputs, make, states

VOLUME = 150  # blocks: more than two chunks that are sealed at once
ANY = InsecureAnyImage()


@st.composite
def layer(draw):
    """Runs that are stored and runs that become zero."""
    row = draw(st.lists(st.tuples(st.sampled_from(".dz"), st.integers(1, 90)), min_size=1, max_size=6))
    kinds = "".join(kind * count for kind, count in row)[:VOLUME]
    return tuple(joined((at, 1) for at, one in enumerate(kinds) if one == kind) for kind in "dz")


@given(
    stack=st.lists(layer(), min_size=1, max_size=4),
    cipher=st.sampled_from([Cipher.GCM, Cipher.XTS]),
    encrypted=st.integers(0, 3),
    reads=st.lists(st.tuples(st.integers(0, VOLUME * BLOCK + 9), st.integers(0, 100 * BLOCK)), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, stack, cipher, encrypted, reads):
    changed, zero = (tuple(one[kind] for one in stack) for kind in (0, 1))
    volumes = states(changed, zero, VOLUME)
    made = make(
        tmp_path_factory.mktemp("image"),
        layers=inputs(changed, zero, volumes),
        volume_blocks=VOLUME,
        cipher=cipher,
        portion=str(min(encrypted, len(stack) - 1)),
    )
    with made.open(ExactImage(made.built.root)) as reader:
        for offset, length in reads:
            assert reader.read_at(offset, length) == volumes[-1][offset : offset + length]
        reader.verify()
        assert reader.opened_blocks == reader.stored_blocks
        assert reader.read_at(0, reader.size) == volumes[-1]


def test_only_blocks_that_are_asked_for_are_opened(tmp_path):
    with make(tmp_path).open(ANY) as reader:
        assert (reader.opened_blocks, reader.stored_blocks) == (0, 39)
        for _ in range(3):
            reader.read_at(11 * BLOCK + 5, BLOCK)  # parts of two blocks
        assert reader.opened_blocks == 2
        reader.read_at(5 * BLOCK, 5 * BLOCK)  # zeros
        assert reader.opened_blocks == 2


def test_a_block_is_opened_once_while_it_is_kept(tmp_path, monkeypatch):
    opened = []
    made = make(tmp_path)
    real = blocks_module._Gcm.open
    monkeypatch.setattr(
        blocks_module._Gcm,
        "open",
        lambda self, first, *rest: opened.append(first) or real(self, first, *rest),
    )
    with made.open(ANY) as reader:
        for _ in range(5):
            reader.read_at(3 * BLOCK, BLOCK)
        assert opened == [3]
    assert CACHED_BLOCKS * BLOCK <= 4 << 20


def test_readers_in_many_threads_read_the_same(tmp_path):
    made = make(tmp_path)
    wrong = []
    with made.open(ANY) as reader:

        def read(step):
            places = range(0, reader.size, step)
            wrong.extend(at for at in places if reader.read_at(at, step) != made.volume[at : at + step])

        threads = [threading.Thread(target=read, args=(step,)) for step in (511, 4096, 5000, 40_000) * 2]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert wrong == []


def test_a_reader_that_is_closed_under_a_read_gives_errors_and_no_bytes(tmp_path):
    made = make(tmp_path)
    reader = made.open(ANY)
    outcomes = []

    def read():
        try:
            while True:
                assert reader.read_at(0, 60 * BLOCK) == made.volume[: 60 * BLOCK]
                started.set()
        except (ImageRefused, BlockRefused) as error:
            outcomes.append(error.code)

    started = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(30)
    reader.close()
    thread.join()
    assert outcomes[0] in (Refusal.CLOSED, Refusal.BLOCK)


def test_what_a_writer_does_not_take(tmp_path):
    def writer(**changes):
        options = {"version": 1, "volume_blocks": 64, "random_bytes": Counted()} | changes
        return ImageWriter(BlobDirectory(tmp_path), VolumeKey(KEY), IMAGE, WriterOptions(**options))

    for changes in ({"cipher": Cipher.CLEAR}, {"version": -1}, {"version": 1 << 64}):
        with pytest.raises(Unbuildable):
            writer(**changes)
    short = writer(limits=Limits(layers=1))
    short.add_layer(inputs()[0])
    with pytest.raises(Unbuildable, match="at most 1"):
        short.add_layer(inputs()[1])
    tiny = writer(limits=Limits(map_json=100))
    with pytest.raises(Unbuildable, match="map of layer 0"):
        tiny.add_layer(inputs()[0])
    with pytest.raises(Unbuildable, match=r"no layer|layers 0 to"):
        writer().finish(b"{}")
    for config in (b"", b"[]", b'{"a":1,"a":2}', b"\xff", b"[" * 100_000):
        good = writer()
        good.add_layer(inputs()[0])
        with pytest.raises(ImageRefused):
            good.finish(config)
    with pytest.raises(ValueError, match="the image's own"):
        good.finish(b"{}", annotations={"io.keyvisor.image-root": "00" * 32})


def test_more_layers_than_a_reader_takes(tmp_path):
    made = make(tmp_path)
    digest = made.built.manifest.digest
    with pytest.raises(ImageRefused) as caught:
        ImageReader.open(made.layout.blobs, digest, VolumeKey(KEY), ANY, Limits(layers=2))
    assert caught.value.code is Refusal.LIMIT


@pytest.mark.parametrize(
    "edit",
    [
        lambda it: it.pop("layers"),
        lambda it: it["layers"].pop(),
        lambda it: it.update(schemaVersion=1),
        lambda it: it["config"].update(mediaType="application/json"),
        lambda it: it["layers"][0].update(mediaType="application/vnd.oci.image.layer.v1.tar"),
        lambda it: it["layers"][0].update(size=-1),
        lambda it: it["layers"][0].update(size=True),
        lambda it: it["layers"][0].update(size=it["layers"][0]["size"] + 1),
        lambda it: it["layers"][0].update(digest="sha256:../../../../etc/passwd"),
        lambda it: it["layers"][0].update(annotations={}),
        lambda it: it["layers"][0].update(annotations={"io.keyvisor.layer": 0}),
        lambda it: it["layers"].__setitem__(0, None),
        lambda it: it.pop("annotations"),
        lambda it: it.update(layers=it["layers"] * 200),
    ],
)
def test_manifests_that_cannot_be(tmp_path, edit):
    made = make(tmp_path)
    manifest = json.loads(made.layout.blobs.path_of(made.built.manifest.digest).read_bytes())
    edit(manifest)
    digest = made.layout.blobs.put(json.dumps(manifest).encode()).digest
    with pytest.raises(ImageRefused):
        made.open(ANY, manifest=digest)
