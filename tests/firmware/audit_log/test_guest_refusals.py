"""A refused call as its guest sees it: the rule, what would have to be true, and commands that it can type."""

from __future__ import annotations

from keyvisor_firmware.audit_log.guest_refusals import refusal_view
from keyvisor_firmware.broker.control import Refusal
from keyvisor_firmware.broker.errors import Because
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.views import RefusalView

from ..machine import HSM, Machine, policy

AT = "2026-02-03T12:00:00.000+00:00"
CALL = Refusal(AT, str(HSM), "C_Sign", "CKR_USER_NOT_LOGGED_IN", "not associated")


def seen(machine: Machine, guest: Instance, call: Refusal = CALL) -> RefusalView:
    machine.gates.refused["g"] = [call]  # type: ignore[list-item]  # the simulator's own has less
    [view], _ = machine.firmware.refusals(guest.id)
    return view


def test_it_changes_with_what_the_guest_does(machine: Machine) -> None:
    guest = machine.guest("g", HSM)
    assert (seen(machine, guest).state, seen(machine, guest).rule) == ("unbound", None)
    machine.firmware.bind(guest.id, HSM)
    machine.firmware.set_policy(guest.id, policy("payments-signing", hsm="{mode: ep11, api: '>=9'}"))
    view = seen(machine, guest)
    assert (view.state, view.rule) == ("bound", "rule-of-payments-signing (policy.yaml:3)")
    assert "does not allow it: api differs" in view.must_be
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    view = seen(machine, guest)
    assert view.must_be == "the HSM is associated with a secret of the guest's"
    assert view.commands == (
        "keyvisor guest apply --guest g policy.yaml",
        "keyvisor guest associate --guest g 03.0011 --secret payments-signing",
    )


def test_an_hsm_that_is_gone_and_a_call_that_names_none(machine: Machine) -> None:
    guest = machine.guest("g")
    view = seen(machine, guest)
    assert (view.state, view.rule) == (None, None)
    assert "not attached any more" in view.missing
    view = seen(machine, guest, Refusal(AT, None, "C_OpenSession", "CKR_SLOT_ID_INVALID", "no such slot"))
    assert "names no HSM" in view.missing
    assert view.commands == ("keyvisor host attach g APQN",)


def test_a_control_point_is_the_rule(machine: Machine) -> None:
    guest = machine.ready("g", HSM)
    because = Because("no raw rsa", "policy.yaml:9", 3)
    view = seen(machine, guest, Refusal(AT, str(HSM), "C_SignInit", "CKR_MECHANISM_INVALID", "why", because))
    assert view.rule == "no raw rsa (policy.yaml:9)"
    assert "keyvisor policy check policy.yaml" in view.commands


def test_a_code_without_a_row_says_where_to_look(machine: Machine) -> None:
    guest = machine.guest("g", HSM)
    view = seen(machine, guest, Refusal(AT, str(HSM), "C_X", "CKR_VENDOR_DEFINED", "why"))
    assert view.must_be == "what the reason says"
    assert refusal_view(CALL, None, machine.firmware._guests.of(guest.id)).rule is None
