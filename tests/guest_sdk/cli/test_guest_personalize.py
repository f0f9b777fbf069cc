"""`keyvisor guest personalize`, against the firmware's story."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.wire.asrcb import parse

from ..personalization.people import STRANGER, USER, public, request

MINE, OTHERS = request("mine"), request("theirs", STRANGER)


@pytest.fixture
def personalize(
    keyvisor: Callable[..., Any], firmware: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """The verb, in a directory with what a user and a stranger brought."""
    monkeypatch.chdir(tmp_path)
    Path("mine.req").write_bytes(MINE)
    Path("theirs.req").write_bytes(OTHERS)
    Path("user.pem").write_bytes(public(USER))
    where = ("--guest", "payments", "--state", str(firmware.state))
    return lambda *arguments: keyvisor("guest", "personalize", *arguments, *where)


def test_the_users_requests_reach_the_firmware_and_the_store_is_locked(
    personalize: Callable[..., Any], firmware: Any
) -> None:
    ended = personalize("theirs.req", "mine.req", "--user-cert", "user.pem", "--json")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert [one["fate"] for one in told["requests"]] == ["dropped", "taken"]
    assert "the signature does not hold" in told["requests"][0]["reason"]
    assert (firmware.story.requests, firmware.story.locked) == ([MINE], True)


def test_what_does_not_come_is_named_and_nothing_is_locked(
    personalize: Callable[..., Any], firmware: Any
) -> None:
    Path("contents").write_text(f"{parse(MINE).tag.hex()}\n{'ab' * 16}\n")
    ended = personalize("mine.req", "--user-cert", "user.pem", "--contents", "contents")
    assert ended.code == 1
    assert f"the request with the tag {'ab' * 16} did not come" in ended.err
    assert "held back" in ended.out
    assert firmware.story.requests == []
    assert not firmware.story.locked


def test_the_description_says_whose_requests_are_taken_and_what_comes_of_them(
    personalize: Callable[..., Any],
) -> None:
    Path("description.yaml").write_text("version: 1\nuser: user.pem\n")
    assert personalize("mine.req", "--description", "description.yaml").code == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("mine.req",), "whose requests are to be taken is not said"),
        (("mine.req", "--user-cert", "user.pem", "--contents", "user.pem"), "line 1 is no request's tag"),
        (("mine.req", "--description", "user.pem"), "user.pem:1:1: "),
        (("user.pem", "--user-cert", "user.pem"), "none of the requests was taken"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_done(
    personalize: Callable[..., Any], firmware: Any, arguments: tuple[str, ...], why: str
) -> None:
    ended = personalize(*arguments)
    assert ended.code == 1
    assert why in ended.err
    assert (firmware.story.requests, firmware.story.locked) == ([], False)
