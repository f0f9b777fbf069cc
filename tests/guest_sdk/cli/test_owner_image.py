"""`keyvisor owner image`, as an owner runs it: components in, an image out, and what everybody can read of it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.wire.p521 import public_key_hash
from keyvisor_guest.wire.se_header import Pcf, Scf, open_header
from keyvisor_guest.wire.se_image_layout import find_header

from .test_owner_verbs import HOST_KEY, certificate, names

POLICY = "version: 1\nassociations:\n  - {name: a, secret: b, hsm: {mode: ep11}}\n"
COMMON = ("-k", "host.crt", "--no-verify", "-o", "made.img")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The owner's folder, with what they build from."""
    folder = tmp_path / "desk"
    (folder / "root/etc").mkdir(parents=True)
    (folder / "root/etc/hostname").write_text("payments\n")
    for name, content in (
        ("host.crt", certificate()),
        ("kernel", b"a kernel"),
        ("ramdisk", b"a ramdisk"),
        ("parmfile", b"root=/dev/ram0 quiet\n"),
        ("policy.yaml", POLICY.encode()),
        ("bad.yaml", b"version: 1\nassociations:\n  - {name: a}\n"),
        ("cck", b"\x0c" * 32),
        ("short", b"abc"),
        ("latin", b"\xe4\n"),
    ):
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def build(keyvisor: Callable[..., Any], desk: Path) -> Callable[..., Any]:
    return lambda *options: keyvisor("owner", "image", "build", *COMMON, *options)


def test_an_image_with_everything(
    keyvisor: Callable[..., Any], build: Callable[..., Any], desk: Path
) -> None:
    before = names(desk)
    ended = build(
        *("--kernel", "kernel", "--root", "root", "--policy", "policy.yaml", "--parmfile", "parmfile"),
        *("--cck", "cck", "--output-cck", "kept", "--identity-out", "made.identity"),
        *("--enable-cck-extension-secret", "--enable-dump"),
    )
    assert (ended.code, ended.out) == (0, "")
    assert "NOT verified" in ended.err
    assert names(desk) - before == {"made.img", "kept", "made.identity"}
    assert (desk / "kept").read_bytes() == b"\x0c" * 32
    for name in ("made.img", "kept", "made.identity"):
        assert stat.S_IMODE((desk / name).stat().st_mode) == 0o600
    header, secrets = open_header(find_header((desk / "made.img").read_bytes()), [HOST_KEY])
    assert (secrets.cck, secrets.scf) == (b"\x0c" * 32, Scf.EXTENSION_FROM_CCK)
    assert header.pcf == 0xE0 | Pcf.DUMP_ALLOWED
    stated = keyvisor("owner", "identity", "made.img", "--json").out
    assert json.loads(stated) == json.loads((desk / "made.identity").read_text())


def test_info_prints_what_everybody_can_read(
    keyvisor: Callable[..., Any], build: Callable[..., Any], desk: Path
) -> None:
    build(
        "--kernel", "kernel", "--ramdisk", "ramdisk", "--cmdline", "quiet", "--identity-out", "made.identity"
    )
    shown = json.loads(keyvisor("owner", "image", "info", "made.img", "--json").out)
    identity = json.loads((desk / "made.identity").read_text())
    assert {name: shown[name] for name in identity} == identity
    assert shown["host_keys"] == [public_key_hash(HOST_KEY.public_key()).hex()]
    assert (shown["pages"], shown["header_size"], shown["pcf"]) == (4, 640, "00000000000000e0")
    assert [part["kind"] for part in shown["components"]] == ["kernel", "cmdline", "ramdisk", "stage3b"]
    assert shown["components"][1] == {**shown["components"][1], "address": 0x18000, "size": 4096}
    lines = keyvisor("owner", "image", "info", "made.img").out.splitlines()
    assert [line.split()[0] for line in lines] == list(shown)
    assert "cmdline 4096 bytes at 0x18000" in lines[-1]


def test_a_header_alone_is_shown_and_has_no_components(
    keyvisor: Callable[..., Any], build: Callable[..., Any], desk: Path
) -> None:
    build("--kernel", "kernel")
    (desk / "made.hdr").write_bytes(find_header((desk / "made.img").read_bytes()))
    alone, whole = (
        json.loads(keyvisor("owner", "image", "info", name, "--json").out)
        for name in ("made.hdr", "made.img")
    )
    assert alone == {**whole, "components": []}
    assert "components   none" in keyvisor("owner", "image", "info", "made.hdr").out
    assert keyvisor("owner", "identity", "made.hdr").out == keyvisor("owner", "identity", "made.img").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "a kernel, a ramdisk or a command line"),
        (("--kernel", "kernel", "--cck", "short"), "has 32 bytes, not 3"),
        (("--kernel", "kernel", "--cck", "kernel"), "has 32 bytes, not 8"),
        (("--ramdisk", "ramdisk", "--policy", "policy.yaml"), "not both"),
        (("--policy", "bad.yaml"), "bad.yaml:3:5: "),
        (("--parmfile", "latin"), "`latin` is no command line"),
        (("--kernel", "kernel", "-k", "short"), "`short`: not an X.509 certificate"),
        (("--kernel", "kernel", "--output-cck", "made.img"), "two outputs are one file"),
        (("--kernel", "kernel", "--identity-out", "cck"), "exists already"),
    ],
)
def test_what_fails_ends_with_1_and_no_file(
    build: Callable[..., Any], desk: Path, options: tuple[str, ...], said: str
) -> None:
    before = names(desk)
    ended = build(*options)
    assert ended.code == 1
    assert said in ended.err
    assert names(desk) == before


@pytest.mark.parametrize(
    "options",
    [
        ("--kernel", "absent"),
        ("--kernel", "kernel", "--cmdline", "a", "--parmfile", "parmfile"),
        ("--kernel", "kernel", "--enable-cck-extension-secret", "--enable-cck-update"),
        ("--kernel", "kernel", "--x-pcf", "xyz"),
        ("--kernel", "kernel", "--x-pcf", "1" * 17),
        ("--root", "kernel"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    build: Callable[..., Any], desk: Path, options: tuple[str, ...]
) -> None:
    before = names(desk)
    assert build(*options).code == 2
    assert names(desk) == before


def test_without_no_verify_no_image_is_built(keyvisor: Callable[..., Any], desk: Path) -> None:
    ended = keyvisor("owner", "image", "build", "-k", "host.crt", "-o", "made.img", "--kernel", "kernel")
    assert ended.code == 2
    assert "who vouches for the host-key documents?" in " ".join(ended.err.split())
    assert not (desk / "made.img").exists()


def test_what_is_no_image_is_said_so_in_one_line(keyvisor: Callable[..., Any], desk: Path) -> None:
    for verb in (("image", "info"), ("identity",)):
        ended = keyvisor("owner", *verb, "kernel")
        assert ended.code == 1
        assert ended.err.startswith("error: `kernel` is no image and no image's header: no image header")
        assert len(ended.err.splitlines()) == 1
