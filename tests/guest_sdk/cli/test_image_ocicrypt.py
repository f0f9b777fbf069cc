"""`keyvisor image ocicrypt`: a layout in, another one out, and no layer in clear beside an encrypted one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.containers.oci.layout import OciLayout

from ..ordinary_image import layer, write_layout

LAYERS = [layer([("one", b"1" * 5000)]), layer([("two", b"2" * 5000)])]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, bits in (("mine", "3072"), ("other", "3072"), ("short", "2048")):
        subprocess.run(
            ["openssl", "genrsa", "-out", folder / f"{name}.pem", bits], check=True, capture_output=True
        )
        command = ["openssl", "rsa", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub"]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_layout(tmp_path / "source", LAYERS, "v1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blobs(path: Path) -> set[str]:
    return {one.name for one in (path / "blobs/sha256").iterdir()}


def test_what_was_encrypted_comes_back_the_same(keyvisor: Callable[..., Any], desk: Path, keys: Path) -> None:
    recipients = [f"--recipient=jwe:{keys}/{name}.pub" for name in ("other", "mine")]
    ended = keyvisor("image", "ocicrypt", "encrypt", "source:v1", "-o", "sealed:v1", *recipients, "--json")
    assert (ended.code, json.loads(ended.out)["image"]) == (0, "oci:sealed:v1")
    plain = {one.digest.partition(":")[2] for one in OciLayout(desk / "source").images()}
    common = blobs(desk / "source") & blobs(desk / "sealed")
    assert len(common) == 1  # the config, and no layer
    for name in ("mine", "other"):
        opened = keyvisor(
            "image",
            "ocicrypt",
            "decrypt",
            "sealed",
            "-o",
            f"{name}:v1",
            "--private-key",
            str(keys / f"{name}.pem"),
        )
        assert opened.code == 0
        assert blobs(desk / name) == blobs(desk / "source") >= plain


def test_it_is_not_built_from_before_it_is_decrypted(
    keyvisor: Callable[..., Any], desk: Path, keys: Path
) -> None:
    keyvisor("image", "ocicrypt", "encrypt", "source", "-o", "sealed", f"--recipient=jwe:{keys}/mine.pub")
    ended = keyvisor("image", "build", "sealed", "-o", "out", "--key-out", "key")
    assert (ended.code, "ocicrypt decrypt" in ended.err) == (1, True)


def test_what_cannot_be_is_told(keyvisor: Callable[..., Any], desk: Path, keys: Path) -> None:
    encrypt = ("image", "ocicrypt", "encrypt", "source", "-o")
    mine, private = f"--recipient=jwe:{keys}/mine.pub", ("--private-key", str(keys / "mine.pem"))
    keyvisor(*encrypt, "sealed", mine)
    (desk / "no.pem").write_text("no key")
    for arguments, code, said in (
        ((*encrypt, "out"), 2, "for whom?"),
        ((*encrypt, "out", f"--recipient=jwe:{keys}/short.pub"), 1, "too short"),
        ((*encrypt, "./source:v2", mine), 1, "another directory"),
        (("image", "ocicrypt", "encrypt", "sealed", "-o", "out", mine), 1, "encrypted already"),
        (("image", "ocicrypt", "decrypt", "sealed", "-o", "sealed:x", *private), 1, "another directory"),
        (
            ("image", "ocicrypt", "decrypt", "sealed", "-o", "out", "--private-key", "no.pem"),
            1,
            "no private key",
        ),
        (
            ("image", "ocicrypt", "decrypt", "sealed", "-o", "out", "--private-key", str(keys / "other.pem")),
            1,
            "wrapped for others",
        ),
    ):
        ended = keyvisor(*arguments)
        assert (ended.code, said in ended.err, "Traceback" in ended.err) == (code, True, False), ended.err
        assert not (desk / "out").exists() or OciLayout(desk / "out").images() == ()


def test_a_layer_that_was_changed_is_not_decrypted(
    keyvisor: Callable[..., Any], desk: Path, keys: Path
) -> None:
    keyvisor("image", "ocicrypt", "encrypt", "source", "-o", "sealed", f"--recipient=jwe:{keys}/mine.pub")
    layout = OciLayout(desk / "sealed")
    manifest = json.loads(layout.blobs.path_of(layout.find().digest).read_bytes())
    path = layout.blobs.path_of(manifest["layers"][1]["digest"])
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(bytes(data))
    ended = keyvisor(
        "image", "ocicrypt", "decrypt", "sealed", "-o", "out", "--private-key", str(keys / "mine.pem")
    )
    assert (ended.code, "was changed" in ended.err) == (1, True)
    assert OciLayout(desk / "out").images() == ()
