"""The whole way: an ordinary image's layers, real volume states, a secure image, and the tree read back out of it."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from uuid import UUID

import pytest

pytest.importorskip(
    "keyvisor_guest.containers.volume_states", reason="volume states are built by another part"
)

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor, Manifest, manifest_bytes
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import CONFIG_TYPE
from keyvisor_guest.containers.oci.sources import from_layout
from keyvisor_guest.containers.portion import Portion
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.tar_layers import LayerReader
from keyvisor_guest.containers.volume_states import Measured, build_states
from keyvisor_guest.containers.writer import ImageWriter, LayerInput, WriterOptions

from .images import IMAGE, KEY, Counted

SECRET = b"known plaintext of the application\n" * 3000
LAYERS = [
    [("etc", None), ("etc/motd", b"welcome\n"), ("bin", None), ("bin/sh", b"#!" * 9000), ("old", b"gone")],
    [("srv", None), ("srv/pay", SECRET), (".wh.old", b"")],
    [(".wh.bin", b""), ("etc/motd", b"changed\n")],
]
TREE = {(b"etc", b"motd"): b"changed\n", (b"srv", b"pay"): SECRET}


def layer_tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


def source_image(path):
    layout = OciLayout(path)
    layout.create()
    tars = [layer_tar(members) for members in LAYERS]
    stored = [layout.blobs.put(gzip.compress(one, mtime=0)) for one in tars]
    layers = tuple(
        Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", one.digest, one.size) for one in stored
    )
    diff_ids = ["sha256:" + hashlib.sha256(one).hexdigest() for one in tars]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    described = layout.blobs.put(json.dumps(config).encode())
    manifest = manifest_bytes(Manifest(Descriptor(CONFIG_TYPE, described.digest, described.size), layers))
    stored_manifest = layout.blobs.put(manifest)
    return from_layout(layout, Descriptor(MANIFEST, stored_manifest.digest, stored_manifest.size))


def build(source, layout, work, cipher, portion, random_bytes):
    work.mkdir()
    measured, budget = Measured(), Budget()
    for layer in source.layers:
        with layer.open() as blob:
            for entry in LayerReader(blob, budget):
                measured.add(entry)
    size = measured.size()
    layout.create()
    options = WriterOptions(
        version=1,
        volume_blocks=size.blocks,
        random_bytes=random_bytes,
        portion=Portion.parse(portion),
        cipher=cipher,
    )
    writer = ImageWriter(layout.blobs, VolumeKey(KEY), IMAGE, options)

    def entries(layer):
        with layer.open() as blob:
            reader = LayerReader(blob, budget)
            yield from reader
            assert reader.diff_id() == layer.diff_id

    layers = (entries(layer) for layer in source.layers)
    for state in build_states(work, UUID(bytes=IMAGE), size, layers):
        with state.path.open("rb") as file:
            read_at = lambda offset, length, file=file: os.pread(file.fileno(), length, offset)  # noqa: E731
            found = state.differences
            writer.add_layer(
                LayerInput(read_at, found.changed, found.zero, source.layers[state.layer].diff_id)
            )
    return writer.finish(source.config)


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
@pytest.mark.parametrize("portion", ["0-", "1-"])
def test_T1_round_trip_of_the_tree(tmp_path, cipher, portion):
    source = source_image(tmp_path / "source")
    layout = OciLayout(tmp_path / "secure")
    built = build(source, layout, tmp_path / "work", cipher, portion, Counted())
    with ImageReader.open(
        layout.blobs, built.manifest.digest, VolumeKey(KEY), ExactImage(built.root)
    ) as reader:
        volume = VolumeReader(reader.read_at)
        for path, content in TREE.items():
            assert volume.read(volume.find(path)) == content
        for gone in ((b"old",), (b"bin", b"sh"), (b".wh.old",)):
            with pytest.raises(FileNotFoundError):
                volume.find(gone)
        assert reader.opened_blocks < reader.stored_blocks
        reader.verify()
    for path in (tmp_path / "secure").rglob("*"):
        assert path.is_dir() or SECRET[:35] not in path.read_bytes()


def test_T13_the_whole_way_twice_gives_the_same_bytes(tmp_path):
    source = source_image(tmp_path / "source")
    built = [
        build(source, OciLayout(tmp_path / name), tmp_path / f"{name}-work", Cipher.GCM, "0-", None)
        for name in ("one", "two")
    ]
    assert built[0] == built[1]
