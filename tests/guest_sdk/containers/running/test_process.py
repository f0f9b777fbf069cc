"""What a container runs: every rule of the config, with users of the image's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ContainerError, Unservable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.running.process import DEFAULT_PATH, Process, process_of
from keyvisor_guest.containers.tar_layers import Entry, Kind

from ..archives import a_file, an_entry, reader

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# pay:x:1:1::/:
pay:x:1000:2000:the application:/srv/home:/bin/sh
7:x:70:71::/seven:/bin/sh
broken:x:many:1::/:
short:x:5
\xff\xfe:x:90:90::/\xff:/bin/sh
"""
GROUP = b"root:x:0:\npayers:x:2000:pay\nstaff:x:50:pay\n"


def volume(path: Path, *entries: Entry) -> VolumeReader:
    made = Volume.create(path, UUID(int=5), 1024, 256)
    made.apply(0, list(entries))
    return reader(path)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> VolumeReader:
    """/etc/passwd is reached through a symlink, as in some images."""
    return volume(
        tmp_path_factory.mktemp("v") / "volume",
        a_file("usr/etc/passwd", PASSWD),
        a_file("usr/etc/group", GROUP),
        an_entry("etc", Kind.SYMLINK, link=b"usr/etc"),
    )


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> VolumeReader:
    return volume(tmp_path_factory.mktemp("v") / "volume")


def of(image: VolumeReader, *arguments: str, **said: Any) -> Process:
    return process_of(json.dumps({"config": {"Cmd": ["/bin/true"], **said}}).encode(), image, arguments)


@pytest.mark.parametrize(
    ("said", "arguments", "expected"),
    [
        ({"Cmd": ["/bin/a", "b"]}, (), ("/bin/a", "b")),
        ({"Entrypoint": ["/bin/e", "x"], "Cmd": ["y"]}, (), ("/bin/e", "x", "y")),
        ({"Entrypoint": ["/bin/e", "x"], "Cmd": ["y"]}, ("z", "w"), ("/bin/e", "x", "z", "w")),
        ({"Entrypoint": ["/bin/e"], "Cmd": None}, (), ("/bin/e",)),
        ({"Entrypoint": None, "Cmd": ["/bin/a"]}, ("/bin/b",), ("/bin/b",)),
        ({"Entrypoint": [], "Cmd": []}, ("/bin/b", "--", "-c"), ("/bin/b", "--", "-c")),
    ],
)
def test_entrypoint_and_command(
    image: VolumeReader, said: dict[str, Any], arguments: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert of(image, *arguments, **said).arguments == expected


@pytest.mark.parametrize(
    ("user", "uid", "gid", "home"),
    [
        ("", 0, 0, "/root"),
        ("pay", 1000, 2000, "/srv/home"),
        ("1000", 1000, 2000, "/srv/home"),
        ("pay:staff", 1000, 50, "/srv/home"),
        ("pay:9", 1000, 9, "/srv/home"),
        ("1000:payers", 1000, 2000, "/srv/home"),
        ("4321", 4321, 0, "/"),
        ("4321:payers", 4321, 2000, "/"),
        ("7", 70, 71, "/seven"),  # a name first
        ("70", 70, 71, "/seven"),
        (":staff", 0, 50, "/root"),
        ("2147483647:2147483647", 2**31 - 1, 2**31 - 1, "/"),
    ],
)
def test_users_are_the_images_own(image: VolumeReader, user: str, uid: int, gid: int, home: str) -> None:
    found = of(image, User=user)
    assert (found.uid, found.gid, dict(found.environment)["HOME"]) == (uid, gid, home)


def test_an_image_without_users(empty: VolumeReader) -> None:
    assert of(empty).uid == 0
    assert of(empty, User="12:13").gid == 13
    with pytest.raises(Unservable, match="not in the image's /etc/passwd"):
        of(empty, User="pay")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"Cmd": []}, "name a program"),
        ({"Cmd": [""]}, "name a program"),
        ({"Cmd": "/bin/true"}, "no list of words"),
        ({"Entrypoint": [1]}, "no list of words"),
        ({"Cmd": ["/bin/a\0b"]}, "no program can be given"),
        ({"Cmd": ["\ud800"]}, "no program can be given"),
        ({"Env": ["A=\0"]}, "no program can be given"),
        ({"Env": ["NAME"]}, "no `NAME=VALUE`"),
        ({"Env": ["=x"]}, "no `NAME=VALUE`"),
        ({"User": "nobody-here"}, "not in the image's /etc/passwd"),
        ({"User": "broken"}, "no numbers"),
        ({"User": "short"}, "not in the image's /etc/passwd"),
        ({"User": "# pay"}, "not in the image's /etc/passwd"),
        ({"User": "pay:nobodies"}, "not in the image's /etc/group"),
        ({"User": "pay:"}, "names no group"),
        ({"User": "2147483648"}, "not in the image's /etc/passwd"),
        ({"User": "-1"}, "not in the image's /etc/passwd"),
        ({"User": 0}, "no text"),
        ({"WorkingDir": "/srv/../etc"}, "has `..`"),
        ({"WorkingDir": ["/"]}, "no text"),
    ],
)
def test_what_makes_no_sense_is_refused(image: VolumeReader, said: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unservable, match=reason):
        of(image, **said)


def test_the_environment(image: VolumeReader) -> None:
    assert dict(of(image).environment) == {"PATH": DEFAULT_PATH, "HOME": "/root"}
    said = ["A=1", "B=x=y", "A=2", "PATH=/opt/bin", "HOME=/there", "EMPTY="]
    found = of(image, Env=said).environment
    assert dict(found) == {"A": "2", "B": "x=y", "PATH": "/opt/bin", "HOME": "/there", "EMPTY": ""}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("said", "directory"),
    [("", "/"), ("/", "/"), ("/srv/", "/srv"), ("srv//app/.", "/srv/app"), (None, "/")],
)
def test_the_working_directory(image: VolumeReader, said: str | None, directory: str) -> None:
    assert of(image, WorkingDir=said).directory == directory


def test_a_users_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(Unservable, match="is no file"):
        of(volume(tmp_path / "one", an_entry("etc/passwd", Kind.DIRECTORY)))
    with pytest.raises(Unservable, match="more than"):
        of(volume(tmp_path / "two", a_file("etc/passwd", b"x" * ((1 << 20) + 1))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("Entrypoint", "Cmd", "Env", "User", "WorkingDir"), JSON)
)


@given(MEMBERS | JSON)
def test_any_config_is_a_process_or_refused(empty: VolumeReader, said: Any) -> None:
    try:
        found = process_of(json.dumps({"config": said}).encode(), empty)
    except ContainerError:
        return
    assert found.arguments
    assert found.directory.startswith("/")
    assert all("\0" not in word and isinstance(word, str) for word in found.arguments)
