"""Ordinary images to build from: found in layouts and docker archives, refused where they are not what they say."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.oci.docker_archive import DockerArchive
from keyvisor_guest.containers.oci.documents import INDEX, MANIFEST, Descriptor, Manifest, manifest_bytes
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import CONFIG_TYPE
from keyvisor_guest.containers.oci.sources import from_docker_archive, from_layout

from ..images import make

TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def layer_tar(name):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    return file.getvalue()


TARS = [layer_tar("one"), layer_tar("two")]
DIFF_IDS = ["sha256:" + hashlib.sha256(one).hexdigest() for one in TARS]
CONFIG = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": DIFF_IDS}}


def ordinary(path, config=CONFIG, media_type=TAR_GZIP, count=2):
    layout = OciLayout(path)
    layout.create()
    stored = [layout.blobs.put(gzip.compress(one, mtime=0)) for one in TARS[:count]]
    layers = tuple(Descriptor(media_type, one.digest, one.size) for one in stored)
    described = layout.blobs.put(json.dumps(config).encode())
    data = manifest_bytes(Manifest(Descriptor(CONFIG_TYPE, described.digest, described.size), layers))
    manifest = layout.blobs.put(data)
    image = Descriptor(MANIFEST, manifest.digest, manifest.size)
    layout.tag(image)
    return layout, image


def read_all(source):
    contents = []
    for one in source.layers:
        with one.open() as file:
            data = file.read()
        contents.append(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    return contents


def archive(path, members, **written):
    """A docker archive with these members; a text instead of bytes is a link to there."""
    manifest = [{"Config": "c.json", "RepoTags": ["pay:v3"], "Layers": ["1/layer.tar", "2.tar"], **written}]
    everything = {"c.json": json.dumps(CONFIG).encode(), "manifest.json": json.dumps(manifest).encode()}
    everything |= {"2.tar": TARS[1], "1/layer.tar": TARS[0]} | members
    with tarfile.open(path, "w") as tar:
        for name, content in everything.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_an_image_in_a_layout(tmp_path):
    source = from_layout(*ordinary(tmp_path))
    assert [one.diff_id for one in source.layers] == DIFF_IDS
    assert read_all(source) == TARS
    assert json.loads(source.config) == CONFIG


def test_of_several_platforms_one_is_taken(tmp_path):
    layout, image = ordinary(tmp_path)
    entries = [
        Descriptor(MANIFEST, "sha256:" + "0" * 64, 1, {}, {"os": "linux", "architecture": "s390x"}),
        Descriptor(MANIFEST, image.digest, image.size, {}, {"os": "linux", "architecture": "amd64"}),
    ]
    data = json.dumps({"schemaVersion": 2, "manifests": [one.members() for one in entries]}).encode()
    stored = layout.blobs.put(data)
    index = Descriptor(INDEX, stored.digest, stored.size)
    assert read_all(from_layout(layout, index)) == TARS
    with pytest.raises(ImageRefused, match="`linux/s390x`, `linux/amd64`"):
        from_layout(layout, index, "riscv64")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"media_type": TAR_GZIP + "+encrypted"}, "ocicrypt decrypt"),
        ({"media_type": "application/json"}, "no tar"),
        ({"count": 1}, "same number of layers"),
        ({"config": {}}, "same number of layers"),
        ({"config": {"rootfs": {"diff_ids": []}}, "count": 0}, "no layers"),
        ({"config": {"rootfs": {"diff_ids": ["sha512:00", "x"]}}}, "no digest"),
        ({"config": []}, "not a JSON object"),
    ],
)
def test_what_cannot_be_built_from(tmp_path, changes, reason):
    layout, image = ordinary(tmp_path, **changes)
    with pytest.raises(ImageRefused, match=reason):
        from_layout(layout, image)


def test_a_secure_image_is_no_source(tmp_path):
    made = make(tmp_path)
    with pytest.raises(ImageRefused, match="secure image already"):
        from_layout(made.layout, made.built.manifest)


def test_a_layer_that_was_changed_is_not_handed_out(tmp_path):
    layout, image = ordinary(tmp_path)
    source = from_layout(layout, image)
    for path in (tmp_path / "blobs" / "sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.write_bytes(gzip.compress(layer_tar("evil"), mtime=0))
    with pytest.raises(ImageRefused) as caught:
        source.layers[0].open()
    assert caught.value.code is Refusal.DIGEST


def test_an_image_in_a_docker_archive(tmp_path):
    with DockerArchive(archive(tmp_path / "a.tar", {})) as opened:
        for tag in (None, "pay:v3"):
            source = from_docker_archive(opened, tag)
            assert read_all(source) == TARS
            assert [one.diff_id for one in source.layers] == DIFF_IDS
        with pytest.raises(ImageRefused, match="`pay:v3`"):
            from_docker_archive(opened, "pay:v4")


def test_layers_that_are_links(tmp_path):
    members = {"1/layer.tar": "../other/x.tar", "other/x.tar": TARS[0]}
    with DockerArchive(archive(tmp_path / "a.tar", members)) as opened:
        assert read_all(from_docker_archive(opened)) == TARS
    for target in ("layer.tar", "/etc/passwd", "../../../etc/passwd"):
        with DockerArchive(archive(tmp_path / "b.tar", {"1/layer.tar": target})) as opened:
            source = from_docker_archive(opened)
            with pytest.raises(ImageRefused) as caught:
                source.layers[0].open()
            assert caught.value.code is Refusal.MISSING


@pytest.mark.parametrize(
    ("members", "written"),
    [
        ({"manifest.json": b"{}"}, {}),
        ({"manifest.json": b"[1]"}, {}),
        ({"manifest.json": b"\xff"}, {}),
        ({"c.json": b"[]"}, {}),
        ({}, {"Config": 7}),
        ({}, {"Config": "gone.json"}),
        ({}, {"Layers": "2.tar"}),
        ({}, {"Layers": ["2.tar"]}),
        ({}, {"Layers": ["2.tar"] * 200}),
    ],
)
def test_archives_that_are_not_what_they_say(tmp_path, members, written):
    path = archive(tmp_path / "a.tar", members, **written)

    def take():
        with DockerArchive(path) as opened:
            from_docker_archive(opened)

    with pytest.raises(ImageRefused):
        take()


def test_no_archive_at_all(tmp_path):
    for data in (b"", b"x" * 5000, gzip.compress(archive(tmp_path / "a.tar", {}).read_bytes())):
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(ImageRefused):
            DockerArchive(tmp_path / "b.tar")


def test_a_header_that_says_it_is_endless_is_not_read(tmp_path):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 33
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 34)
    with pytest.raises(ImageRefused) as caught:
        DockerArchive(path)
    assert caught.value.code is Refusal.LIMIT


def test_what_skopeo_makes_of_an_image(tmp_path, program):
    ordinary(tmp_path / "image")
    command = [program("skopeo", "skopeo"), "copy", "--insecure-policy", f"oci:{tmp_path}/image:latest"]
    command += [f"docker-archive:{tmp_path}/a.tar:pay:v3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with DockerArchive(tmp_path / "a.tar") as opened:
        assert read_all(from_docker_archive(opened)) == TARS
