"""PINs with the real pkcs11-tool: the token made anew, the SO, the user, wrong PINs, a restart, another guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.end_to_end.conftest import HSM, Ran, World, worlds

SO_PIN, PIN = "so-pin-of-payments", "pin-of-payments"
SO = ("--login", "--login-type", "so", "--so-pin", SO_PIN)
LABEL = "payments keys"


@pytest.fixture
def fresh(world: World) -> World:
    """A guest that may use keys, and has set no PIN."""
    world.ready("payments", "payments-signing")
    return world


@pytest.fixture(scope="module")
def pinned() -> Iterator[World]:
    """A guest whose token has a label, an SO PIN and a user PIN, for tests that leave them as they are."""
    with worlds() as make:
        made = make()
        made.up()
        made.ready("payments", "payments-signing")
        give_pins(made)
        yield made


def give_pins(world: World) -> None:
    world.tool("payments", "--init-token", "--label", LABEL, "--so-pin", SO_PIN).ok()
    tool(world, *SO, "--init-pin", "--new-pin", PIN).ok()


def tool(world: World, *options: str) -> Ran:
    """pkcs11-tool, on the token that has its own label."""
    return world.tool("payments", *options, token=LABEL)


def flags(world: World) -> str:
    """The line of flags that pkcs11-tool shows of the one token."""
    return next(
        line for line in world.keyvisor(*LIST).ok().splitlines() if line.strip().startswith("token flags")
    )


LIST = ("guest", "exec", "--guest", "payments", "--", "pkcs11-tool", "--module", "", "-L")


def test_a_token_is_made_anew_and_its_keys_are_gone(fresh: World) -> None:
    fresh.tool("payments", "--login", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "old").ok()
    assert "PIN pad present" in flags(fresh)  # as pkcs11-tool calls the protected authentication path
    give_pins(fresh)
    assert LABEL in fresh.keyvisor(*LIST).ok()
    assert HSM in fresh.keyvisor(*LIST).ok()  # the slot says which HSM it is
    assert "PIN pad present" not in flags(fresh)
    assert "old" not in tool(fresh, "--login", "--pin", PIN, "-O").ok()


def test_the_user_works_with_the_pin(pinned: World) -> None:
    login = ("--login", "--pin", PIN)
    tool(pinned, *login, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "mine").ok()
    assert "Private Key Object" in tool(pinned, *login, "-O").ok()
    assert "Private Key Object" not in tool(pinned, "-O").ok()
    (pinned.directory / "digest").write_bytes(bytes(32))
    sign = ("--sign", "-m", "ECDSA", "--id", "01", "-i", "digest", "-o", "signature")
    tool(pinned, *login, *sign).ok()
    assert len((pinned.directory / "signature").read_bytes()) == 64


def test_wrong_pins_are_refused_and_told(pinned: World) -> None:
    assert "CKR_PIN_INCORRECT" in tool(pinned, "--login", "--pin", "wrong-pin", "-O").refused()
    assert "user PIN count low" in flags(pinned)
    tool(pinned, "--login", "--pin", PIN, "-O").ok()
    assert "user PIN count low" not in flags(pinned)
    wrong_so = ("--login", "--login-type", "so", "--so-pin", "wrong-so-pin")
    assert "CKR_PIN_INCORRECT" in tool(pinned, *wrong_so, "--init-pin", "--new-pin", "another").refused()
    assert "SO PIN count low" in flags(pinned)
    again = ("--init-token", "--label", "other", "--so-pin", "wrong-so-pin")
    assert "CKR_PIN_INCORRECT" in tool(pinned, *again).refused()


def test_a_pin_is_changed_and_the_old_one_is_worth_nothing(pinned: World) -> None:
    tool(pinned, "--login", "--pin", PIN, "--change-pin", "--new-pin", "another-pin").ok()
    assert "CKR_PIN_INCORRECT" in tool(pinned, "--login", "--pin", PIN, "-O").refused()
    tool(pinned, *SO, "--init-pin", "--new-pin", PIN).ok()
    tool(pinned, "--login", "--pin", PIN, "-O").ok()


def test_a_pin_that_was_missed_too_often_is_given_anew_by_the_so(pinned: World) -> None:
    for _ in range(10):
        assert "CKR_PIN_INCORRECT" in tool(pinned, "--login", "--pin", "wrong-pin", "-O").refused()
    assert "CKR_PIN_LOCKED" in tool(pinned, "--login", "--pin", PIN, "-O").refused()
    assert "user PIN locked" in flags(pinned)
    tool(pinned, *SO, "--init-pin", "--new-pin", PIN).ok()
    tool(pinned, "--login", "--pin", PIN, "-O").ok()


def test_pins_survive_a_restart_and_are_in_no_file(pinned: World) -> None:
    pinned.restart()
    assert LABEL in pinned.keyvisor(*LIST).ok()
    assert "CKR_PIN_INCORRECT" in tool(pinned, "--login", "--pin", "wrong-pin", "-O").refused()
    tool(pinned, "--login", "--pin", PIN, "-O").ok()
    files = [path for path in pinned.state.rglob("*") if path.is_file()]
    assert any(path.name == "application.json" for path in files)
    for path in files:
        assert PIN.encode() not in path.read_bytes(), path.name
    assert PIN not in pinned.log()


def test_another_guest_has_other_pins(pinned: World) -> None:
    pinned.ready("billing", "billing-signing", "05.0011")
    pinned.tool("billing", "--login", "-O", token="05.0011").ok()
    pinned.tool(
        "billing", "--init-token", "--label", "billing", "--so-pin", "their-so-pin", token="05.0011"
    ).ok()
    tool(pinned, "--login", "--pin", PIN, "-O").ok()
