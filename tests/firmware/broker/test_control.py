"""What the daemon and a gate say to each other."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterator

import pytest

from keyvisor_firmware.broker.control import (
    MAX_BECAUSE,
    MAX_LOOKED_AT,
    MAX_MESSAGE,
    HsmPicture,
    Mechanism,
    Mechanisms,
    MechanismsOf,
    PartitionPlace,
    Picture,
    Ready,
    Refusal,
    ask,
    receive_mechanisms,
    receive_ready,
    receive_refusal,
    receive_request,
    send,
    within_bounds,
)
from keyvisor_firmware.broker.control_points_file import points_file, read_points
from keyvisor_firmware.broker.errors import Because, GateEnded, GateError
from keyvisor_hsm.cryptoki import CKM
from keyvisor_hsm.cryptoki.mechanism_list import MAX_MECHANISMS
from keyvisor_policy import parse

PLACE = PartitionPlace("/state/partitions/ab", "user pin", "so pin")
HSM = HsmPicture("03.0011", 0x30011, 0, "ep11", "CEX8", "93AADFK719460083", (8, 3), 0x102, 1, PLACE)
REFUSAL = Refusal("2026-11-23T20:00:00.000+00:00", None, "C_Sign", "CKR_USER_NOT_LOGGED_IN", "why")

BECAUSE = Because("no raw rsa", "policy.yaml:12", 3, {"CKA_MODULUS_BITS": "1024"}, "payments")

Channels = tuple[socket.socket, socket.socket]


@pytest.fixture
def channels() -> Iterator[Channels]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_picture_arrives_as_it_was_sent(channels: Channels) -> None:
    picture = Picture((HSM, HsmPicture("05.0011", 0x50011, 1, "accel", "CEX7", "x" * 16, (7, 0), 0, 0, None)))
    ask(channels[0], picture)
    assert receive_request(channels[1]) == (picture, None)


def test_control_points_arrive_beside_a_picture_that_names_them(channels: Channels) -> None:
    """In a file that neither side can change any more, however long it is."""
    rules = "".join(f"    - {{name: point {n}, deny: {{mechanism: CKM_MD5}}}}\n" for n in range(5000))
    points = parse(f"version: 1\nrequests:\n  rules:\n{rules}").control_points
    picture = Picture((dataclasses.replace(HSM, rule=0),), points.digest.hex())
    file = points_file(points)
    ask(channels[0], picture, file)
    os.close(file)
    received = receive_request(channels[1])
    assert received is not None
    there, descriptor = received
    assert there == picture
    assert descriptor is not None
    assert read_points(descriptor).digest == points.digest
    assert read_points(descriptor).decide("C_DigestInit", CKM.MD5, None, None, None).allowed is False
    for change in (lambda: os.write(descriptor, b"{}"), lambda: os.ftruncate(descriptor, 0)):
        with pytest.raises(OSError, match="not permitted"):
            change()
    os.close(descriptor)


def test_a_question_and_its_answer_arrive_as_they_were_sent(channels: Channels) -> None:
    ask(channels[0], MechanismsOf(0x30011))
    assert receive_request(channels[1]) == (MechanismsOf(0x30011), None)
    for answer in (Mechanisms((Mechanism(0x1041, 112, 521, 2**64 - 1),)), Mechanisms((), "why not")):
        send(channels[1], answer)
        assert receive_mechanisms(channels[0]) == answer


def test_as_many_mechanisms_as_a_gate_can_list_are_one_message(channels: Channels) -> None:
    most = Mechanisms((Mechanism(*[2**64 - 1] * 4),) * MAX_MECHANISMS)
    send(channels[1], most)
    assert receive_mechanisms(channels[0]) == most


@pytest.mark.parametrize(
    "data",
    [
        b'{"failed": null}',
        b'{"failed": null, "found": 7}',
        b'{"failed": null, "found": [[1, 2, 3]]}',
        b'{"failed": null, "found": [[1, 2, 3, 4]]}',
        b'{"failed": null, "found": [[1, 2, 3, 4, 5]]}',
        b'{"failed": null, "found": [[1, 2, 3, 4, true, 6]]}',
        b'{"failed": null, "found": [[1, 2, 3, -1, true]]}',
        b'{"failed": null, "found": [[1, 2, 3, 18446744073709551616, true]]}',
        b'{"failed": null, "found": [[1, 2, 3, true, true]]}',
        b'{"failed": null, "found": [[1, 2, 3, "4", true]]}',
        b'{"failed": null, "found": [[1, 2, 3, 4.0, true]]}',
        b'{"failed": null, "found": [{"type": 1}]}',
    ],
)
def test_a_list_of_mechanisms_is_not_taken_on_trust(data: bytes, channels: Channels) -> None:
    channels[1].send(data)
    with pytest.raises(GateError, match="says what no gate says"):
        receive_mechanisms(channels[0])


def test_messages_are_kept_apart(channels: Channels) -> None:
    for number in range(3):
        send(channels[1], Ready({"03.0011": str(number)}))
    assert [receive_ready(channels[0]).failed for _ in range(3)] == [{"03.0011": str(n)} for n in range(3)]


def test_a_refusal_arrives_as_it_was_sent(channels: Channels) -> None:
    send(channels[1], REFUSAL)
    assert receive_refusal(channels[0]) == REFUSAL
    with pytest.raises(BlockingIOError):
        receive_refusal(channels[0])


def test_what_a_control_point_decided_about_arrives_with_its_refusal(channels: Channels) -> None:
    for because in (BECAUSE, Because("read only", "profile read-only")):
        told = dataclasses.replace(REFUSAL, because=because)
        send(channels[1], told)
        assert receive_refusal(channels[0]) == told


def test_what_travels_of_a_control_point_is_bounded(channels: Channels) -> None:
    """Its texts are an application's: neither the gate's message nor the daemon's record grows with them."""
    long = "\N{OLD PERSIAN SIGN A}" * 100_000  # JSON takes twelve bytes for each
    because = Because(long, long, 3, {f"{n} {long}": long for n in range(1000)}, long)
    cut = within_bounds(because)
    assert len(cut.template) == MAX_LOOKED_AT
    assert {len(text) for text in (cut.point, cut.origin, *cut.template, *cut.template.values())} == {
        MAX_BECAUSE
    }
    told = dataclasses.replace(REFUSAL, reason=long[:4096], because=cut)
    assert len(json.dumps(dataclasses.asdict(told))) < MAX_MESSAGE


@pytest.mark.parametrize(
    "because",
    [
        7,
        [],
        "x",
        {},
        {"point": "p", "origin": "o", "mechanism": -1, "template": {}, "rule": None},
        {"point": "p", "origin": "o", "mechanism": "3", "template": {}, "rule": None},
        {"point": "p", "origin": "o", "mechanism": 3, "template": [], "rule": None},
    ],
)
def test_what_a_gate_says_of_a_control_point_is_not_taken_on_trust(
    because: object, channels: Channels
) -> None:
    channels[1].send(json.dumps({**dataclasses.asdict(REFUSAL), "because": because}).encode())
    with pytest.raises(GateError, match="says what no gate says"):
        receive_refusal(channels[0])


def test_the_pins_are_in_no_repr() -> None:
    assert "pin" not in repr(Picture((HSM,))).replace("partition", "")


def test_the_end_of_the_daemon_is_no_picture(channels: Channels) -> None:
    channels[0].close()
    assert receive_request(channels[1]) is None


def test_the_end_of_a_gate_is_told_from_its_silence(channels: Channels) -> None:
    channels[0].settimeout(0.02)
    with pytest.raises(GateError, match="in time") as silent:
        receive_ready(channels[0])
    assert not isinstance(silent.value, GateEnded)
    channels[1].close()
    with pytest.raises(GateEnded):
        receive_ready(channels[0])
    assert receive_refusal(channels[0]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"failed": 7}',
        b'{"failed": [1]}',
        b'{"at": 1, "call": 2}',
        b"[" * 100_000,
    ],
)
def test_what_a_gate_says_is_not_taken_on_trust(data: bytes, channels: Channels) -> None:
    """A gate works on a guest's bytes; one that was taken over must not take the daemon along."""
    for receive in (receive_ready, receive_refusal, receive_mechanisms):
        channels[1].send(data)
        with pytest.raises(GateError, match="says what no gate says"):
            receive(channels[0])


def test_what_a_gate_tells_is_text(channels: Channels) -> None:
    channels[1].send(b'{"at": [1], "apqn": {}, "call": 7, "code": null, "reason": 1.5, "more": 1}')
    assert receive_refusal(channels[0]) == Refusal("[1]", "{}", "7", "None", "1.5")
    channels[1].send(b'{"failed": {"03.0011": ["x"]}}')
    assert receive_ready(channels[0]) == Ready({"03.0011": "['x']"})
