"""Secure containers by the real command: built, moved by skopeo through a registry, looked into on the other side.

The registry is Debian's docker-registry on loopback. No firmware is needed: keys are in files here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docker_registry import a_registry

from ..guest_sdk.ordinary_image import layer, member, write_docker_archive, write_layout
from .secrecy import nowhere

PROGRAMS = Path(sys.executable).parent
SECRET = b"known plaintext of the application: account numbers and more\n" * 300
LOWER = [
    ("bin", None),
    ("bin/sh", b"#!" * 9000),
    ("etc", None),
    ("etc/motd", b"welcome\n"),
    ("etc/old", b"gone"),
]
UPPER = [
    ("srv", None),
    (member("srv/pay", mode=0o755, uid=1000, gid=2000, mtime=1_700_000_000), SECRET),
    (member("srv/link", tarfile.SYMTYPE, linkname="pay"), b""),
    ("etc/.wh.old", b""),
]
TREE = ["/bin", "/bin/sh", "/etc", "/etc/motd", "/srv", "/srv/link", "/srv/pay"]
PASSWORD = "geheim-in-der-registry"
HASH = "$2b$04$abcdefghijklmnopqrstuuOjbTypJ31Gmtd2rV2S2hdde0LkY3xQ."  # bcrypt of it, as htpasswd makes one


class Desk:
    """A directory, and programs run in it. `told` is all that they ever said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KEYVISOR_")},
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }

    def run(self, *command: object, code: int = 0, fed: bytes = b"") -> str:
        ended = subprocess.run(
            [str(one) for one in command],
            cwd=self.folder,
            env=self.environment,
            input=fed,
            capture_output=True,
            check=False,
        )
        told = (ended.stdout + ended.stderr).decode("utf-8", "replace")
        self.told.append(told)
        assert ended.returncode == code, told
        assert "Traceback" not in told
        return ended.stdout.decode("utf-8", "surrogateescape")

    def image(self, *arguments: object, code: int = 0) -> str:
        return self.run("keyvisor", "image", *arguments, code=code)

    def json(self, *arguments: object) -> dict:  # type: ignore[type-arg]
        return json.loads(self.image(*arguments, "--json"))  # type: ignore[no-any-return]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    write_layout(folder / "source", [layer(LOWER), layer(UPPER)], "v1")
    return Desk(folder)


def needed(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"`{name}` is not installed: it comes with Debian's `{package}`")
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with a_registry(tmp_path, needed("docker-registry", "docker-registry")) as place:
        yield place


def skopeo(desk: Desk, *arguments: object) -> None:
    desk.run(needed("skopeo", "skopeo"), "copy", "--insecure-policy", *arguments)


def test_built_moved_by_skopeo_and_read_on_the_other_side(desk: Desk, registry: str, tmp_path: Path) -> None:
    built = desk.json("build", "oci:source:v1", "-o", "oci:image:v1", "--key-out", "key", "--version", 4)
    place = f"docker://{registry}/pay/app:v1"
    skopeo(desk, "--dest-tls-verify=false", "oci:image:v1", place)
    skopeo(desk, "--src-tls-verify=false", place, "oci:back:v1")
    pulled = desk.json("pull", place, "pulled", "--insecure-http")
    assert pulled == {"image": "oci:pulled:v1", "digest": built["digest"]}
    for image in ("image", "back:v1", "pulled"):
        seen = desk.json("inspect", image, "--key", "key")
        assert (seen["digest"], seen["root"], seen["version"]) == (built["digest"], built["root"], 4)
        assert desk.json("verify", image, "--key", "key")["verified"]
    listed = desk.json("ls", "pulled", "-R", "--key", "key")["entries"]
    assert sorted(one["path"] for one in listed) == TREE
    assert desk.image("cat", "back", "/srv/link", "--key", "key").encode() == SECRET
    desk.image("extract", "pulled", "files", "--key", "key")
    assert (desk.folder / "files/srv/pay").read_bytes() == SECRET
    key = bytes.fromhex(json.loads((desk.folder / "key").read_bytes())["volumeKey"])
    said = [text for text in desk.told if SECRET.decode() not in text]
    nowhere([key], [desk.folder / one for one in ("image", "back", "pulled", "files")], *desk.told)
    nowhere([SECRET, key], [tmp_path / "registry", desk.folder / "image", desk.folder / "pulled"], *said)


def test_pushed_by_us_and_pulled_by_skopeo(desk: Desk, registry: str) -> None:
    built = desk.json("build", "source", "-o", "image", "--key-out", "key", "--cipher", "xts")
    place = f"docker://{registry}/pay/app:v2"
    assert desk.json("push", "image", place, "--insecure-http") == {
        "image": place,
        "digest": built["digest"],
    }
    skopeo(desk, "--src-tls-verify=false", place, "oci:theirs:v2")
    assert desk.json("inspect", "theirs")["digest"] == built["digest"]
    desk.image("verify", "theirs", "--key", "key")
    by_digest = f"docker://{registry}/pay/app@{built['digest']}"
    assert desk.json("pull", by_digest, "again:x", "--insecure-http")["digest"] == built["digest"]
    desk.image("pull", f"docker://{registry}/pay/none:v1", "again:y", "--insecure-http", code=1)
    assert "was refused: it is not there" in desk.told[-1]
    desk.image("push", "image", place, code=1)
    assert "does not answer" in desk.told[-1]


def test_the_sources_of_a_build_give_the_same_image(desk: Desk, registry: str) -> None:
    """A layout, what skopeo makes of it as a docker archive, and the same out of a registry: one tree, one root."""
    place = f"docker://{registry}/pay/source:v1"
    skopeo(desk, "--dest-tls-verify=false", "oci:source:v1", place)
    skopeo(desk, "oci:source:v1", "docker-archive:saved.tar:pay/source:v1")
    write_docker_archive(desk.folder / "ours.tar", [layer(LOWER), layer(UPPER)])
    (desk.folder / "key").write_bytes(bytes(range(32)))
    options = ("--key", "key", "--name", "pay", "--reproducible", "--architecture", "amd64")
    sources = ("oci:source:v1", place, "docker-archive:saved.tar", "docker-archive:ours.tar")
    maps = []
    for number, source in enumerate(sources):
        desk.image(
            "build", source, "-o", f"out{number}", *options, *(["--insecure-http"] if source is place else [])
        )
        maps.append([one["map"] for one in desk.json("inspect", f"out{number}")["layers"]])
    assert maps.count(maps[0]) == len(sources)


def test_a_registry_that_wants_a_login(desk: Desk, tmp_path: Path) -> None:
    """The file is skopeo's own; the password is in nothing that we say."""
    (tmp_path / "htpasswd").write_text(f"owner:{HASH}\n")
    auth = f"auth: {{htpasswd: {{realm: a, path: {tmp_path}/htpasswd}}}}\n"
    built = desk.json("build", "source", "-o", "image", "--key-out", "key")
    with a_registry(tmp_path, needed("docker-registry", "docker-registry"), auth) as host:
        place = f"docker://{host}/pay/app:v1"
        desk.image("push", "image", place, "--insecure-http", code=1)
        assert "wants a login" in desk.told[-1]
        login = (
            "login",
            "--tls-verify=false",
            "--authfile",
            "auth.json",
            "-u",
            "owner",
            "--password-stdin",
            host,
        )
        desk.run(needed("skopeo", "skopeo"), *login, fed=PASSWORD.encode())
        options = ("--insecure-http", "--authfile", "auth.json")
        assert desk.json("push", "image", place, *options)["digest"] == built["digest"]
        assert desk.json("pull", place, "back", *options)["digest"] == built["digest"]
        wrong = {"auths": {host: {"auth": base64.b64encode(b"owner:falsch").decode()}, "other": {"auth": ""}}}
        (desk.folder / "wrong.json").write_text(json.dumps(wrong))
        for file in ("wrong.json", "key"):
            desk.image("pull", place, "none", "--insecure-http", "--authfile", file, code=1)
    nowhere([PASSWORD.encode()], [desk.folder / "image"], *desk.told)


def test_two_reproducible_builds_are_the_same_to_the_byte(desk: Desk) -> None:
    options = ("--name", "pay", "--reproducible")
    desk.image("build", "source", "-o", "one", "--key-out", "key", *options)
    desk.image("build", "source", "-o", "two", "--key", "key", *options)
    digests = [
        {
            one.relative_to(root): hashlib.sha256(one.read_bytes()).hexdigest()
            for one in root.rglob("*")
            if one.is_file()
        }
        for root in (desk.folder / "one", desk.folder / "two")
    ]
    assert digests[0] == digests[1]


def test_ocicrypt_with_skopeo_both_ways(desk: Desk) -> None:
    for command in (("genrsa", "-out", "p.pem", "3072"), ("rsa", "-in", "p.pem", "-pubout", "-out", "p.pub")):
        desk.run("openssl", *command)
    desk.image("ocicrypt", "encrypt", "source", "-o", "sealed:v1", "--recipient", "jwe:p.pub")
    skopeo(desk, "--decryption-key", "p.pem", "oci:sealed:v1", "oci:opened:v1")
    skopeo(desk, "--encryption-key", "jwe:p.pub", "oci:source:v1", "oci:theirs:v1")
    desk.image("ocicrypt", "decrypt", "theirs", "-o", "ours:v1", "--private-key", "p.pem")
    blobs = [
        {one.name for one in (desk.folder / name / "blobs/sha256").iterdir()}
        for name in ("source", "opened", "ours")
    ]
    # The manifest is spelled by whoever writes it; layers and config are the same bytes.
    assert len(blobs[0] & blobs[1]) >= 3
    assert len(blobs[0] & blobs[2]) >= 3
    nowhere([SECRET], [desk.folder / "sealed", desk.folder / "theirs"])


def test_a_recipients_image_is_opened_with_the_private_key(desk: Desk) -> None:
    for command in (("genrsa", "-out", "p.pem", "3072"), ("rsa", "-in", "p.pem", "-pubout", "-out", "p.pub")):
        desk.run("openssl", *command)
    built = desk.json("build", "source", "-o", "image", "--recipient", "jwe:p.pub")
    key = ("--private-key", "p.pem", "--root", built["root"])
    assert desk.json("verify", "image", *key)["root"] == built["root"]


def test_no_process_of_a_build_has_the_key_in_its_arguments_or_environment(desk: Desk) -> None:
    """Held against every process that a build starts: `mke2fs` and `e2fsck` write down how they were called."""
    spies = desk.folder / "spies"
    spies.mkdir()
    for name in ("mke2fs", "e2fsck"):
        real = needed(name, "e2fsprogs")
        spy = spies / name
        spy.write_text(
            f'#!/bin/sh\n{{ tr "\\0" " " </proc/$$/cmdline; tr "\\0" " " </proc/$$/environ; }} >>{desk.folder}/calls\n'
            f'exec {real} "$@"\n'
        )
        spy.chmod(0o755)
    desk.environment["PATH"] = f"{spies}:{desk.environment['PATH']}"
    desk.image("build", "source", "-o", "image", "--key-out", "key")
    key = bytes.fromhex(json.loads((desk.folder / "key").read_bytes())["volumeKey"])
    assert "mke2fs" in (desk.folder / "calls").read_text()
    nowhere([key], [desk.folder / "calls", desk.folder / "image"], *desk.told)


def test_a_terminal_sees_bars_and_a_pipe_does_not(desk: Desk) -> None:
    quiet = desk.image("build", "source", "-o", "one", "--key-out", "one.key")
    assert "layer 0" not in desk.told[-1]
    assert quiet.startswith("image ")
    theirs, ours = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(theirs, 4096):
                shown.append(data)
        except OSError:
            return  # the other side is closed

    reading = threading.Thread(target=read)
    reading.start()
    ended = subprocess.run(
        ["keyvisor", "image", "build", "source", "-o", "two", "--key-out", "two.key"],
        cwd=desk.folder,
        env={**desk.environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=ours,
        check=False,
    )
    os.close(ours)
    reading.join()
    os.close(theirs)
    assert ended.returncode == 0
    text = b"".join(shown).decode()
    for step in ("measure", "layer 0: volume", "layer 0: seal", "layer 1: seal"):
        assert step in text
    assert "100%" in text
