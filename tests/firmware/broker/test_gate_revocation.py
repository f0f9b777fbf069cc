"""An HSM that is taken away while a guest works with it (part2_T8), at the door of a real gate."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from keyvisor_firmware.broker.codec import pack_error
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import CRYPTO, SPARE, Guest, Machine, slot_of, wait_for
from .encoder import CallFailed, Mechanism, body, read_reply
from .peer import Peer

SLOT = slot_of(CRYPTO)
RSA_4096 = [(CKA.TOKEN, True), (CKA.MODULUS_BITS, 4096), (CKA.LABEL, b"rsa")]


def ticks(pid: int) -> int:
    """Processor time that a process has used, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_part2_T8_an_unbind_between_init_and_update(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    key = peer.clear_key(session, bytes(32), (CKA.KEY_TYPE, 0x10), (CKA.SIGN, True))
    peer.call("C_SignInit", session, Mechanism(CKM.SHA256_HMAC), key)
    peer.call("C_SignUpdate", session, b"first part")
    guest.keeper.unbind(CRYPTO)
    assert peer.rv("C_SignUpdate", session, b"second part") == CKR.SESSION_HANDLE_INVALID
    assert peer.rv("C_SignFinal", session, 64) == CKR.SESSION_HANDLE_INVALID
    assert peer.rv("C_OpenSession", SLOT, 6) == CKR.TOKEN_NOT_PRESENT


def test_part2_T8_bound_again_to_the_same_keys_nothing_goes_on(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    key = peer.clear_key(session, bytes(32), (CKA.KEY_TYPE, 0x10), (CKA.SIGN, True))
    peer.call("C_SignInit", session, Mechanism(CKM.SHA256_HMAC), key)
    guest.keeper.unbind(CRYPTO)
    guest.associate()
    assert peer.rv("C_SignUpdate", session, b"second part") == CKR.SESSION_HANDLE_INVALID
    fresh = peer.session(SLOT)
    assert peer.call("C_GetSessionInfo", fresh)[1] == 2  # the login is gone too
    assert peer.rv("C_SignInit", fresh, Mechanism(CKM.SHA256_HMAC), key) == CKR.KEY_HANDLE_INVALID


def withheld(guest: Guest, peer: Peer) -> bool:
    """Take the HSM away while the module makes a key. False if the key was ready before."""
    session = peer.session(SLOT, login=True)
    gate = guest.running_gate()
    before = ticks(gate)
    template = [(CKA.TOKEN, True), (CKA.LABEL, b"rsa")]
    code = peer.send(
        body("C_GenerateKeyPair", session, Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN), RSA_4096, template)
    )
    wait_for(lambda: ticks(gate) >= before + 3, "the module works")
    guest.keeper.unbind(CRYPTO)
    reply = peer.receive(code)
    if reply == pack_error(CKR.DEVICE_REMOVED):
        return True
    read_reply("C_GenerateKeyPair", reply)
    return False


def test_part2_T8_a_key_that_is_made_while_the_hsm_is_taken_away(machine: Machine) -> None:
    guest = machine.guest()
    ready = 0
    for _ in range(10):  # now and then two primes are found at once
        guest.associate()
        peer = guest.connect()
        if withheld(guest, peer):
            break
        ready += 1
    else:
        pytest.fail("ten keys in a row were ready at once")
    guest.associate()
    assert len(peer.find(peer.session(SLOT, login=True), (CKA.LABEL, b"rsa"))) == 2 * ready
    refusal = guest.keeper.refusals()[0][-1]
    assert (refusal.call, refusal.code, refusal.apqn) == (
        "C_GenerateKeyPair",
        "CKR_DEVICE_REMOVED",
        "03.0011",
    )


def test_an_unbind_does_not_wait_for_a_call_and_others_go_on(machine: Machine) -> None:
    """The daemon is answered while a call is still inside the module, and a spare with the same keys serves on."""
    guest = machine.guest()
    guest.associate(CRYPTO)
    guest.associate(SPARE)
    busy, other = guest.connect(), guest.connect()
    session = other.session(slot_of(SPARE), login=True)
    key = other.aes_key(session)
    begun = busy.session(SLOT, login=True)
    gate = guest.running_gate()
    before = ticks(gate)
    code = busy.send(
        body("C_GenerateKeyPair", begun, Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN), RSA_4096, [(CKA.TOKEN, False)])
    )
    wait_for(lambda: ticks(gate) >= before + 3, "the module works")
    guest.keeper.unbind(CRYPTO)
    assert len(other.encrypt(session, key, bytes(16))) == 16
    busy.receive(code)
    assert len(other.encrypt(session, key, bytes(16))) == 16


# What an application can be told while its HSM comes and goes.
_COMES_AND_GOES = {
    CKR.SESSION_HANDLE_INVALID,
    CKR.TOKEN_NOT_PRESENT,
    CKR.DEVICE_REMOVED,
    CKR.USER_NOT_LOGGED_IN,
    CKR.KEY_HANDLE_INVALID,
    CKR.OBJECT_HANDLE_INVALID,
}


def test_applications_that_work_while_the_hsm_comes_and_goes(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    """No call meets a partition that was closed meanwhile, whichever way the threads of the gate run."""
    guest = machine.guest()
    guest.associate()
    gate = guest.gate()
    seen: set[int] = set()
    done = threading.Event()
    faults: list[BaseException] = []

    def work(peer: Peer) -> None:
        try:
            while not done.is_set():
                try:
                    session = peer.session(SLOT, login=True)
                    key = peer.aes_key(session, (CKA.TOKEN, True))
                    assert len(peer.encrypt(session, key, bytes(16))) == 16
                    peer.find(session)
                    peer.call("C_DestroyObject", session, key)
                    peer.call("C_CloseSession", session)
                    seen.add(0)
                except CallFailed as failed:
                    seen.add(failed.rv)
                    peer.rv("C_CloseAllSessions", SLOT)
        except BaseException as fault:  # told by the test's own thread
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(guest.connect(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        guest.keeper.unbind(CRYPTO)
        guest.associate(secret=bytes((number % 2,)) * 32)
    wait_for(lambda: 0 in seen, "some work was done")
    done.set()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert seen <= _COMES_AND_GOES | {0}
    assert guest.running_gate() == gate
    assert capfd.readouterr().err == ""


def test_binding_in_a_loop_does_not_fill_the_gates_memory(machine: Machine) -> None:
    """What a module's instance maps is never given back, so instances are used again."""
    guest = machine.guest()
    guest.associate()
    maps = Path(f"/proc/{guest.gate()}/maps")
    for _ in range(3):
        guest.keeper.unbind(CRYPTO)
        guest.associate()
    before = len(maps.read_text().splitlines())
    for _ in range(15):
        guest.keeper.unbind(CRYPTO)
        guest.associate()
    assert len(maps.read_text().splitlines()) < before + 25  # each instance takes five or more
