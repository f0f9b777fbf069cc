"""The daemon asks a gate what the module behind an HSM can do: gates that run, do not run, died, or lie."""

from __future__ import annotations

import os
import signal

import pytest

from keyvisor_hsm.cryptoki import CKM
from keyvisor_hsm.errors import PartitionUnusable

from .conftest import ACCELERATOR, CRYPTO, SPARE, Machine, slot_of
from .test_gatekeeper import keeper_of, program


def test_a_gate_tells_what_its_applications_are_told(machine: Machine) -> None:
    """Of an associated HSM, and of a bound one, which has the scratch token."""
    guest = machine.guest()
    guest.associate()
    guest.keeper.bind(ACCELERATOR)
    peer = guest.connect()
    for apqn in (CRYPTO, ACCELERATOR):
        told = guest.keeper.mechanisms(apqn)
        assert [one.type for one in told] == sorted(peer.call("C_GetMechanismList", slot_of(apqn), 1024))
        (ecdsa,) = [one for one in told if one.type == CKM.ECDSA]
        info = peer.call("C_GetMechanismInfo", slot_of(apqn), int(CKM.ECDSA))
        assert tuple(info) == (ecdsa.min_key_size, ecdsa.max_key_size, ecdsa.flags)


def test_a_gate_is_started_to_be_asked(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    with pytest.raises(AssertionError, match="0 gates run"):
        guest.running_gate()
    assert guest.keeper.mechanisms(CRYPTO)
    assert guest.running_gate()


def test_a_gate_that_died_unnoticed_is_replaced_when_asked(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    for _ in range(4):
        os.kill(guest.gate(), signal.SIGKILL)
        assert guest.keeper.mechanisms(CRYPTO)


def test_an_hsm_that_is_not_bound_has_none(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    with pytest.raises(PartitionUnusable, match="not ready"):
        guest.keeper.mechanisms(SPARE)
    guest.keeper.unbind(CRYPTO)
    with pytest.raises(PartitionUnusable, match="not ready"):
        guest.keeper.mechanisms(CRYPTO)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"failed": {}}', "what no gate says"),
        (b'{"found": [[1, 2, 3]], "failed": null}', "what no gate says"),
        (b"[[[", "what no gate says"),
        (b'{"found": [], "failed": "the module lists no mechanisms"}', "lists no mechanisms"),
    ],
)
def test_a_gate_that_lies_is_ended(answer: bytes, said: str, machine: Machine) -> None:
    source = f"""
while control.recv(1 << 20).startswith(b'{{"hsms"'):
    control.send(b'{{"failed": {{}}}}')
control.send({answer!r})
control.recv(1)
"""
    guest = keeper_of(machine, program(source))
    guest.keeper.bind(CRYPTO)
    for _ in range(2):
        with pytest.raises(PartitionUnusable, match=said):
            guest.keeper.mechanisms(CRYPTO)


def test_a_closed_door_has_none(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    guest.keeper.stop()
    with pytest.raises(PartitionUnusable, match="door is closed"):
        guest.keeper.mechanisms(CRYPTO)
