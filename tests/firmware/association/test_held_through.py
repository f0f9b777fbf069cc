"""A case asks its calls of the rule that the firmware tells the gate: where two rules allow the same, of the first."""

from __future__ import annotations

import pytest

from keyvisor_firmware.association.hsms import as_policy_sees
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_policy import parse
from keyvisor_policy.request_trials import held_through

from ..machine import ACCELERATOR, HSM, SIGNING, SPARE, Machine

RULES = [
    "{name: first, secret: payments-signing, hsm: {serial: 93AADFK719460083}}",
    "{name: second, secret: payments-signing, hsm: {}, count: all}",
    "{name: fast, hsm: {mode: accel, generation: '>=CEX4'}}",
    "{name: faster, hsm: {mode: accel}}",
]


@pytest.mark.parametrize("turn", [1, -1])
def test_the_rule_that_a_case_asks_is_the_one_that_the_gate_is_told(machine: Machine, turn: int) -> None:
    text = "version: 1\nassociations:\n" + "".join(f"- {rule}\n" for rule in RULES[::turn])
    there = (HSM, SPARE, ACCELERATOR)
    guest = machine.guest("payments", *there, secrets=("payments-signing",))
    machine.firmware.set_policy(guest.id, PolicyRow("policy.yaml", text))
    for apqn in there:
        machine.firmware.bind(guest.id, apqn)
    for apqn in there[:2]:
        machine.firmware.associate(guest.id, apqn, SIGNING)
    ((_, told),) = machine.gates.controlled.values()
    policy = parse(text)
    seen = {str(view.data.apqn): as_policy_sees(view.data) for view in machine.firmware.list_hsms(guest.id)}
    asked = {
        str(apqn): {
            held_through(policy, seen[str(apqn)], rule).name for rule in policy.rules_for(seen[str(apqn)])
        }
        for apqn in there
    }
    assert asked == {apqn: {rule} for apqn, rule in told.items()}
