"""Every limit of a guest, at the door of a real gate: just below it is served, past it is refused, and the rest goes on.

All limits are small for one guest, and the defaults hold for the guest beside it.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR
from keyvisor_hsm.master_keys import OperatorToken
from keyvisor_hsm.partitions import Partition, PartitionKeys

from .conftest import CRYPTO, SPARE, Guest, Machine, slot_of, wait_for
from .encoder import CallFailed, Mechanism, Needs, body, read_reply, sized, u64
from .in_process import Application, Bench, store_of
from .peer import Peer

SLOT: Final = slot_of(CRYPTO)
SMALL: Final = Limits(
    frame_options=64,
    frame_body=8192,
    frame_seconds=0.2,
    attributes=12,
    nesting=1,
    mechanisms=6,
    output=2048,
    attribute_output=1024,
    found_objects=3,
    connections=4,
    sessions=5,
    objects=9,
    partition_objects=7,
    operations_in_flight=2,
)
PUBLIC: Final = ((CKA.TOKEN, False), (CKA.PRIVATE, False))


@pytest.fixture(scope="module")
def guest(softhsm: Path, operator_token: OperatorToken, path: HotLoop | None) -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="kv-") as home:
        guest = Machine(Path(home), softhsm, operator_token, path is not None).guest("small", limits=SMALL)
        guest.associate()
        yield guest
        guest.leave()


@pytest.fixture
def small(guest: Guest) -> Iterator[Peer]:
    """An application of the guest with small limits, after those of the test before are gone."""
    with _alone(guest) as peer:
        yield peer


def _filled(guest: Guest) -> list[Peer]:
    """As many connections as there may be, once there is room for all."""
    found: list[Peer] = []

    def all_fit() -> bool:
        for peer in found:
            peer.close()
        found.clear()
        try:
            found.extend(Peer(guest.keeper.door) for _ in range(SMALL.connections))
        except OSError:
            return False
        return True

    wait_for(all_fit, "the connections of the test before are gone")
    return found


def _alone(guest: Guest) -> Peer:
    """A connection, after those of the test before are gone."""
    first, *others = _filled(guest)
    for peer in others:
        peer.close()
    return first


def data(peer: Peer, length: int) -> bytes:
    """A request whose body has `length` bytes."""
    request = body("C_SeedRandom", 1, b"")
    return body("C_SeedRandom", 1, bytes(length - len(request)))


# --- the protocol: past these the connection ends, before anything is kept


def ends(peer: Peer, head_or_frame: bytes) -> bool:
    peer.socket.sendall(head_or_frame)
    return peer.ended()


def test_frame_options(guest: Guest) -> None:
    small, other, *more = _filled(guest)
    content = body("C_GetInfo")
    small.socket.sendall(struct.pack(">III", 99, SMALL.frame_options, len(content)) + bytes(64) + content)
    small.receive(99)
    assert ends(small, struct.pack(">III", 1, SMALL.frame_options + 1, 8))
    assert other.call("C_GetInfo")
    for peer in (small, other, *more):
        peer.close()


def test_frame_body(small: Peer) -> None:
    assert small.exchange(data(small, SMALL.frame_body))
    assert ends(small, struct.pack(">III", 1, 0, SMALL.frame_body + 1))


def test_frame_seconds(small: Peer) -> None:
    small.socket.sendall(struct.pack(">III", 1, 0, 64) + b"half")
    assert small.ended()


def test_attributes(small: Peer) -> None:
    session = small.session(SLOT)
    template = [(CKA.LABEL, b"no such label")] * SMALL.attributes
    small.call("C_FindObjectsInit", session, template)
    small.call("C_FindObjectsFinal", session)
    small.send(body("C_FindObjectsInit", session, [*template, (CKA.ID, b"")]))
    assert small.ended()


def nested(depth: int) -> list[tuple[int, Any]]:
    return [(CKA.WRAP_TEMPLATE, nested(depth - 1))] if depth else [(CKA.ENCRYPT, True)]


def test_nesting(small: Peer) -> None:
    session = small.session(SLOT)
    small.exchange(body("C_FindObjectsInit", session, nested(SMALL.nesting)))
    small.send(body("C_FindObjectsInit", session, nested(SMALL.nesting + 1)))
    assert small.ended()


def test_mechanisms(small: Peer) -> None:
    session = small.session(SLOT)
    small.exchange(body("C_FindObjectsInit", session, [(CKA.ALLOWED_MECHANISMS, (1,) * SMALL.mechanisms)]))
    small.send(body("C_FindObjectsInit", session, [(CKA.ALLOWED_MECHANISMS, (1,) * (SMALL.mechanisms + 1))]))
    assert small.ended()


# --- answers


def test_output(small: Peer) -> None:
    session = small.session(SLOT, login=True)
    assert len(small.call("C_GenerateRandom", session, SMALL.output)) == SMALL.output
    assert small.rv("C_GenerateRandom", session, SMALL.output + 1) == CKR.ARGUMENTS_BAD
    key = small.aes_key(session)
    small.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    assert small.call("C_Encrypt", session, bytes(SMALL.output + 16), 1 << 20) == Needs(SMALL.output + 16)
    assert len(small.call("C_Encrypt", session, bytes(SMALL.output), 1 << 20)) == SMALL.output


def test_attribute_output(small: Peer) -> None:
    session = small.session(SLOT)
    for length, fits in ((SMALL.attribute_output, True), (SMALL.attribute_output + 1, False)):
        key = small.clear_key(session, bytes(16), (CKA.LABEL, bytes(length)))
        answers, rv = small.call("C_GetAttributeValue", session, key, [(CKA.LABEL, 1 << 20)])
        assert (answers[0].value is not None) is fits
        assert rv == (CKR.OK if fits else CKR.BUFFER_TOO_SMALL)


def test_found_objects(small: Peer) -> None:
    session = small.session(SLOT)
    made = {small.clear_key(session, bytes(16)) for _ in range(SMALL.found_objects + 1)}
    small.call("C_FindObjectsInit", session, [])
    first = small.call("C_FindObjects", session, 1000)
    rest = small.call("C_FindObjects", session, 1000)
    assert (len(first), len(rest)) == (SMALL.found_objects, 1)
    assert made == {*first, *rest}


# --- counts


def test_connections(guest: Guest) -> None:
    peers = _filled(guest)
    with pytest.raises(OSError):  # noqa: PT011 - closed before or while it begins
        Peer(guest.keeper.door)
    assert all(peer.call("C_GetInfo") for peer in peers)
    for peer in peers:
        peer.close()


def test_sessions(small: Peer) -> None:
    opened = [small.session(SLOT) for _ in range(SMALL.sessions)]
    assert small.rv("C_OpenSession", SLOT, 6) == CKR.SESSION_COUNT
    small.call("C_CloseSession", opened[0])
    small.session(SLOT)


def test_objects(machine: Machine) -> None:
    """Handles are kept until their objects or the sessions end, so a search can run out of them too."""
    guest = machine.guest(limits=dataclasses.replace(SMALL, partition_objects=100, objects=3))
    guest.associate()
    peer, other = guest.connect(), guest.connect()
    session, theirs = peer.session(SLOT, login=True), other.session(SLOT, login=True)
    made = [peer.aes_key(session, (CKA.TOKEN, True)) for _ in range(3)]
    template = [(CKA.VALUE_LEN, 16), (CKA.TOKEN, True)]
    right = ("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), template)
    assert peer.rv(*right) == CKR.HOST_MEMORY
    assert len(other.find(theirs)) == 3  # what could not be named was not left behind
    peer.call("C_DestroyObject", session, made[0])
    assert peer.rv(*right) == CKR.OK


# --- objects of a partition


def makes(peer: Peer, session: int, key: int) -> dict[str, Callable[[], int]]:
    """The calls that make an object, each with its CK_RV."""
    one = [(CKA.TOKEN, True), (CKA.PRIVATE, False), (CKA.VALUE_LEN, 16)]
    clear = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x1F), (CKA.TOKEN, False), (CKA.PRIVATE, False)]
    pair = [(CKA.TOKEN, False), (CKA.PRIVATE, False)]
    wrap = Mechanism(CKM.AES_KEY_WRAP)
    wrapped = peer.call("C_WrapKey", session, wrap, key, key, 64)
    ecdh = Mechanism(CKM.ECDH1_DERIVE, u64(1) + sized(b"") + sized(bytes(65)))
    return {
        "C_CreateObject": lambda: peer.rv("C_CreateObject", session, [*clear, (CKA.VALUE, bytes(16))]),
        "C_CopyObject": lambda: peer.rv("C_CopyObject", session, key, [(CKA.LABEL, b"copy")]),
        "C_GenerateKey": lambda: peer.rv("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), one),
        "C_GenerateKeyPair": lambda: peer.rv(
            "C_GenerateKeyPair",
            session,
            Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN),
            [*pair, (CKA.MODULUS_BITS, 1024)],
            pair,
        ),
        "C_UnwrapKey": lambda: peer.rv("C_UnwrapKey", session, wrap, key, wrapped, clear),
        "C_DeriveKey": lambda: peer.rv("C_DeriveKey", session, ecdh, key, [*clear, (CKA.VALUE_LEN, 16)]),
    }


def filled(peer: Peer, session: int, count: int) -> list[int]:
    """The handles of that many keys, each other one kept in the token."""
    flags = [
        (CKA.ENCRYPT, False),
        (CKA.DECRYPT, False),
        (CKA.WRAP, True),
        (CKA.UNWRAP, True),
        (CKA.DERIVE, True),
    ]
    more = [(CKA.VALUE_LEN, 16), (CKA.PRIVATE, False), (CKA.EXTRACTABLE, True), *flags]
    generate = Mechanism(CKM.AES_KEY_GEN)
    return [
        peer.call("C_GenerateKey", session, generate, [(CKA.TOKEN, bool(number % 2)), *more])
        for number in range(count)
    ]


def test_partition_objects(machine: Machine) -> None:
    guest = machine.guest(limits=SMALL)
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    keys = filled(peer, session, SMALL.partition_objects)
    making = makes(peer, session, keys[0])
    assert {name: make() for name, make in making.items()} == dict.fromkeys(making, CKR.DEVICE_MEMORY)
    peer.call("C_DestroyObject", session, keys[-1])
    assert making["C_GenerateKeyPair"]() == CKR.DEVICE_MEMORY  # it makes two
    assert making["C_CopyObject"]() == CKR.OK
    assert making["C_CopyObject"]() == CKR.DEVICE_MEMORY
    peer.call("C_CloseSession", session)  # session objects go with it
    session = peer.session(SLOT, login=True)
    made = len(peer.find(session))
    assert made < SMALL.partition_objects
    filled(peer, session, SMALL.partition_objects - made)
    assert makes(peer, session, peer.find(session)[0])["C_GenerateKey"]() == CKR.DEVICE_MEMORY


def test_partition_objects_are_counted_over_connections_spares_and_restarts(machine: Machine) -> None:
    guest = machine.guest(limits=SMALL)
    guest.associate(CRYPTO)
    guest.associate(SPARE)
    peers = [guest.connect(), guest.connect()]
    first = peers[0].session(SLOT, login=True)
    second = peers[1].session(slot_of(SPARE), login=True)
    token = (CKA.TOKEN, True)
    for _ in range(3):
        peers[0].clear_key(first, bytes(16), token)
        peers[1].clear_key(second, bytes(16), token)
    peers[0].clear_key(first, bytes(16))
    again = ("C_GenerateKey", second, Mechanism(CKM.AES_KEY_GEN), [(CKA.VALUE_LEN, 16)])
    assert peers[1].rv(*again) == CKR.DEVICE_MEMORY
    guest.keeper.unbind(CRYPTO)
    guest.keeper.unbind(SPARE)
    guest.associate(CRYPTO)
    session = peers[0].session(SLOT, login=True)
    peers[0].clear_key(session, bytes(16))
    full = ("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), [(CKA.VALUE_LEN, 16)])
    assert peers[0].rv(*full) == CKR.DEVICE_MEMORY


@pytest.fixture
def bench(softhsm: Path, tmp_path: Path, path: HotLoop | None) -> Iterator[Bench]:
    partition = Partition.open(tmp_path / "p", PartitionKeys("p", b"user pin", b"so pin"), softhsm)
    bench = Bench(store_of(partition), compiled=path)
    bench.grant(HsmState.ASSOCIATED)
    yield bench
    partition.close()


def create(application: Application, session: int, *, token: bool) -> int:
    return application.rv(
        "C_CreateObject", session, [(CKA.CLASS, 0), (CKA.PRIVATE, False), (CKA.TOKEN, token)]
    )


def test_what_others_destroyed_meanwhile_makes_room(bench: Bench) -> None:
    """The module is asked again before anything is refused, and otherwise once."""
    application = bench.connect(dataclasses.replace(DEFAULTS, partition_objects=3))
    session = application.session(login=True)
    assert [create(application, session, token=True) for _ in range(3)] == [CKR.OK] * 3
    assert bench.calls.made.count("C_FindObjectsInit") == 1
    real = next(iter(application.connection.handles.objects.values())).real
    store = bench.store
    bench.calls["C_DestroyObject"](
        next(iter(application.connection.handles.sessions.values())).ticket.real, real
    )
    assert [create(application, session, token=True) for _ in range(2)] == [CKR.OK, CKR.DEVICE_MEMORY]
    assert store.owners == {}


def test_a_call_that_fails_takes_no_room(bench: Bench) -> None:
    application = bench.connect(dataclasses.replace(DEFAULTS, partition_objects=1))
    session = application.session(login=True)
    for _ in range(3):
        assert application.rv("C_CreateObject", session, [(CKA.CLASS, 0x7777)]) not in (
            CKR.OK,
            CKR.DEVICE_MEMORY,
        )
    assert create(application, session, token=False) == CKR.OK
    assert create(application, session, token=False) == CKR.DEVICE_MEMORY


# --- operations in flight


def test_operations_in_flight(machine: Machine) -> None:
    """Waits that nobody ends hold up neither the connection's other calls nor its end."""
    guest = machine.guest(limits=SMALL)
    guest.associate()
    peer = guest.connect()
    waiting = [peer.send(body("C_WaitForSlotEvent", 0)) for _ in range(SMALL.operations_in_flight + 1)]
    with pytest.raises(CallFailed, match=f"{int(CKR.HOST_MEMORY):#x}"):
        read_reply("C_WaitForSlotEvent", peer.receive(waiting[-1]))
    session = peer.session(SLOT, login=True)
    assert len(peer.encrypt(session, peer.aes_key(session), bytes(16))) == 16
    guest.keeper.unbind(CRYPTO)
    answered, _, length = struct.unpack(">III", peer.socket.recv(12, socket.MSG_WAITALL))
    assert answered in waiting[:-1]  # whichever of them looked first
    assert read_reply("C_WaitForSlotEvent", peer.socket.recv(length, socket.MSG_WAITALL)) == SLOT


def test_an_application_that_dies_while_all_its_calls_wait_is_cleared_away(machine: Machine) -> None:
    """Found by the fuzz target `gate`: whoever reads must never wait itself."""
    guest = machine.guest(limits=dataclasses.replace(SMALL, connections=1))
    peer = guest.connect()
    for _ in range(SMALL.operations_in_flight + 3):
        peer.send(body("C_WaitForSlotEvent", 0))
    peer.close()

    def served() -> bool:
        try:
            with Peer(guest.keeper.door):
                return True
        except OSError:
            return False

    wait_for(served, "the dead application's connection is gone")


# --- all of them


def test_every_limit_has_its_test() -> None:
    names = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(Limits.__dataclass_fields__) <= names


def test_limits_are_told_as_they_are() -> None:
    assert Limits.from_json(SMALL.to_json()) == SMALL
    for wrong in ("{}x", "[]", '{"connection": 1}', "1"):
        with pytest.raises((ValueError, TypeError)):
            Limits.from_json(wrong)


def test_a_guests_limits_are_its_own(machine: Machine) -> None:
    one, other = machine.guest("one", limits=Limits(sessions=1)), machine.guest("other")
    for guest, rv in ((one, CKR.SESSION_COUNT), (other, CKR.OK)):
        guest.associate()
        peer = guest.connect()
        peer.session(SLOT)
        assert peer.rv("C_OpenSession", SLOT, 6) == rv
        guest.keeper.unbind(CRYPTO)


def test_a_connection_has_the_limits_it_is_given() -> None:
    assert Connection("payments", {}, SMALL).handles.limits is SMALL
