"""The main story, as a user sees it, and what may go wrong between its steps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.end_to_end.conftest import ACCELERATOR, HSM, PROGRAMS, SPARE, World

KEYPAIRGEN = ("--login", "--keypairgen", "--key-type", "rsa:2048", "--label", "invoices", "--id", "01")
SIGN = ("--login", "--sign", "--mechanism", "SHA256-RSA-PKCS", "--id", "01", "--input-file", "invoice")


def _sign_and_verify(world: World, guest: str = "payments", token: str = HSM) -> None:
    (world.directory / "invoice").write_text("pay 42\n", encoding="utf-8")
    world.tool(guest, *SIGN, "--output-file", "signature", token=token).ok()
    world.tool(
        guest, "--read-object", "--type", "pubkey", "--id", "01", "--output-file", "key.der", token=token
    ).ok()
    verify = (
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        "key.der",
        "-keyform",
        "DER",
        "-signature",
        "signature",
    )
    assert "Verified OK" in world.run(*verify, "invoice").ok()
    (world.directory / "invoice").write_text("pay 43\n", encoding="utf-8")
    assert world.run(*verify, "invoice").code == 1


def test_the_demo_tells_its_story() -> None:
    done = subprocess.run(
        [PROGRAMS / "keyvisor", "demo"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(program interruption 3d)" in done.stdout
    assert "Verified OK" in done.stdout
    assert "The story went as it should." in done.stdout


def test_a_demo_whose_sockets_find_no_room_says_the_way_out(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    done = subprocess.run(
        [PROGRAMS / "keyvisor", "demo"],
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("is too long a path for the demo's sockets: `TMPDIR=/tmp keyvisor demo`")
    assert not list(long.iterdir())


def test_bound_hsms_serve_what_needs_no_key_and_nothing_else(world: World) -> None:
    """part2_T1, with the real pkcs11-tool."""
    world.guest("payments", HSM, SPARE, ACCELERATOR)
    assert "unbound" in world.keyvisor("guest", "hsms", "--guest", "payments").ok()
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()

    assert HSM in world.tool("payments", "-L").ok()
    assert "ECDSA" in world.tool("payments", "-M").ok()
    world.tool("payments", "--generate-random", "16", "--output-file", "random").ok()
    assert (world.directory / "random").stat().st_size == 16
    assert "CKR_USER_NOT_LOGGED_IN" in world.tool("payments", *KEYPAIRGEN).refused()
    assert "CKR_USER_NOT_LOGGED_IN" in world.tool("payments", "-O").refused()

    told = world.json("guest", "refusals", "--guest", "payments")["refusals"]
    assert {one["apqn"] for one in told} == {HSM}
    assert all("not associated" in one["reason"] for one in told)
    assert all(one["missing"] for one in told)


def test_refusals_name_what_is_missing_until_nothing_is(world: World) -> None:
    world.guest("payments", HSM)
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    world.tool("payments", *KEYPAIRGEN).refused()

    def missing() -> str:
        return str(world.json("guest", "refusals", "--guest", "payments")["refusals"][-1]["missing"])

    assert "policy" in missing()
    policy = world.policy("payments-signing")
    world.keyvisor("guest", "apply", "--guest", "payments", policy).refused()
    world.keyvisor("guest", "apply", "--guest", "payments", "--partial", "--no-strict", policy).ok()
    world.keyvisor("guest", "bind", "--guest", "payments", HSM)
    assert "payments-signing" in missing()


def test_the_whole_story_with_a_restart_between_any_two_steps(world: World) -> None:
    world.guest("payments", HSM, SPARE, ACCELERATOR)
    world.restart()
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    world.restart()
    world.tool("payments", "--generate-random", "8", "--output-file", "random").ok()
    world.tool("payments", *KEYPAIRGEN).refused()
    world.restart(signal.SIGKILL)
    request = world.request("payments", "payments-signing")
    world.restart()
    world.keyvisor("guest", "secret", "add", "--guest", "payments", request).ok()
    world.restart(signal.SIGKILL)
    world.keyvisor("guest", "apply", "--guest", "payments", world.policy("payments-signing")).ok()
    world.restart()
    world.tool("payments", *KEYPAIRGEN).ok()
    world.restart(signal.SIGKILL)
    _sign_and_verify(world)
    world.keyvisor("guest", "unbind", "--guest", "payments", HSM).ok()
    world.restart()
    world.tool("payments", *SIGN, "--output-file", "signature").refused()
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    world.restart()
    world.keyvisor("guest", "associate", "--guest", "payments", HSM, "--secret", "payments-signing").ok()
    world.restart()
    _sign_and_verify(world)


def test_other_secrets_meet_other_keys_and_the_spare_meets_the_same(world: World) -> None:
    """part2_T9; invariant I5."""
    world.ready("payments", "payments-signing")
    world.tool("payments", *KEYPAIRGEN).ok()

    world.guest("billing", SPARE)
    world.add_secret("billing", "billing-signing")
    world.keyvisor("guest", "apply", "--guest", "billing", world.policy("billing-signing")).ok()
    assert "invoices" not in world.tool("billing", "--login", "-O", token=SPARE).ok()
    world.keyvisor("guest", "unbind", "--guest", "billing", SPARE).ok()

    world.keyvisor("host", "attach", "payments", SPARE).ok()
    world.keyvisor(
        "guest", "apply", "--guest", "payments", world.policy("payments-signing", count="all")
    ).ok()
    assert "invoices" in world.tool("payments", "--login", "-O", token=SPARE).ok()
    _sign_and_verify(world, token=SPARE)


def test_an_hsm_is_bound_to_one_guest(world: World) -> None:
    """part2_T7."""
    world.guest("payments", HSM)
    world.guest("billing", HSM)
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    assert "payments" not in world.keyvisor("guest", "bind", "--guest", "billing", HSM).refused()
    world.keyvisor("guest", "associate", "--guest", "billing", HSM, "--secret", "x").refused()
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).refused()
    world.keyvisor("guest", "bind", "--guest", "payments", SPARE).refused()


def test_associations_that_no_rule_allows_are_refused(world: World) -> None:
    world.guest("payments", HSM)
    world.add_secret("payments", "payments-signing")
    world.add_secret("payments", "another")
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    associate = ("guest", "associate", "--guest", "payments", HSM, "--secret")
    assert "policy" in world.keyvisor(*associate, "payments-signing").refused()
    world.keyvisor("guest", "apply", "--guest", "payments", world.policy("payments-signing")).ok()
    world.keyvisor("guest", "unbind", "--guest", "payments", HSM).ok()
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    world.keyvisor(*associate, "another").refused()
    world.keyvisor(*associate, "unheard-of").refused()
    world.keyvisor(*associate, "payments-signing").ok()


def test_a_guest_that_stops_loses_all_but_its_keys(world: World) -> None:
    """part2_T15: a later start with the same secret meets the same keys."""
    value = bytes(range(32))
    world.ready("payments", "payments-signing", value=value)
    world.tool("payments", *KEYPAIRGEN).ok()
    world.keyvisor("host", "stop", "payments").ok()
    assert not (world.state / "run" / "guests" / "payments").exists()

    world.guest("payments", HSM)
    assert world.json("guest", "secret", "list", "--guest", "payments")["secrets"] == []
    assert world.json("guest", "hsms", "--guest", "payments")["hsms"][0]["state"] == "unbound"
    world.add_secret("payments", "payments-signing", value)
    world.keyvisor("guest", "apply", "--guest", "payments", world.policy("payments-signing")).ok()
    assert "invoices" in world.tool("payments", "--login", "-O").ok()


def test_a_killed_gate_comes_back_and_nobody_else_notices(world: World) -> None:
    world.ready("payments", "payments-signing")
    world.tool("payments", *KEYPAIRGEN).ok()
    world.guest("billing", SPARE)
    world.add_secret("billing", "billing-signing")
    world.keyvisor("guest", "apply", "--guest", "billing", world.policy("billing-signing")).ok()

    signer = subprocess.Popen(
        ["keyvisor", "guest", "exec", "--guest", "billing", "--", sys.executable, "-c", _SIGN_ON, SPARE],
        env=world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert signer.stdin is not None
    assert signer.stdout is not None
    assert signer.stdout.readline() == "signing\n"
    for _ in range(3):
        (gate,) = world.gates("payments")
        os.kill(gate, signal.SIGKILL)
        (world.directory / "invoice").write_text("pay 42\n", encoding="utf-8")
        world.tool("payments", *SIGN, "--output-file", "signature").ok()
        assert world.gates("payments") != [gate]
    told, _ = signer.communicate("stop\n", timeout=60)
    signed, failed = (int(word) for word in re.findall(r"\d+", told))
    assert failed == 0
    assert signed > 10


_SIGN_ON = """
import sys, threading
from keyvisor_guest import Guest
from pkcs11 import KeyType, Mechanism, PROTECTED_AUTH
token = Guest().pkcs11().get_token(token_label=sys.argv[1])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
signed = failed = 0
with token.open(rw=True, user_pin=PROTECTED_AUTH) as session:
    public, private = session.generate_keypair(KeyType.RSA, 2048)
    print("signing", flush=True)
    while not stop.is_set():
        try:
            signature = private.sign(b"data", mechanism=Mechanism.SHA256_RSA_PKCS)
            assert public.verify(b"data", signature, mechanism=Mechanism.SHA256_RSA_PKCS)
            signed += 1
        except Exception as error:
            failed += 1
print(f"signed {signed} failed {failed}", flush=True)
"""


def test_two_guests_race_for_one_hsm(world: World) -> None:
    """part2_T10."""
    world.guest("payments", HSM)
    world.guest("billing", HSM)
    codes: dict[str, int] = {}

    def bind(guest: str) -> None:
        codes[guest] = world.keyvisor("guest", "bind", "--guest", guest, HSM).code

    threads = [threading.Thread(target=bind, args=(guest,)) for guest in ("payments", "billing")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes.values()) == [0, 1]


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_the_daemon_ends_with_all_that_it_started(world: World, with_signal: int) -> None:
    world.ready("payments", "payments-signing")
    (gate,) = world.gates("payments")
    assert world.down(with_signal) == 0
    assert not Path(f"/proc/{gate}").exists()
    assert not (world.state / "run" / "host.sock").exists()


def test_a_second_daemon_on_the_same_state_is_one_line(world: World) -> None:
    told = world.keyvisor("up").refused()
    assert len(told.splitlines()) == 1
    assert told.startswith("error: ")


def test_a_path_too_long_for_a_socket_is_one_line(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.environment["KEYVISOR_STATE"] = str(world.directory / ("x" * 100))
    told = world.keyvisor("up").refused()
    assert len(told.splitlines()) == 1
    assert "--state" in told


def test_secrets_are_nowhere_in_the_clear(world: World) -> None:
    """part2_T12: neither in what the daemon wrote nor in what it said, nor in any process's argv or environment."""
    value = b"\xa5\x5a" * 16
    world.ready("payments", "payments-signing", value=value)
    world.tool("payments", *KEYPAIRGEN).ok()
    (world.directory / "value").unlink()
    forms = (value, value.hex().encode(), value.hex().upper().encode())
    (gate,) = world.gates("payments")
    assert world.daemon is not None
    places = [path for path in world.state.rglob("*") if path.is_file()] + [world.directory / "daemon.log"]
    places += [
        Path(f"/proc/{pid}/{name}") for pid in (gate, world.daemon.pid) for name in ("cmdline", "environ")
    ]
    assert len(places) > 10
    for place in places:
        data = place.read_bytes()
        assert not any(form in data for form in forms), place
