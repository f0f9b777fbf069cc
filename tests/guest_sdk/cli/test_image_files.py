"""`keyvisor image verify`, `ls`, `cat`, `extract` and `export-thin`: an image looked into, whole or changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import parse_secure_manifest

from ..ordinary_image import layer, member, write_layout

SECRET = b"known plaintext of the application\n" * 400
SPARSE = b"start" + bytes(3 << 20) + b"end"
LAYERS = [
    layer([("etc", None), ("etc/motd", b"welcome\n"), ("bin", None), ("bin/sh", b"#!" * 9000)]),
    layer(
        [
            ("srv", None),
            (member("srv/pay", mode=0o4755, uid=1000, gid=2000, mtime=1_700_000_000), SECRET),
            (member("srv/link", tarfile.SYMTYPE, linkname="../srv/pay"), b""),
            (member("srv/also", tarfile.LNKTYPE, linkname="srv/pay"), b""),
            (member("srv/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
            ("srv/sparse", SPARSE),
            ("srv/\x1b[31mred\n", b""),
        ]
    ),
]


def program() -> Path:
    return Path(sys.executable).with_name("keyvisor")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image `out` and its key, built once by the command."""
    folder = tmp_path_factory.mktemp("built")
    write_layout(folder / "source", LAYERS)
    command = ["image", "build", "source", "-o", "out:v1", "--key-out", "key", "--encrypt-layers", "1-"]
    subprocess.run([program(), *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def desk(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to do as one likes with."""
    shutil.copytree(built, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


KEY = ("--key", "key")


def test_verify_says_that_all_of_it_is_the_owners(keyvisor: Callable[..., Any], desk: Path) -> None:
    told = json.loads(keyvisor("image", "verify", "out", *KEY, "--json").out)
    assert (told["verified"], told["layers"], told["version"], told["names"]) == (True, 2, 1, 12)
    ended = keyvisor("image", "verify", "out", *KEY)
    assert (ended.code, ended.err) == (0, "")
    assert told["root"] in ended.out


def flip(desk: Path, which: str, number: int = 1) -> None:
    layout = OciLayout(desk / "out")
    digest = layout.find().digest
    manifest = parse_secure_manifest(layout.blobs.path_of(digest).read_bytes())
    path = layout.blobs.path_of(getattr(manifest.layers[number], which).digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("which", "number"), [("data", 0), ("data", 1), ("tags", 1), ("map", 0), ("map", 1)])
def test_verify_finds_a_bit_that_was_turned(
    keyvisor: Callable[..., Any], desk: Path, which: str, number: int
) -> None:
    flip(desk, which, number)
    ended = keyvisor("image", "verify", "out", *KEY)
    assert ended.code == 1
    assert ended.out == ""
    assert "pull the image again" in ended.err


def test_ls_shows_the_tree(keyvisor: Callable[..., Any], desk: Path) -> None:
    ended = keyvisor("image", "ls", "out", "/srv", *KEY)
    assert ended.code == 0
    rows = {line.split()[-1]: line.split() for line in ended.out.splitlines()[1:] if "->" not in line}
    assert rows["/srv/pay"][:4] == ["-rwsr-xr-x", "2", "1000:2000", str(len(SECRET))]
    assert rows["/srv/pay"][4:6] == ["2023-11-14", "22:13:20Z"]
    assert rows["/srv/null"][:5] == ["crw-r--r--", "1", "0:0", "1,", "3"]
    assert "/srv/link -> ../srv/pay" in ended.out
    assert "\x1b" not in ended.out
    assert r"/srv/\x1b[31mred\n" in ended.out


def test_ls_as_json(keyvisor: Callable[..., Any], desk: Path) -> None:
    found = json.loads(keyvisor("image", "ls", "out", "-R", *KEY, "--json").out)["entries"]
    by_path = {one["path"]: one for one in found}
    assert len(by_path) == len(found) == 11
    assert by_path["/srv/pay"]["inode"] == by_path["/srv/also"]["inode"]
    assert by_path["/srv/pay"]["mtime_ns"] == 1_700_000_000 * 10**9
    assert by_path["/srv/link"]["target"] == "../srv/pay"
    assert by_path["/srv/null"] | {"inode": 0} == {
        "path": "/srv/null",
        "kind": "character device",
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": 0,
        "mtime_ns": 0,
        "links": 1,
        "inode": 0,
        "device": [1, 3],
    }
    assert [
        one["path"]
        for one in json.loads(keyvisor("image", "ls", "out", "/etc/motd", *KEY, "--json").out)["entries"]
    ] == ["/etc/motd"]


def test_cat_gives_the_bytes(desk: Path) -> None:
    for path, content in (
        ("/etc/motd", b"welcome\n"),
        ("srv/link", SECRET),
        ("/../srv/./sparse", SPARSE),
    ):
        command = ["image", "cat", "out", path, *KEY]
        ended = subprocess.run([program(), *command], cwd=desk, capture_output=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout == content


def test_a_block_that_was_changed_is_never_given_out(desk: Path) -> None:
    flip(desk, "data", 0)
    for path in ("/bin/sh", "/etc/motd"):
        ended = subprocess.run(
            [program(), "image", "cat", "out", path, *KEY], cwd=desk, capture_output=True, check=False
        )
        if ended.returncode:
            assert b"is not as it was built" in ended.stderr
            assert (b"#!" * 9000).startswith(ended.stdout)
        else:
            assert ended.stdout in (b"#!" * 9000, b"welcome\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cat", "out", "/none"), "there is no `/none`"),
        (("cat", "out", "/etc/motd/x"), "there is no `/etc/motd/x`"),
        (("cat", "out", "/etc"), "is a directory"),
        (("cat", "out", "/srv/null"), "is a character device"),
        (("ls", "out", "/none"), "there is no `/none`"),
        (("extract", "out", "new", "--path", "/none"), "there is no `/none`"),
        (("extract", "out", "new", "--path", "/etc/motd"), "no directory"),
        (("extract", "out", "full"), "not empty"),
        (("extract", "out", "link"), "link"),
        (("ls", "out:v9"), "v9"),
        (("ls", "source"), "ordinary image"),
    ],
)
def test_what_is_not_there_is_told(
    keyvisor: Callable[..., Any], desk: Path, arguments: tuple[str, ...], said: str
) -> None:
    (desk / "full").mkdir()
    (desk / "full/x").touch()
    (desk / "elsewhere").mkdir()
    (desk / "link").symlink_to("elsewhere")
    ended = keyvisor("image", *arguments, *KEY)
    assert ended.code == 1
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (desk / "new").exists()
    assert os.listdir(desk / "elsewhere") == []


def test_extract_lays_the_files_out_without_what_gives_power(
    keyvisor: Callable[..., Any], desk: Path
) -> None:
    told = json.loads(keyvisor("image", "extract", "out", "new", *KEY, "--json").out)
    assert (told["devices_left"], told["set_ids_left"]) == (1, 1)
    assert (desk / "new/srv/pay").read_bytes() == SECRET
    assert stat.S_IMODE((desk / "new/srv/pay").stat().st_mode) == 0o755
    assert (desk / "new/srv/also").stat().st_ino == (desk / "new/srv/pay").stat().st_ino
    assert not (desk / "new/srv/null").exists()
    assert (desk / "new/srv/sparse").stat().st_blocks * 512 < 1 << 20
    part = keyvisor("image", "extract", "out", "part", "--path", "/etc", *KEY)
    assert (part.code, os.listdir(desk / "part")) == (0, ["motd"])


def test_extract_of_a_changed_image_leaves_no_changed_file(keyvisor: Callable[..., Any], desk: Path) -> None:
    for number in (0, 1):
        flip(desk, "data", number)
    assert keyvisor("image", "extract", "out", "new", *KEY).code == 1
    known = {b"welcome\n", b"#!" * 9000, SECRET, SPARSE, b""}
    assert all(one.read_bytes() in known for one in (desk / "new").rglob("*") if one.is_file())


def test_a_key_from_standard_input(desk: Path) -> None:
    command = [program(), "image", "cat", "out", "/etc/motd", "--key-stdin"]
    ended = subprocess.run(
        command, cwd=desk, input=(desk / "key").read_bytes(), capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, b"welcome\n")
    empty = subprocess.run(command, cwd=desk, input=b"", capture_output=True, check=False)
    assert empty.returncode == 1
    assert b"carries no volume key" in empty.stderr


def test_without_a_key_nothing_is_opened(keyvisor: Callable[..., Any], desk: Path) -> None:
    for verb in (("verify", "out"), ("ls", "out"), ("cat", "out", "/etc/motd"), ("extract", "out", "new")):
        ended = keyvisor("image", *verb)
        assert ended.code == 2
        assert "with which key?" in ended.err
    both = keyvisor("image", "ls", "out", *KEY, "--key-stdin")
    assert (both.code, "exclude each other" in both.err) == (2, True)
    assert keyvisor("image", "ls", "out", *KEY, "--root", "x").code == 2
    wrong = keyvisor("image", "ls", "out", *KEY, "--root", 64 * "0")
    assert (wrong.code, "something else" in wrong.err) == (1, True)


def test_export_thin_needs_no_key_and_believes_one(keyvisor: Callable[..., Any], desk: Path) -> None:
    plain = keyvisor("image", "export-thin", "out")
    assert plain.code == 0
    assert plain.out.startswith("<superblock")
    assert plain.out.count("<device ") == 2
    assert keyvisor("image", "export-thin", "out", *KEY).out == plain.out
    assert keyvisor("image", "export-thin", "out", "-o", "rows.xml").code == 0
    assert (desk / "rows.xml").read_text() == plain.out
    again = keyvisor("image", "export-thin", "out", "-o", "rows.xml")
    assert (again.code, "file exists" in again.err) == (1, True)
    assert keyvisor("image", "export-thin", "out", "-o", "rows.xml", "--force").code == 0
    flip(desk, "map", 0)
    assert keyvisor("image", "export-thin", "out", *KEY).code == 1


LISTED = """\
mode        links  owner      size     changed               path
-rw-r--r--  1      0:0        0        1970-01-01 00:00:00Z  /srv/\\x1b[31mred\\n
-rwsr-xr-x  2      1000:2000  14000    2023-11-14 22:13:20Z  /srv/also
lrwxrwxrwx  1      0:0        10       1970-01-01 00:00:00Z  /srv/link -> ../srv/pay
crw-r--r--  1      0:0        1, 3     1970-01-01 00:00:00Z  /srv/null
-rwsr-xr-x  2      1000:2000  14000    2023-11-14 22:13:20Z  /srv/pay
-rw-r--r--  1      0:0        3145736  1970-01-01 00:00:00Z  /srv/sparse
"""
INSPECTED = """\
digest      sha256:HEX64
id          HEX32
version     1
root        HEX64
volume      64M, NUMBERK stored
platform    linux/amd64
recipients  none
entrypoint  /bin/pay
cmd         --all
env         A=1
user        pay
workingdir  /srv
verified    no: no key was named

layer  cipher       blocks  zero  runs  source
0      none+hmac    NUMBER  0     NUMBER  sha256:HEX64
1      aes-256-gcm  NUMBER  0     NUMBER  hmac-sha256:HEX64
"""


def masked(text: str) -> str:
    """Without what another release of e2fsprogs, or another key, has otherwise."""
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    text = re.sub(r"\b[0-9a-f]{64}\b", "HEX64", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "HEX32", text)
    text = re.sub(r"\d+K stored", "NUMBERK stored", text)
    return re.sub(r"^(\d +\S+ +)\d+ +(\d+ +)\d+ +(\S+)$", r"\1NUMBER  \2NUMBER  \3", text, flags=re.MULTILINE)


def test_what_people_see_is_as_it_was(keyvisor: Callable[..., Any], desk: Path) -> None:
    assert masked(keyvisor("image", "ls", "out", "/srv", *KEY).out) == LISTED
    assert masked(keyvisor("image", "inspect", "out").out) == INSPECTED
