"""The key options of `keyvisor image`, `rewrap` and `keyprovider`, as far as they need no guest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keyvisor_guest.containers.release import parse_release

from ..ordinary_image import layer, write_layout


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyvisor: Callable[..., Any]) -> Path:
    """An image `image:v1`, its release `key`, and a recipient's `private.pem` and `public.pem`."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_layout(folder / "source", [layer([("etc", None), ("etc/motd", b"welcome\n")])], "v1")
    assert keyvisor("image", "build", "source:v1", "-o", "image:v1", "--key-out", "key").code == 0
    private = rsa.generate_private_key(65537, 3072)
    (folder / "private.pem").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder


def test_rewrap_lets_another_in_and_changes_no_root(keyvisor: Callable[..., Any], desk: Path) -> None:
    ended = keyvisor("image", "rewrap", "image", "--key", "key", "--recipient", "jwe:public.pem", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert told["recipients"] == ["jwe"]
    opened = keyvisor(
        "image", "cat", "image", "/etc/motd", "--private-key", "private.pem", "--root", told["root"]
    )
    assert (opened.code, opened.out) == (0, "welcome\n")
    hidden = parse_release((desk / "key").read_bytes()).key.reveal().hex()
    assert hidden not in ended.out
    shown = keyvisor("image", "rewrap", "image", "--key", "key", "--recipient", "jwe:public.pem")
    assert "recipients" in shown.out


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("verify", "image", "--key", "pkcs11:object=k"), 2, "give --guest NAME"),
        (("verify", "image", "--key", "pkcs11:object=k?pin-value=73911"), 2, "seen by others"),
        (("verify", "image", "--key", "pkcs11:slot-id=1"), 2, "finds no key"),
        (("verify", "image", "--key", "nothing"), 2, "there is no file `nothing`"),
        (("verify", "image", "--secret", "s"), 2, "give --guest NAME"),
        (("verify", "image", "--secret", "s", "--key", "key"), 2, "exclude each other"),
        (("verify", "image"), 2, "--secret or --guest"),
        (("verify", "image", "--guest", "nobody", "--state", "s"), 1, "no guest `nobody`"),
        (("verify", "image", "--guest", "n", "--state", "s", "--key", "pkcs11:object=k"), 1, "no guest `n`"),
        (("rewrap", "image", "--key", "key"), 2, "--recipient"),
        (("rewrap", "image", "--key", "key", "--recipient", "pgp:a"), 2, "no recipient"),
        (("rewrap", "image", "--key", "key", "--recipient", "pkcs11:object=k"), 2, "give --guest NAME"),
        (("keyprovider",), 2, "with which key"),
        (("keyprovider", "--key", "pkcs11:object=k", "--secret", "s"), 2, "not both"),
        (("keyprovider", "--secret", "s"), 2, "give --guest NAME"),
        (("ocicrypt", "decrypt", "source", "-o", "out"), 2, "with which key"),
        (("ocicrypt", "decrypt", "source", "-o", "out", "--key", "pkcs11:object=k"), 2, "give --guest NAME"),
    ],
)
def test_what_is_refused_and_the_way_out(
    keyvisor: Callable[..., Any], desk: Path, words: tuple[str, ...], code: int, reason: str
) -> None:
    ended = keyvisor("image", *words)
    told = " ".join(ended.err.replace("│", " ").split())
    assert (ended.code, ended.out) == (code, "")
    assert reason in told
    assert "73911" not in told


def test_a_guest_alone_names_no_key_where_none_is_needed(keyvisor: Callable[..., Any], desk: Path) -> None:
    """A program in a guest inspects an image without one, and opens one with a key of its own."""
    assert keyvisor("image", "inspect", "image", "--guest", "payments").code == 0
    assert keyvisor("image", "verify", "image", "--guest", "payments", "--key", "key").code == 0
