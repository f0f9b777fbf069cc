"""The doors as the daemon keeps them: gates that die, leave, hang, lie or do not start."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from keyvisor_firmware.broker import gate as gate_module
from keyvisor_firmware.broker import gate_process
from keyvisor_firmware.broker import gatekeeper as module
from keyvisor_firmware.broker.control import Picture, Refusal
from keyvisor_firmware.broker.errors import GateError
from keyvisor_firmware.broker.gate_process import Start
from keyvisor_firmware.broker.gatekeeper import Gatekeeper
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.listening import listening
from keyvisor_firmware.broker.state_page import MAX_HSMS, HsmState
from keyvisor_hsm.cards import Apqn, ConfigurationData, Mode
from keyvisor_hsm.cryptoki import CKA, CKM, CKR
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys

from .conftest import ACCELERATOR, CRYPTO, SPARE, Guest, Machine, children, command_line, slot_of, wait_for
from .encoder import HANDSHAKE, Mechanism, body, frame, sized, u32
from .peer import Peer

SLOT = slot_of(CRYPTO)


def kill(pid: int) -> None:
    """End a gate at once. Its daemon may not have noticed when this returns."""
    os.kill(pid, signal.SIGKILL)


def sockets_of(pid: int) -> int:
    """How many sockets a process holds."""
    held = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed while we look
            held += os.readlink(path).startswith("socket:")
    return held


def is_gone(pid: int) -> bool:
    return pid not in children()


# --- gates that die


def test_a_gate_that_was_killed_comes_back_and_the_association_holds(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    peer.aes_key(peer.session(SLOT, login=True), (CKA.TOKEN, True), label=b"kept")
    first = guest.running_gate()
    kill(first)
    assert peer.ended()
    again = guest.connect()
    assert len(again.find(again.session(SLOT, login=True), (CKA.LABEL, b"kept"))) == 1
    assert guest.running_gate() != first


@pytest.mark.parametrize("_", range(4))
def test_a_gate_that_died_unnoticed_is_replaced_when_an_hsm_is_associated(_: int, machine: Machine) -> None:
    """An association must not fail because of it: that would last until the HSM is reset."""
    guest = machine.guest()
    guest.associate(SPARE)
    kill(guest.running_gate())
    guest.keeper.bind(CRYPTO)
    kill(guest.gate())
    guest.keeper.associate(CRYPTO, guest.keys())
    peer = guest.connect()
    peer.aes_key(peer.session(SLOT, login=True))


def test_another_guests_gate_does_not_notice(machine: Machine) -> None:
    one, other = machine.guest("one"), machine.guest("other")
    one.associate()
    other.associate(SPARE)
    peer = other.connect()
    session = peer.session(slot_of(SPARE), login=True)
    key = peer.aes_key(session)
    kill(one.gate())
    assert len(peer.encrypt(session, key, bytes(16))) == 16


def test_what_a_killed_gate_left_is_cleared_away(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    scratch = guest.keeper.door.parent / "scratch"
    for _ in range(2):
        gate = guest.gate()
        assert (scratch / "tokens").is_dir()
        kill(gate)
        wait_for(lambda gate=gate: is_gone(gate), "the daemon noticed")  # type: ignore[misc]  # bound at once
        wait_for(lambda: not scratch.exists(), "the scratch token is gone")


# --- gates that leave


def test_an_idle_gate_leaves_and_the_next_application_starts_another(machine: Machine) -> None:
    guest = machine.guest(idle_seconds=0.1)
    guest.associate()
    peer = guest.connect()
    peer.aes_key(peer.session(SLOT, login=True), (CKA.TOKEN, True), label=b"kept")
    first = guest.running_gate()
    peer.close()
    wait_for(lambda: is_gone(first), "the gate left")
    again = guest.connect()
    assert len(again.find(again.session(SLOT, login=True), (CKA.LABEL, b"kept"))) == 1


def test_a_gate_with_a_connection_is_not_idle(machine: Machine) -> None:
    guest = machine.guest(idle_seconds=0.05)
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    gate = guest.running_gate()
    until = time.monotonic() + 0.25
    while time.monotonic() < until:
        peer.call("C_GetSlotList", 0, 8)
    assert guest.running_gate() == gate


def test_a_gate_does_not_leave_while_it_opens_a_partition(
    softhsm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module rewrites the token's file at each login: a process that ends in the middle destroys all its keys."""
    steps: list[str] = []
    opening, opened, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(_picture: Picture) -> dict[str, str]:
        opening.set()
        assert opened.wait(30)
        steps.append("the partition is open")
        return {}

    def leave(_status: int) -> None:
        steps.append("the gate leaves")
        ended.set()

    notices, other = socket.socketpair()
    with notices, other:
        page = memoryview(bytearray(64)).cast("Q")
        gate = gate_module.Gate("payments", softhsm, tmp_path / "scratch", page, notices, Limits())
        monkeypatch.setattr(gate, "_adopt", slow)
        monkeypatch.setattr(os, "_exit", leave)
        threads = [
            threading.Thread(target=gate.adopt, args=(Picture(()),)),
            threading.Thread(target=gate.end),
        ]
        threads[0].start()
        assert opening.wait(30)
        threads[1].start()
        assert not ended.wait(0.05)
        opened.set()
        for thread in threads:
            thread.join(30)
    assert steps == ["the partition is open", "the gate leaves"]


def test_an_hsm_is_associated_whenever_the_gate_leaves(machine: Machine) -> None:
    guest = machine.guest(idle_seconds=0.01)
    for _ in range(25):
        guest.keeper.bind(CRYPTO)
        guest.keeper.associate(CRYPTO, guest.keys())
        guest.keeper.unbind(CRYPTO)


# --- bytes that are not the protocol

_HELLO = frame(0x10, body("C_Initialize", HANDSHAKE, 0, b"\0"))
_MALFORMED = {
    "code 0": struct.pack(">III", 0, 0, 8) + u32(2) + u32(0),
    "too much body": struct.pack(">III", 1, 0, DEFAULTS.frame_body + 1),
    "too many options": struct.pack(">III", 1, DEFAULTS.frame_options + 1, 8),
    "no id": frame(1, b"\0\0\0"),
    "empty body": frame(1, b""),
    "another signature": frame(1, u32(11) + sized(b"uu") + bytes(16)),
    "too little": frame(1, u32(11) + sized(b"u") + bytes(7)),
    "too much": frame(1, body("C_CloseSession", 1) + b"\0"),
    "too many attributes": frame(1, u32(26) + sized(b"uaA") + bytes(8) + u32(2**32 - 1)),
    "bottomless template": frame(
        1, u32(26) + sized(b"uaA") + bytes(8) + (u32(1) + u32(0x40000211) + b"\1" + u32(24)) * 4000
    ),
    "a length beyond the end": frame(1, u32(39) + sized(b"uay") + bytes(8) + b"\1" + u32(2**31)),
    "plain text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("what", _MALFORMED)
def test_malformed_bytes_close_their_connection_only(
    what: str, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    guest = machine.guest()
    peer = guest.connect()
    gate = guest.running_gate()
    said = ""

    def ends_a_line() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return said.endswith("\n")

    with Peer(guest.keeper.door) as stranger:
        stranger.socket.sendall(_MALFORMED[what])
        assert stranger.ended()
    wait_for(ends_a_line, "the gate says why")
    assert peer.call("C_GetSlotList", 0, 8)
    said += capfd.readouterr().err
    assert said.startswith("keyvisor gate guest=payments a connection was closed: ")
    assert said.count("\n") == 1
    assert guest.running_gate() == gate


def test_malformed_first_bytes_close_their_connection_only(shared: Guest, peer: Peer) -> None:
    for first in (b"\xff" * 64, _HELLO, b"\0" * 64):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.settimeout(30)
            stranger.connect(str(shared.keeper.door))
            stranger.sendall(first)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    assert peer.call("C_GetSlotList", 0, 8)


def test_an_application_that_hangs_up_in_the_middle_is_not_worth_a_line(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    gate = guest.running_gate()
    quiet = sockets_of(gate)
    for length in (1, 13, 40):
        with Peer(guest.keeper.door) as stranger:
            stranger.socket.sendall(_HELLO[:length])
    with Peer(guest.keeper.door) as stranger:
        stranger.send(body("C_GetMechanismList", SLOT, 512))  # and the answer meets a closed socket
    wait_for(lambda: sockets_of(gate) == quiet, "all of them are gone")
    assert peer.call("C_GetSlotList", 0, 8)
    assert capfd.readouterr().err == ""


def test_connections_beyond_the_bound_are_turned_away(
    softhsm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notices, _other = socket.socketpair()
    page = memoryview(bytearray(64)).cast("Q")
    gate = gate_module.Gate("payments", softhsm, tmp_path / "scratch", page, notices, Limits(connections=2))
    listener = listening(tmp_path / "door", 8)
    with notices, _other, listener:
        served = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
        for one in served:
            one.settimeout(30)
            one.connect(str(tmp_path / "door"))
            one.sendall(b"\0")
        accepting = threading.Thread(target=gate.accept, args=(listener, 0.05))
        accepting.start()
        assert [one.recv(1) for one in served[:2]] == [b"\0", b"\0"]
        with contextlib.suppress(ConnectionResetError):
            assert served[2].recv(1) == b""
        for one in served:
            one.close()
        accepting.join(30)
        assert not accepting.is_alive()
    assert (
        capsys.readouterr().err == "keyvisor gate guest=payments a connection was turned away: 2 are open\n"
    )


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "room"),
    [
        (256, 4096, 1152, 1024),
        (1024, 1024, 1024, 896),
        (1024, -1, 1152, 1024),
        (20000, 20000, 20000, 1024),
        (-1, -1, -1, 1024),
    ],
)
def test_connections_leave_descriptors_for_the_module(
    soft: int, hard: int, raised: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that runs out of descriptors cannot take a connection any more."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert gate_module._room_for_connections(1024) == room
    assert limits[-1] == (raised, hard)


# --- what the firmware asks for


def test_wrong_keys_leave_the_hsm_bound(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    guest.keeper.unbind(CRYPTO)
    guest.keeper.bind(CRYPTO)
    right = guest.keys()
    for wrong in (
        PartitionKeys(right.directory, b"another user pin", right.so_pin),
        PartitionKeys(right.directory, right.so_pin, right.user_pin),
    ):
        with pytest.raises(PartitionUnusable, match="C_Login answered 0xa0"):
            guest.keeper.associate(CRYPTO, wrong)
    peer = guest.connect()
    session = peer.session(SLOT)
    assert len(peer.call("C_GenerateRandom", session, 8)) == 8
    assert peer.rv("C_Login", session, 1, None) == CKR.USER_NOT_LOGGED_IN
    guest.keeper.associate(CRYPTO, right)
    peer.call("C_Login", session, 1, None)


def test_an_association_without_waiting_reaches_a_gate_that_runs(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    guest.keeper.unbind(CRYPTO)
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    session = peer.session(SLOT)
    guest.keeper.associate(CRYPTO, guest.keys(), wait=False)
    peer.call("C_Login", session, 1, None)


def test_an_association_without_waiting_starts_no_gate(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    guest.keeper.associate(CRYPTO, guest.keys(), wait=False)
    with pytest.raises(AssertionError, match="0 gates run"):
        guest.running_gate()
    peer = guest.connect()
    peer.call("C_Login", peer.session(SLOT), 1, None)


def test_an_hsm_that_is_attached_again_shows_its_new_data(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    guest.keeper.attach(machine.about(CRYPTO, Mode.EP11, serial="93AADFK719469999"))
    assert peer.call("C_GetTokenInfo", SLOT)[3] == b"93AADFK719469999"


def test_an_hsm_that_is_detached_is_gone_and_comes_back_unbound(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    guest.keeper.detach(CRYPTO)
    assert slot_of(CRYPTO) not in peer.call("C_GetSlotList", 0, 8)
    assert peer.rv("C_GetTokenInfo", SLOT) == CKR.SLOT_ID_INVALID
    assert peer.rv("C_GetSessionInfo", session) == CKR.SESSION_HANDLE_INVALID
    guest.keeper.attach(machine.about(CRYPTO, Mode.EP11))
    assert peer.rv("C_GetTokenInfo", SLOT) == CKR.TOKEN_NOT_PRESENT
    guest.associate()
    peer.aes_key(peer.session(SLOT, login=True))


def test_as_many_hsms_as_a_gate_can_keep_apart(machine: Machine) -> None:
    guest = machine.guest()
    free = (Apqn(card, domain) for card in range(0x10, 0x12) for domain in range(256))
    attached = [next(free) for _ in range(MAX_HSMS - 3)]
    for apqn in attached:
        guest.keeper.attach(machine.about(apqn, Mode.EP11))
    with pytest.raises(GateError, match=f"{MAX_HSMS} HSMs at most; detach one first"):
        guest.keeper.attach(machine.about(next(free), Mode.EP11))
    guest.associate(attached[-1])
    peer = guest.connect()
    assert len(peer.call("C_GetSlotList", 0, 1024)) == MAX_HSMS
    peer.aes_key(peer.session(slot_of(attached[-1]), login=True))
    guest.keeper.detach(attached[0])
    guest.keeper.attach(machine.about(next(free), Mode.EP11))


def test_refusals_are_kept_up_to_a_bound_and_the_rest_is_counted(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    session = peer.session(SLOT)
    for _ in range(300):
        assert peer.rv("C_Login", session, 1, None) == CKR.USER_NOT_LOGGED_IN
    kept, dropped = guest.keeper.refusals()
    assert (len(kept), dropped) == (256, 44)


def test_whoever_wants_to_know_is_told_of_every_refusal_with_the_hsm_as_it_was(machine: Machine) -> None:
    told: list[tuple[str, str, str | None, HsmState | None]] = []

    def note(guest: str, refusal: Refusal, hsm: ConfigurationData | None, state: HsmState | None) -> None:
        told.append((guest, refusal.code, None if hsm is None else str(hsm.apqn), state))

    guest = machine.guest(on_refusal=note)
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    session = peer.session(SLOT)
    for _ in range(300):
        assert peer.rv("C_Login", session, 1, None) == CKR.USER_NOT_LOGGED_IN
    guest.keeper.refusals()
    assert told == [("payments", "CKR_USER_NOT_LOGGED_IN", str(CRYPTO), HsmState.BOUND)] * 300


def test_a_closed_door_leaves_nothing(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    gate = guest.running_gate()
    guest.keeper.stop()
    assert is_gone(gate)
    assert peer.ended()
    assert list(guest.keeper.door.parent.iterdir()) == []
    guest.keeper.stop()


def test_only_the_owner_reaches_a_door(machine: Machine) -> None:
    before = os.umask(0)
    try:
        guest = machine.guest()
    finally:
        os.umask(before)
    assert guest.keeper.door.stat().st_mode & 0o777 == 0o600
    for directory in list(guest.keeper.door.parents)[:3]:
        assert directory.stat().st_mode & 0o777 == 0o700, directory


def test_a_door_that_a_dead_daemon_left_is_taken_over(machine: Machine) -> None:
    first = machine.guest()
    door = first.keeper.door
    kept = door.with_name("kept")
    door.rename(kept)
    first.keeper.stop()
    kept.rename(door)
    second = machine.guest()
    assert second.connect().call("C_GetSlotList", 0, 8)


# --- what a gate inherits


def test_a_gate_imports_nothing_from_where_the_daemon_is(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("resource", "keyvisor_firmware", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    guest = machine.guest()
    guest.associate()


def test_a_gate_inherits_no_more_than_it_needs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOFTHSM2_CONF", "LD_LIBRARY_PATH", "PYTHONSTARTUP", "KEYVISOR_STATE", "SECRET_TOKEN"):
        monkeypatch.setenv(name, "/nowhere")
    guest = machine.guest()
    guest.associate()
    gate = guest.running_gate()
    environ = Path(f"/proc/{gate}/environ").read_bytes().split(b"\0")
    names = {one.partition(b"=")[0].decode() for one in environ if one}
    assert names <= {"PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "COVERAGE_PROCESS_START"}
    opened = [os.readlink(path) for path in Path(f"/proc/{gate}/fd").iterdir()]
    assert sum(1 for name in opened if name.startswith("socket:")) == 3


# --- gates that do not start, lie or hang


def keeper_of(machine: Machine, start: Start) -> Guest:
    """A guest whose gate is another program."""
    (machine.home / "run").mkdir()
    guest = Guest(
        Gatekeeper("payments", machine.home / "run" / "door", machine.partitions, start), machine.token
    )
    machine.guests.append(guest)
    guest.keeper.attach(machine.about(CRYPTO, Mode.EP11))
    return guest


def program(source: str) -> Start:
    """A gate in so many words; `control` and `notices` are its sockets."""
    code = f"""
import socket, sys
control, notices = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
{source}
"""

    def start(*, control: int, notices: int, **_: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, str(control), str(notices)]
        return subprocess.Popen(command, pass_fds=(control, notices))

    return start


def refuse_to_start(**_: object) -> subprocess.Popen[bytes]:
    raise OSError("no more processes")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (refuse_to_start, "cannot be started: no more processes"),
        (program("sys.exit(3)"), "gate (ended|is gone)"),
        (program("control.recv(1 << 20); control.send(b'nonsense'); control.recv(1)"), "what no gate says"),
        (program("control.recv(1 << 20); control.send(b'{}'); control.recv(1)"), "what no gate says"),
        (
            program(
                'control.recv(1 << 20); control.send(b\'{"failed": {"03.0011": "why"}}\'); control.recv(1)'
            ),
            "^(why|the gate)",
        ),
    ],
)
def test_a_gate_that_cannot_be_had_is_said_so_and_the_hsm_stays_bound(
    start: Start, said: str, machine: Machine
) -> None:
    guest = keeper_of(machine, start)
    guest.keeper.bind(CRYPTO)
    for _ in range(2):
        with pytest.raises(PartitionUnusable, match=said):
            guest.keeper.associate(CRYPTO, guest.keys())
    guest.keeper.unbind(CRYPTO)


def test_a_gate_that_hangs_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_process, "_ANSWER_SECONDS", 0.2)
    guest = keeper_of(machine, program("control.recv(1 << 20); control.recv(1 << 20); control.recv(1)"))
    guest.keeper.bind(CRYPTO)
    with pytest.raises(PartitionUnusable, match="does not answer in time"):
        guest.keeper.associate(CRYPTO, guest.keys())
    assert not any("control, notices" in command_line(pid) for pid in children())


def test_a_gate_that_lies_does_not_take_the_daemon_along(machine: Machine) -> None:
    lies = "b'[]'", "b'\\xff'", "b'{\"at\": 1}'"
    source = f"""
control.recv(1 << 20)
control.send(b'{{"failed": {{}}}}')
for lie in ({", ".join(lies)}):
    notices.send(lie)
control.recv(1 << 20)
"""
    guest = keeper_of(machine, program(source))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.connect(str(guest.keeper.door))
            wait_for(lambda: any("notices.send" in command_line(pid) for pid in children()), "a gate runs")
            wait_for(
                lambda: not any("notices.send" in command_line(pid) for pid in children()), "it was ended"
            )
        break
    assert guest.keeper.refusals()[0] == []


def test_a_gate_that_ends_at_once_is_not_started_without_end(
    machine: Machine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 3600.0)
    starts: list[float] = []
    ends = program("sys.exit(3)")

    def start(**arguments: Any) -> subprocess.Popen[bytes]:
        starts.append(time.monotonic())
        return ends(**arguments)

    guest = keeper_of(machine, start)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.connect(str(guest.keeper.door))
        said: list[str] = []

        def pauses() -> bool:
            said.append(capfd.readouterr().err)
            return "times in a row; its door waits" in "".join(said)

        wait_for(pauses, "the door pauses")
        assert len(starts) <= module._PATIENCE + 1
        guest.keeper.stop()  # which does not wait for the pause


def test_every_call_of_the_module_after_a_kill_is_in_a_new_session(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    kill(guest.running_gate())
    assert peer.ended()
    again = guest.connect()
    assert again.rv("C_DigestInit", session, Mechanism(CKM.SHA256)) == CKR.SESSION_HANDLE_INVALID
    assert again.rv("C_GetTokenInfo", slot_of(ACCELERATOR)) == CKR.TOKEN_NOT_PRESENT
