"""What is missing: each step of the way has its own answer, and the last one is nothing."""

from __future__ import annotations

from keyvisor_firmware.association.missing import NOTHING
from keyvisor_firmware.state.records import PolicyRow

from ..machine import ACCELERATOR, HSM, SIGNING, SPARE, Machine, policy
from ..simulator import Call


def missing(machine: Machine, apqn: str | None = str(HSM)) -> str:
    guest = machine.firmware.list_guests()[0].name
    machine.gates.refused[guest] = [
        Call("2026-02-03T12:00:00.000+00:00", apqn, "C_GenerateKey", "CKR_X", "because")
    ]
    instance = next(i for i in machine._instances() if i.name == guest)
    ((view,), dropped) = machine.firmware.refusals(instance.id)
    assert (view.call.reason, dropped) == ("because", 0)
    return view.missing


def test_each_step_of_the_way(machine: Machine) -> None:
    guest = machine.guest("payments", HSM)
    firmware = machine.firmware
    assert "not bound" in missing(machine)
    firmware.bind(guest.id, HSM)
    assert "no policy is registered" in missing(machine)
    firmware.set_policy(guest.id, policy("payments-signing", hsm="{serial: 93AADFK719460099}"))
    assert "`93AADFK719460099` wanted" in missing(machine)
    firmware.set_policy(guest.id, policy("payments-signing"))
    assert "rule `rule-of-payments-signing` matches" in missing(machine)
    assert "`payments-signing` is not in the store" in missing(machine)
    firmware.add_secret(guest.id, machine.request(guest, "payments-signing"))
    assert "apply the policy" in missing(machine)
    firmware.associate(guest.id, HSM, SIGNING)
    assert missing(machine) == NOTHING


def test_the_nearest_rule_is_the_one_that_lacks_least(machine: Machine) -> None:
    guest = machine.guest("payments", HSM)
    machine.firmware.bind(guest.id, HSM)
    far = "{serial: 93AADFK719460099, api: '>=9', firmware: '>=9.0'}"
    rows = (
        policy("far", hsm=far).text + policy("near", hsm="{api: '>=9'}").text.partition("associations:\n")[2]
    )
    machine.firmware.set_policy(guest.id, PolicyRow("p", rows))
    assert "rule `rule-of-near`" in missing(machine)


def test_what_no_association_helps(machine: Machine) -> None:
    guest = machine.guest("payments", ACCELERATOR)
    assert "names no HSM" in missing(machine, None)
    assert "not attached" in missing(machine, str(SPARE))
    machine.firmware.bind(guest.id, ACCELERATOR)
    assert "accelerator" in missing(machine, str(ACCELERATOR))


def test_a_policy_without_a_rule_for_any_ep11_hsm(machine: Machine) -> None:
    guest = machine.guest("payments", HSM)
    machine.firmware.bind(guest.id, HSM)
    accelerators = "version: 1\nassociations: [{name: offload, hsm: {mode: accel}}]\n"
    machine.firmware.set_policy(guest.id, PolicyRow("p", accelerators))
    assert "no rule that associates" in missing(machine)


def test_a_hostile_rules_name_is_told_escaped_and_cut(machine: Machine) -> None:
    """Only pvapconfig's lists let such names in."""
    guest = machine.guest("payments", HSM)
    machine.firmware.bind(guest.id, HSM)
    (view,) = machine.firmware.list_hsms(guest.id)
    assert view.data.mkvp is not None
    name = r"\e[2J`" + "x" * 200
    rule = f'- {{mode: EP11, mkvp: {view.data.mkvp.hex()}, name: "{name}"}}\n'
    machine.firmware.set_policy(guest.id, PolicyRow("p", rule))
    told = missing(machine)
    assert told.isprintable()
    assert "rule `\\x1b[2J\\x60xxx" in told
    assert len(told) < 400
