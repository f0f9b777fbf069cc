"""part2_T12: the association secret and what is derived from it never reach a guest, a log, or a process's arguments."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest

from keyvisor_firmware.broker.calls import CALLS
from keyvisor_hsm.cryptoki import CKA
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys

from .conftest import ACCELERATOR, CRYPTO, OTHER_SECRET, SECRET, SPARE, Guest, Machine, slot_of
from .peer import Peer
from .sample_calls import arguments

SLOT = slot_of(CRYPTO)


def forms(secret: bytes) -> list[bytes]:
    """A value as it might slip out."""
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret),
        secret[::-1],
    ]


def forbidden(guest: Guest) -> dict[str, list[bytes]]:
    """What must not be seen anywhere, in every form."""
    found = {}
    for name, secret in (("first", SECRET), ("second", OTHER_SECRET)):
        keys = guest.keys(secret)
        found[f"{name} association secret"] = forms(secret)
        found[f"{name} user PIN"] = [*forms(keys.user_pin), bytes.fromhex(keys.user_pin.decode())]
        found[f"{name} SO PIN"] = [*forms(keys.so_pin), bytes.fromhex(keys.so_pin.decode())]
    return found


def assert_nowhere(guest: Guest, where: str, content: bytes) -> None:
    for what, values in forbidden(guest).items():
        assert not any(value in content for value in values), f"the {what} is in {where}"


def make_every_call(peer: Peer) -> None:
    """All calls of the table, well formed, on an associated HSM and on an accelerator."""
    for slot in (SLOT, slot_of(ACCELERATOR)):
        for call in CALLS:
            if call.name != "C_Finalize":
                session = peer.session(slot)
                peer.rv("C_Login", session, 1, None)
                key = peer.clear_key(session, bytes(16))
                peer.rv(call.name, *arguments(call, session, slot, handle=key))
                peer.rv("C_CloseAllSessions", slot)


def read_all_attributes(peer: Peer) -> None:
    """Every attribute of every object, with room for its value."""
    session = peer.session(SLOT, login=True)
    peer.ec_key_pair(session, token=True)
    peer.aes_key(session, (CKA.TOKEN, True))
    for handle in peer.find(session):
        for type_ in CKA:
            peer.rv("C_GetAttributeValue", session, handle, [(type_, 4096)])


def test_part2_T12_nothing_that_a_guest_gets_holds_a_secret(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    guest = machine.guest()
    guest.associate()
    guest.keeper.bind(ACCELERATOR)
    peer = guest.connect()
    make_every_call(peer)
    read_all_attributes(peer)
    peer.socket.sendall(bytes(64))  # and closes the connection with an error
    assert peer.ended()

    guest.associate(SPARE, OTHER_SECRET)
    right = guest.keys()
    guest.keeper.unbind(CRYPTO)
    guest.keeper.bind(CRYPTO)
    with pytest.raises(PartitionUnusable) as refused:
        guest.keeper.associate(CRYPTO, PartitionKeys(right.directory, right.so_pin, right.user_pin))
    os.kill(guest.gate(), signal.SIGKILL)
    again = guest.connect()
    again.call("C_GetSlotList", 0, 8)

    assert len(peer.received) > 20_000
    assert_nowhere(guest, "a reply", bytes(peer.received + again.received))
    assert_nowhere(guest, "an error", repr(refused.value).encode() + str(refused.value.__cause__).encode())
    told, _ = guest.keeper.refusals()
    assert len(told) > 12
    assert_nowhere(guest, "a refusal", repr(told).encode())
    guest.keeper.stop()
    out, err = capfd.readouterr()
    assert "a connection was closed" in err
    assert_nowhere(guest, "a log line", (out + err).encode())


def test_part2_T12_no_gate_has_a_secret_in_its_arguments_or_environment(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    gate = guest.running_gate()
    for name in ("cmdline", "environ"):
        content = Path(f"/proc/{gate}/{name}").read_bytes()
        assert len(content) > 10
        assert_nowhere(guest, f"/proc/PID/{name}", content)
    assert guest.keys().directory.encode() not in Path(f"/proc/{gate}/cmdline").read_bytes()


def test_part2_T12_no_file_holds_a_secret(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    guest.keeper.bind(ACCELERATOR)
    peer = guest.connect()
    read_all_attributes(peer)
    files = [path for path in machine.home.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert_nowhere(guest, path.name, path.read_bytes())


def test_part2_T12_the_test_would_notice(machine: Machine) -> None:
    """The broken twin: each of the values, in each of its forms."""
    guest = machine.guest()
    for values in forbidden(guest).values():
        for value in values:
            with pytest.raises(AssertionError, match="is in the haystack"):
                assert_nowhere(guest, "the haystack", b"hay " + value + b" hay")


def test_a_name_of_a_partition_tells_nothing_of_its_keys(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    (directory,) = machine.partitions.iterdir()
    assert directory.name == guest.keys().directory
    assert_nowhere(guest, "the directory's name", directory.name.encode())
