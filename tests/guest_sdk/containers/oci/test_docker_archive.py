"""Docker archives beyond what `test_sources` has: several images in one, and members that are counted."""

import io
import json
import tarfile

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.oci.docker_archive import DockerArchive


def written(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def image(name, *tags):
    return {"Config": f"{name}.json", "RepoTags": list(tags) or None, "Layers": [f"{name}.tar"]}


def several(path, *images):
    members = {"manifest.json": json.dumps(images).encode()}
    for one in images:
        members |= {
            one["Config"]: f'{{"of":"{one["Config"]}"}}'.encode(),
            one["Layers"][0]: one["Config"].encode(),
        }
    return written(path, members)


def test_of_several_images_one_is_named(tmp_path):
    path = several(
        tmp_path / "a.tar", image("one", "pay:v1", "pay:latest"), image("two", "pay:v2"), image("three")
    )
    with DockerArchive(path) as archive:
        for tag, name in {"pay:v1": "one", "pay:latest": "one", "pay:v2": "two"}.items():
            config, layers = archive.image(tag)
            assert json.loads(config) == {"of": f"{name}.json"}
            assert archive.open_layer(*layers).read() == f"{name}.json".encode()
        for tag in (None, "pay", "one"):
            with pytest.raises(ImageRefused, match="name one of `pay:v1`, `pay:latest`, `pay:v2`") as caught:
                archive.image(tag)
            assert caught.value.code is Refusal.MISSING


def test_two_images_of_one_tag_are_none(tmp_path):
    path = several(tmp_path / "a.tar", image("one", "pay:v1"), image("two", "pay:v1"))
    with DockerArchive(path) as archive, pytest.raises(ImageRefused, match="2 such images"):
        archive.image("pay:v1")


def test_a_config_has_a_limit(tmp_path):
    path = several(tmp_path / "a.tar", image("one"))
    with DockerArchive(path, Limits(document=200)) as archive:
        archive.image()
    with pytest.raises(ImageRefused) as caught:
        DockerArchive(path, Limits(document=20))
    assert caught.value.code is Refusal.LIMIT


def test_members_are_counted(tmp_path):
    path = written(tmp_path / "a.tar", {f"{number}": b"" for number in range(10_001)})
    with pytest.raises(ImageRefused, match="more than 10000 members") as caught:
        DockerArchive(path)
    assert caught.value.code is Refusal.LIMIT


def test_names_that_lead_out_lead_nowhere(tmp_path):
    (tmp_path / "secret.tar").write_bytes(b"mine")
    for name in ("../secret.tar", str(tmp_path / "secret.tar"), "a/../../secret.tar"):
        one = {**image("one"), "Layers": [name]}
        path = written(tmp_path / "a.tar", {"manifest.json": json.dumps([one]).encode(), "one.json": b"{}"})
        with DockerArchive(path) as archive:
            _, layers = archive.image()
            with pytest.raises(ImageRefused) as caught:
                archive.open_layer(*layers)
            assert caught.value.code is Refusal.MISSING
