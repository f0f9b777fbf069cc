"""`keyvisor image build` and `inspect`, as an image's owner runs them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.containers.building import image_id_of_name
from keyvisor_guest.containers.chain import ExactImage, MinimumVersion
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.release import parse_release

from ..ordinary_image import layer, member, write_docker_archive, write_layout

SECRET = b"known plaintext of the application\n" * 400
LAYERS = [
    layer([("etc", None), ("etc/motd", b"welcome\n"), ("bin", None), ("bin/sh", b"#!" * 9000)]),
    layer([("srv", None), ("srv/pay", SECRET), (member("srv/link", tarfile.SYMTYPE, linkname="pay"), b"")]),
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The owner's directory, with a source."""
    folder = tmp_path / "desk"
    folder.mkdir()
    write_layout(folder / "source", LAYERS, "v1")
    monkeypatch.chdir(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def opened(image: str, key: Path) -> ImageReader:
    path, _, tag = image.partition(":")
    release = parse_release(key.read_bytes())
    layout = OciLayout(Path(path))
    return ImageReader.open(layout.blobs, layout.find(tag or None).digest, release.key, release.demand)


def everything(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.rglob("*") if one.is_file())


def test_an_image_is_built_and_its_key_opens_it(keyvisor: Callable[..., Any], desk: Path) -> None:
    ended = keyvisor("image", "build", "oci:source:v1", "-o", "oci:out:v1", "--key-out", "key", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    release = parse_release((desk / "key").read_bytes())
    assert release.demand == ExactImage(bytes.fromhex(told["root"]))
    assert stat.S_IMODE((desk / "key").stat().st_mode) == 0o600
    with opened("out:v1", desk / "key") as reader:
        volume = VolumeReader(reader.read_at)
        assert volume.read(volume.find((b"srv", b"link"))) == SECRET
    assert names(desk) == {"source", "out", "key"}
    hidden = release.key.reveal()
    for secret in (SECRET[:35], hidden, hidden.hex().encode()):
        assert secret not in everything(desk / "out")
    assert hidden.hex() not in ended.out


def test_inspect_tells_what_is_claimed_and_with_a_key_what_is_true(
    keyvisor: Callable[..., Any], desk: Path
) -> None:
    build = ("image", "build", "source", "-o", "out", "--key-out", "key", "--encrypt-layers", "1-")
    told = json.loads(keyvisor(*build, "--version", "7", "--name", "pay", "--json").out)
    assert told["image"] == "oci:out:latest"
    seen = json.loads(keyvisor("image", "inspect", "out", "--json").out)
    assert seen["verified"] is False
    assert (seen["root"], seen["digest"], seen["version"]) == (told["root"], told["digest"], 7)
    assert [one["encrypted"] for one in seen["layers"]] == [False, True]
    assert seen["process"]["Entrypoint"] == ["/bin/pay"]
    assert seen["id"] == image_id_of_name("pay").hex()
    known = json.loads(keyvisor("image", "inspect", "out", "--key", "key", "--json").out)
    assert known == seen | {"verified": True}
    for options in ((), ("--key", "key")):
        ended = keyvisor("image", "inspect", "out", *options)
        assert ended.code == 0
        assert told["root"] in ended.out
        assert ("no key was named" in ended.out) == (not options)


def test_a_docker_archive_gives_the_same_tree_as_a_layout(keyvisor: Callable[..., Any], desk: Path) -> None:
    write_docker_archive(desk / "saved.tar", LAYERS)
    options = ("--name", "pay", "--reproducible", "--encrypt-layers", "0")
    keyvisor("image", "build", "source", "-o", "one", "--key-out", "key", *options)
    ended = keyvisor(
        "image", "build", "docker-archive:saved.tar", "-o", "two", "--key", "key", *options, "--json"
    )
    assert ended.code == 0
    data = [json.loads(keyvisor("image", "inspect", one, "--json").out) for one in ("one", "two")]
    assert data[0]["layers"] == data[1]["layers"]


def test_reproducible_builds_are_the_same_bytes_and_others_are_not(
    keyvisor: Callable[..., Any], desk: Path
) -> None:
    build = ("image", "build", "source", "--name", "pay", "-o")
    keyvisor(*build, "one", "--reproducible", "--key-out", "key")
    keyvisor(*build, "two", "--reproducible", "--key", "key")
    keyvisor(*build, "three", "--key", "key")
    digests = [OciLayout(Path(name)).find().digest for name in ("one", "two", "three")]
    assert digests[0] == digests[1] != digests[2]
    assert everything(desk / "one") == everything(desk / "two")


def test_a_release_for_a_least_version_opens_later_images_and_no_older_one(
    keyvisor: Callable[..., Any], desk: Path
) -> None:
    build = ("image", "build", "source", "--name", "pay", "--release", "min-version")
    keyvisor(*build, "-o", "out:new", "--version", "2", "--key-out", "key")
    assert parse_release((desk / "key").read_bytes()).demand == MinimumVersion(2, image_id_of_name("pay"))
    for tag, version in (("old", "1"), ("newer", "3")):
        assert keyvisor(*build, "-o", f"out:{tag}", "--version", version, "--key", "key").code == 0
    assert keyvisor("image", "inspect", "out:newer", "--key", "key").code == 0
    refused = keyvisor("image", "inspect", "out:old", "--key", "key")
    assert refused.code == 1
    assert "version 1" in refused.err
    assert "pull a later one" in refused.err


@pytest.fixture
def recipient(desk: Path) -> tuple[Path, Path]:
    private, public = desk / "private.pem", desk / "public.pem"
    subprocess.run(["openssl", "genrsa", "-out", private, "3072"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "rsa", "-in", private, "-pubout", "-out", public], check=True, capture_output=True
    )
    return private, public


def test_a_recipient_opens_the_image_with_the_private_key_and_the_root(
    keyvisor: Callable[..., Any], desk: Path, recipient: tuple[Path, Path]
) -> None:
    ended = keyvisor("image", "build", "source", "-o", "out", "--recipient", "jwe:public.pem", "--json")
    told = json.loads(ended.out)
    assert told["recipients"] == ["jwe"]
    look = ("image", "inspect", "out", "--private-key", "private.pem")
    assert keyvisor(*look, "--root", told["root"]).code == 0
    without = keyvisor(*look)
    assert without.code == 1
    assert "--root" in without.err
    other = keyvisor(*look, "--root", 64 * "0")
    assert other.code == 1
    assert "another image" in other.err
    subprocess.run(["openssl", "genrsa", "-out", "strange.pem", "3072"], check=True, capture_output=True)
    strange = keyvisor("image", "inspect", "out", "--private-key", "strange.pem", "--root", told["root"])
    assert strange.code == 1
    assert "wrapped for others" in strange.err


def test_a_bare_key_needs_a_root(keyvisor: Callable[..., Any], desk: Path) -> None:
    (desk / "bare").write_bytes(bytes(range(32)))
    told = json.loads(keyvisor("image", "build", "source", "-o", "out", "--key", "bare", "--json").out)
    assert "--root" in keyvisor("image", "inspect", "out", "--key", "bare").err
    assert keyvisor("image", "inspect", "out", "--key", "bare", "--root", told["root"]).code == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("source", "-o", "out"), 2, "--key-out"),
        (("source", "-o", "out", "--key-out", "key", "--reproducible"), 2, "--name"),
        (("source", "-o", "out", "--key-out", "key", "--release", "min-version"), 2, "--name"),
        (("source", "-o", "out", "--key-out", "there"), 1, "never written over"),
        (("source", "-o", "out", "--key-out", "none/key"), 1, "no such directory"),
        (("source", "-o", "source", "--key-out", "source/key"), 2, "goes to others"),
        (("source", "-o", "docker://localhost:1/x", "--key-out", "key"), 1, "no OCI layout"),
        (("dir:source", "-o", "out", "--key-out", "key"), 1, "skopeo copy"),
        (("source", "-o", "source-full", "--key-out", "key"), 1, "something else than an OCI layout"),
        (("nothing", "-o", "out", "--key-out", "key"), 1, "no OCI layout"),
        (("source:v9", "-o", "out", "--key-out", "key"), 1, "v9"),
        (("source", "-o", "out", "--key-out", "key", "--encrypt-layers", "2"), 1, "layers 0 to 1"),
        (("source", "-o", "out", "--key-out", "key", "--encrypt-layers", "x"), 1, "no range of layers"),
        (("source", "-o", "out", "--key", "there"), 1, "carries no volume key"),
        (("source", "-o", "out", "--recipient", "pgp:x"), 2, "jwe:FILE"),
        (("source", "-o", "out", "--recipient", "jwe:there"), 1, "no public key"),
        (
            ("source", "-o", "out", "--key-out", "key", "--size", "1000T", "--cipher", "xts"),
            1,
            "ask for less",
        ),
    ],
)
def test_what_cannot_be_built_is_told_with_the_way_out_and_leaves_nothing(
    keyvisor: Callable[..., Any], desk: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    (desk / "there").write_bytes(b"something of the owner's")
    (desk / "source-full").mkdir()
    (desk / "source-full/file").write_text("x")
    ended = keyvisor("image", "build", *options)
    assert ended.code == code
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (desk / "key").exists()
    assert (desk / "there").read_bytes() == b"something of the owner's"
    if (desk / "out").exists():
        assert OciLayout(desk / "out").images() == ()


def test_a_source_that_is_not_what_its_config_says_is_not_built(
    keyvisor: Callable[..., Any], desk: Path
) -> None:
    write_layout(desk / "source", LAYERS, "bad", diff_ids=["sha256:" + 64 * "0"] * 2)
    ended = keyvisor("image", "build", "source:bad", "-o", "out", "--key-out", "key")
    assert ended.code == 1
    assert "not the one that its config names" in ended.err
    assert not (desk / "key").exists()


def test_a_build_that_is_asked_to_end_takes_the_volume_away(desk: Path) -> None:
    """`mke2fs` stands still, so that the moment is a known one: the work directory is there, and nothing is sealed."""
    (desk / "work").mkdir()
    (desk / "programs").mkdir()
    (desk / "programs/mke2fs").write_text(
        f"#!/bin/sh\ntouch {desk}/work/*/states/in-clear\ncat {desk}/pipe\n"
    )
    (desk / "programs/mke2fs").chmod(0o755)
    os.mkfifo(desk / "pipe")
    program = Path(sys.executable).with_name("keyvisor")
    build = [program, "image", "build", "source", "-o", "out", "--key-out", "key", "--work", "work"]
    path = f"{desk}/programs:{os.environ['PATH']}"
    with (
        subprocess.Popen(build, env={**os.environ, "PATH": path}, stderr=subprocess.PIPE) as process,
        (desk / "pipe").open("wb"),  # opens when `mke2fs` reads
    ):
        assert os.listdir(desk / "work")
        process.terminate()
        process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(desk / "work") == []
    assert not (desk / "key").exists()


def test_a_build_leaves_nothing_in_clear(keyvisor: Callable[..., Any], desk: Path) -> None:
    (desk / "work").mkdir()
    assert keyvisor("image", "build", "source", "-o", "out", "--key-out", "key", "--work", "work").code == 0
    assert os.listdir(desk / "work") == []
