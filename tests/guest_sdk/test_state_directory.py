"""Where the state is, and what a path or a name may be."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.errors import NameInvalid, StateDirectoryUnusable
from keyvisor_guest.names import apqn_text, guest_name
from keyvisor_guest.state_directory import (
    MAX_SOCKET_PATH,
    guest_directory,
    guest_socket,
    host_socket,
    operator_socket,
    pkcs11_socket,
    run_directory,
    state_directory,
)
from keyvisor_guest.wire import messages

ROOT, USER = 0, 1000


@pytest.mark.parametrize(
    ("option", "environ", "uid", "expected"),
    [
        ("/a", {"KEYVISOR_STATE": "/b"}, ROOT, "/a"),
        (None, {"KEYVISOR_STATE": "/b", "XDG_STATE_HOME": "/c"}, ROOT, "/b"),
        (None, {"KEYVISOR_STATE": "", "HOME": "/h"}, USER, "/h/.local/state/keyvisor"),
        (None, {"XDG_STATE_HOME": "/c", "HOME": "/h"}, ROOT, "/var/lib/keyvisor"),
        (None, {"XDG_STATE_HOME": "/c", "HOME": "/h"}, USER, "/c/keyvisor"),
        (None, {"XDG_STATE_HOME": "relative", "HOME": "/h"}, USER, "/h/.local/state/keyvisor"),
        (None, {"HOME": "/h"}, USER, "/h/.local/state/keyvisor"),
    ],
)
def test_the_option_wins_then_the_variable_then_the_users_default(
    option: str | None, environ: dict[str, str], uid: int, expected: str
) -> None:
    found = state_directory(Path(option) if option else None, environ, uid=uid)
    assert found == Path(expected)


def test_a_relative_directory_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_directory(Path("here")) == tmp_path / "here"


def test_without_a_home_it_says_what_to_give() -> None:
    with pytest.raises(StateDirectoryUnusable, match=r"give --state DIR or KEYVISOR_STATE"):
        state_directory(None, {}, uid=USER)


def test_the_layout_is_the_documented_one() -> None:
    state = Path("/s")
    assert run_directory(state) == Path("/s/run")
    assert host_socket(state) == Path("/s/run/host.sock")
    assert operator_socket(state) == Path("/s/run/operator.sock")
    assert guest_directory(state, "g") == Path("/s/run/guests/g")
    assert guest_socket(state, "g") == Path("/s/run/guests/g/guest.sock")
    assert pkcs11_socket(state, "g") == Path("/s/run/guests/g/pkcs11.sock")


def test_a_socket_path_has_107_bytes_at_most() -> None:
    fits = Path("/" + "x" * (MAX_SOCKET_PATH - 1 - len("/run/host.sock")))
    assert len(os.fsencode(host_socket(fits))) == MAX_SOCKET_PATH
    with pytest.raises(StateDirectoryUnusable, match=r"has 108 bytes .* choose a shorter --state"):
        host_socket(Path(f"{fits}y"))


def test_bytes_count_and_not_characters() -> None:
    with pytest.raises(StateDirectoryUnusable, match="bytes"):
        pkcs11_socket(Path("/" + "ü" * 50), "g")


@pytest.mark.parametrize("name", ["", "-a", "A", "a" * 32, "a/b", "..", ".", "a\n", "a b", "ä", "a_b"])
def test_what_names_no_guest_is_refused_before_it_is_part_of_a_path(name: str) -> None:
    with pytest.raises(NameInvalid):
        guest_directory(Path("/s"), name)


@given(st.from_regex(messages.GUEST_NAME, fullmatch=True).filter(lambda text: not text.endswith("\n")))
def test_a_guests_doors_are_right_below_guests(name: str) -> None:
    assert guest_directory(Path("/s"), name).parent == Path("/s/run/guests")


@given(st.text(max_size=40))
def test_a_name_is_taken_or_refused_and_never_changed(name: str) -> None:
    try:
        assert guest_name(name, {}) == name
    except NameInvalid:
        assert re.fullmatch(messages.GUEST_NAME, name) is None


def test_the_guest_may_come_from_the_environment() -> None:
    assert guest_name(None, {"KEYVISOR_GUEST": "g"}) == "g"
    assert guest_name("h", {"KEYVISOR_GUEST": "g"}) == "h"
    with pytest.raises(NameInvalid, match="--guest NAME or KEYVISOR_GUEST"):
        guest_name(None, {})


def test_an_apqn_is_spelt_as_the_doors_do() -> None:
    assert apqn_text("0A.00fF") == "0a.00ff"
    for wrong in ("3.11", "03.0011 ", "03.0011\n", "0x03.0011", "..", ""):
        with pytest.raises(NameInvalid, match=r"write card\.domain in hex"):
            apqn_text(wrong)
