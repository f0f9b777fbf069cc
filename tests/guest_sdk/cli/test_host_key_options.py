"""The options that say who vouches for a host key: what reaches the check, and what does not go together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.wire.asrcb import open_request, parse

from .host_keys import HOST_KEY, OTHER_HOST_KEY, write_host_keys

IDENTITY = {"pld": "01" * 64, "ald": "02" * 64, "tld": "03" * 64, "header_tag": "04" * 16}
MADE = ("--identity", "identity.json", "-o", "made.bin")
TRUST = ("--cert", "signing-key.crt", "--crl", "signing-key.crl", "--root-ca", "root-ca.crt")


@pytest.fixture
def meta(keyvisor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`keyvisor owner request meta` in a directory with two hosts' keys and what vouches for them."""
    desk = tmp_path / "desk"
    desk.mkdir()
    write_host_keys(desk)
    (desk / "identity.json").write_text(json.dumps(IDENTITY))
    monkeypatch.chdir(desk)
    return lambda *arguments: keyvisor("owner", "request", "meta", *MADE, *arguments)


def test_a_request_for_hosts_that_are_vouched_for(meta: Callable[..., Any]) -> None:
    ended = meta("-k", "host-key.crt", "-k", "host-key-backup.crt", *TRUST, "--offline")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    block = parse(Path("made.bin").read_bytes())
    for key in (HOST_KEY, OTHER_HOST_KEY):
        open_request(block, [key])


def test_a_document_that_nobody_vouches_for_is_named(meta: Callable[..., Any]) -> None:
    ended = meta("-k", "host-key.crt", "-k", "stranger.crt", *TRUST)
    assert ended.code == 1
    assert ended.err.startswith("error: `stranger.crt`: the signature of the host-key document is not")
    assert len(ended.err.splitlines()) == 1
    assert not Path("made.bin").exists()


def test_a_revoked_document_is_refused(meta: Callable[..., Any]) -> None:
    ended = meta("-k", "host-key.crt", *TRUST, "--crl", "revoking.crl")
    assert ended.code == 1
    assert "was revoked" in ended.err


def test_without_a_revocation_list_it_is_refused(meta: Callable[..., Any]) -> None:
    ended = meta("-k", "host-key.crt", "-C", "signing-key.crt", "--root-ca", "root-ca.crt")
    assert ended.code == 1
    assert "no revocation list of" in ended.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--cert", "`identity.json`: not an X.509 certificate"),
        ("--root-ca", "`identity.json`: not an X.509 certificate"),
        ("--crl", "`identity.json`: not a revocation list"),
    ],
)
def test_a_file_of_another_kind_is_named(meta: Callable[..., Any], option: str, said: str) -> None:
    given = dict(zip(TRUST[::2], TRUST[1::2], strict=True)) | {option: "identity.json"}
    ended = meta("-k", "host-key.crt", *(word for pair in given.items() for word in pair))
    assert ended.code == 1
    assert ended.err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    "given", [(), ("--cert", "signing-key.crt"), ("--root-ca", "root-ca.crt"), ("--crl", "signing-key.crl")]
)
def test_who_vouches_must_be_said_whole(meta: Callable[..., Any], given: tuple[str, ...]) -> None:
    ended = meta("-k", "host-key.crt", *given)
    assert ended.code == 2
    assert "who vouches for the host-key documents?" in ended.err


@pytest.mark.parametrize("given", [TRUST[:2], TRUST[2:4], TRUST[4:]])
def test_no_verify_excludes_what_would_verify(meta: Callable[..., Any], given: tuple[str, ...]) -> None:
    ended = meta("-k", "host-key.crt", "--no-verify", *given)
    assert ended.code == 2
    assert "--no-verify excludes" in ended.err


def test_no_verify_takes_even_a_strangers_and_says_so(meta: Callable[..., Any]) -> None:
    ended = meta("-k", "stranger.crt", "--no-verify")
    assert ended.code == 0
    assert "NOT verified: not their signature, not their validity, not their revocation" in ended.err
