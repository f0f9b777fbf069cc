"""The whole way: an ordinary image's layers, real volume states, a secure image, and the tree read back out of it."""

import tarfile

import pytest

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.reader import ImageReader

from .archives import archive, member
from .images import KEY, Counted
from .whole_images import build, source_image

SECRET = b"known plaintext of the application\n" * 3000
LAYERS = [
    [("etc", None), ("etc/motd", b"welcome\n"), ("bin", None), ("bin/sh", b"#!" * 9000), ("old", b"gone")],
    [("srv", None), ("srv/pay", SECRET), (".wh.old", b"")],
    [(".wh.bin", b""), ("etc/motd", b"changed\n")],
]
TREE = {(b"etc", b"motd"): b"changed\n", (b"srv", b"pay"): SECRET}


def layer_tar(members):
    return archive(
        *[
            member(name, flag=tarfile.DIRTYPE, mode=0o755) if content is None else member(name, content)
            for name, content in members
        ]
    )


TARS = [layer_tar(members) for members in LAYERS]


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
@pytest.mark.parametrize("portion", ["0-", "1-"])
def test_T1_round_trip_of_the_tree(tmp_path, cipher, portion):
    source = source_image(tmp_path / "source", TARS)
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
    source = source_image(tmp_path / "source", TARS)
    built = [
        build(source, OciLayout(tmp_path / name), tmp_path / f"{name}-work", Cipher.GCM, "0-", None)
        for name in ("one", "two")
    ]
    assert built[0] == built[1]
