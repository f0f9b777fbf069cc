"""The guest's client, against the firmware's story."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pytest

import keyvisor_policy
from keyvisor_guest import Guest, NameInvalid, NotRunning, PlanUnmet, Refused, SdkError
from keyvisor_guest.guest import ATTEMPTS
from keyvisor_guest.planning import AppliedPlan
from keyvisor_guest.wire import messages

from .conftest import refuse

MET = """\
version: 1
associations:
  - name: payments-signing
    hsm: {mode: ep11, serial: 93AADFK719460083}
"""
HALF_MET = f"""\
{MET}  - name: elsewhere
    secret: payments-signing
    hsm: {{mode: ep11, serial: AAAAAAAAAAAAAAAA}}
"""
PAYMENTS_SIGNING = hashlib.sha256(b"payments-signing").hexdigest()


@pytest.fixture
def guest(firmware: Any) -> Guest:
    return Guest("payments", state=firmware.state)


def test_the_guest_may_come_from_the_environment(firmware: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `keyvisor guest exec` sets is all that a program needs."""
    monkeypatch.delenv("KEYVISOR_GUEST", raising=False)
    with pytest.raises(NameInvalid, match="KEYVISOR_GUEST"):
        Guest()
    monkeypatch.setenv("KEYVISOR_GUEST", "lab")
    monkeypatch.setenv("KEYVISOR_STATE", str(firmware.state))
    assert Guest().name == "lab"
    assert Guest().hsms() == []


def test_identity_is_hex(guest: Guest) -> None:
    assert bytes.fromhex(guest.identity().pld) == b"\xaa" * 64


def test_an_associations_life(guest: Guest) -> None:
    assert [(hsm.apqn, hsm.state) for hsm in guest.hsms()] == [("03.0011", "unbound"), ("04.0011", "unbound")]
    assert guest.bind("03.0011").state == "bound"
    associated = guest.associate("03.0011", "payments-signing")
    assert (associated.state, associated.secret_id) == ("associated", PAYMENTS_SIGNING)
    assert guest.unbind("03.0011").secret_id is None


def test_a_refusal_has_its_reasons(guest: Guest) -> None:
    with pytest.raises(Refused, match="bind it first") as refused:
        guest.associate("03.0011", "payments-signing")
    assert refused.value.kind == "ap"
    with pytest.raises(Refused, match=r"no HSM 05\.0002 in this guest"):
        guest.bind("05.0002")


def test_an_apqn_may_be_written_in_capitals_and_nothing_else(firmware: Any, guest: Guest) -> None:
    firmware.story.hsms["0a.00ff"] = firmware.story.hsms["03.0011"].model_copy(update={"apqn": "0a.00ff"})
    firmware.story.guests["payments"].attached.append("0a.00ff")
    assert guest.bind("0A.00FF").apqn == "0a.00ff"
    firmware.story.asked.clear()
    for act in (guest.bind, guest.unbind, lambda apqn: guest.associate(apqn, "s")):
        with pytest.raises(NameInvalid):
            act("../secrets/lock")
    assert firmware.story.asked == []


def test_secrets_go_in_and_are_listed_without_their_values(
    firmware: Any, guest: Guest, secret_request: bytes
) -> None:
    guest.secrets.add(secret_request)
    assert firmware.story.requests == [secret_request]
    assert [secret.id for secret in guest.secrets.list()] == [PAYMENTS_SIGNING]
    assert guest.secrets.locked is False
    guest.secrets.lock()
    assert guest.secrets.locked is True
    with pytest.raises(Refused) as refused:
        guest.secrets.add(secret_request)
    assert (refused.value.kind, refused.value.code) == ("uv", 0x0102)


def test_a_request_that_is_too_long_is_not_sent(firmware: Any, guest: Guest) -> None:
    with pytest.raises(SdkError, match="at most 1048576 bytes"):
        guest.secrets.add(bytes(messages.MAX_REQUEST + 1))
    assert firmware.story.asked == []


def test_refusals_say_why_and_how_many_are_gone(guest: Guest) -> None:
    refusals = guest.refusals()
    assert len(refusals) == 1
    assert refusals[0].code == "CKR_USER_NOT_LOGGED_IN"
    assert refusals.dropped == 3


def test_no_such_guest(firmware: Any) -> None:
    with pytest.raises(NotRunning, match=r"no guest `nobody`.*keyvisor host list"):
        Guest("nobody", state=firmware.state).hsms()


def test_a_guest_whose_firmware_is_gone(firmware: Any, guest: Guest) -> None:
    firmware.close()
    with pytest.raises(NotRunning, match="start it with `keyvisor up`"):
        guest.hsms()


def test_without_a_policy_there_is_none(guest: Guest) -> None:
    assert guest.policy is None


def test_another_refusal_is_not_taken_for_no_policy(firmware: Any, guest: Guest) -> None:
    firmware.story.answer_with = lambda handler: handler.send_answer(
        403, messages.Problem(kind="http", code=403, message="not for you")
    )
    with pytest.raises(Refused, match="not for you"):
        _ = guest.policy


def test_apply_registers_the_policy_and_sends_its_plan_at_once(firmware: Any, guest: Guest) -> None:
    plan = guest.apply(MET)
    assert not plan.unmet
    [sent] = firmware.story.plans
    assert sent.policy.text == MET
    assert [(step.action, step.apqn, step.secret_id) for step in sent.steps] == [
        ("bind", "03.0011", None),
        ("associate", "03.0011", PAYMENTS_SIGNING),
    ]
    assert [hsm.state for hsm in guest.hsms()] == ["associated", "unbound"]
    registered = guest.policy
    assert registered is not None
    assert registered.text == MET


def test_without_an_argument_it_applies_the_policy_that_is_there(firmware: Any, guest: Guest) -> None:
    """A policy in the image is registered from the start."""
    with pytest.raises(SdkError, match="`payments` has no policy"):
        guest.apply()
    firmware.story.policy = messages.PolicyText(text=MET, source="/etc/keyvisor/policy.yaml")
    plan = guest.apply()
    assert not plan.unmet
    [sent] = firmware.story.plans
    assert sent.policy == firmware.story.policy
    assert [hsm.state for hsm in guest.hsms()] == ["associated", "unbound"]


def test_applying_twice_changes_nothing(firmware: Any, guest: Guest) -> None:
    guest.apply(MET)
    plan = guest.apply(MET)
    assert list(firmware.story.plans[1].steps) == []
    assert [rule.kept for rule in plan.rules] == [("03.0011",)]


def test_what_the_policy_does_not_want_is_unbound_with_unbind_and_left_without(
    firmware: Any, guest: Guest
) -> None:
    guest.bind("04.0011")
    plan = guest.apply(MET)
    assert plan.left == ("04.0011",)
    assert {step.apqn for step in plan.steps} == {"03.0011"}
    assert [hsm.state for hsm in guest.hsms()] == ["associated", "bound"]
    plan = guest.apply(MET, unbind=True)
    assert plan.left == ()
    assert [(step.action, step.apqn) for step in firmware.story.plans[-1].steps] == [("unbind", "04.0011")]
    assert [hsm.state for hsm in guest.hsms()] == ["associated", "unbound"]


def test_what_the_firmware_would_end_is_in_the_plan_without_unbind_too(firmware: Any, guest: Guest) -> None:
    """An association that no rule allows any more, and what is offline, do not stay."""
    other = hashlib.sha256(b"another").hexdigest()
    firmware.story.hsms["04.0011"] = firmware.story.hsms["04.0011"].model_copy(
        update={"state": "associated", "secret_id": other}
    )
    plan = guest.apply(MET, dry_run=True)
    assert ("unbind", "04.0011") in [(step.action, step.apqn) for step in plan.steps]
    firmware.story.hsms["04.0011"] = firmware.story.hsms["04.0011"].model_copy(
        update={"state": "bound", "secret_id": None, "online": False}
    )
    plan = guest.apply(MET, dry_run=True)
    assert ("unbind", "04.0011") in [(step.action, step.apqn) for step in plan.steps]
    assert plan.left == ()


def test_an_association_that_a_rule_still_allows_stays_though_none_wants_it(
    firmware: Any, guest: Guest
) -> None:
    for apqn in ("03.0011", "04.0011"):
        firmware.story.hsms[apqn] = firmware.story.hsms[apqn].model_copy(
            update={"state": "associated", "secret_id": PAYMENTS_SIGNING}
        )
    anywhere = MET.replace("serial: 93AADFK719460083", "generation: '>=CEX8'")
    plan = guest.apply(anywhere)
    assert (plan.steps, plan.left) == ((), ("04.0011",))


# --- what happens while it plans


def test_an_hsm_that_changes_while_it_plans_is_planned_again(firmware: Any, guest: Guest) -> None:
    def bind_once(name: str, body: Any) -> None:
        if name == "apply_plan" and not firmware.story.plans and body.seen[0].state == "unbound":
            firmware.story.hsms["03.0011"] = firmware.story.hsms["03.0011"].model_copy(
                update={"state": "bound"}
            )

    firmware.story.before = bind_once
    plan = guest.apply(MET)
    assert [(step.action, step.apqn) for step in plan.steps] == [("associate", "03.0011")]
    assert isinstance(plan, AppliedPlan)
    assert [hsm.state for hsm in plan.now] == ["associated", "unbound"]
    assert firmware.story.asked.count("apply_plan") == 2
    assert len(firmware.story.plans) == 1


def test_what_never_stands_still_is_given_up_with_the_firmwares_reason(firmware: Any, guest: Guest) -> None:
    states = itertools.cycle(["bound", "unbound"])

    def flip(name: str, _body: Any) -> None:
        if name == "apply_plan":
            firmware.story.hsms["03.0011"] = firmware.story.hsms["03.0011"].model_copy(
                update={"state": next(states)}
            )

    firmware.story.before = flip
    with pytest.raises(Refused, match=r"HSM 03\.0011") as refused:
        guest.apply(MET)
    assert (refused.value.kind, refused.value.code) == ("ap", 0x3D)
    assert firmware.story.asked.count("apply_plan") == ATTEMPTS
    assert firmware.story.plans == []


def test_another_refusal_is_not_tried_again(firmware: Any, guest: Guest) -> None:
    def taken(name: str, _body: Any) -> None:
        if name == "apply_plan":
            raise refuse(409, "ap", 0x09, "HSM 03.0011 is held by another guest")

    firmware.story.before = taken
    with pytest.raises(Refused, match="another guest"):
        guest.apply(MET)
    assert firmware.story.asked.count("apply_plan") == 1


def test_a_policy_may_be_a_file_a_text_or_a_policy(firmware: Any, guest: Guest, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(MET)
    for policy in (file, str(file), MET, keyvisor_policy.load(file)):
        guest.apply(policy)
    assert [plan.policy.text for plan in firmware.story.plans] == [MET] * 4
    assert [plan.policy.source for plan in firmware.story.plans] == [
        str(file),
        str(file),
        "policy",
        str(file),
    ]


def test_a_policy_that_is_none_is_refused_here(firmware: Any, guest: Guest) -> None:
    with pytest.raises(keyvisor_policy.DocumentError, match="policy:1:"):
        guest.apply("versoin: 1\n")
    assert firmware.story.plans == []


def test_an_unmet_rule_applies_nothing(firmware: Any, guest: Guest) -> None:
    with pytest.raises(PlanUnmet) as unmet:
        guest.apply(HALF_MET)
    assert firmware.story.plans == []
    assert not unmet.value.applied
    assert any("serial differs" in reason for reason in unmet.value.reasons)
    assert "elsewhere" in str(unmet.value)
    assert "--partial" in str(unmet.value)


def test_without_strict_and_without_partial_nothing_is_applied_either(firmware: Any, guest: Guest) -> None:
    with pytest.raises(PlanUnmet):
        guest.apply(HALF_MET, strict=False)
    assert firmware.story.plans == []


def test_partial_applies_what_can_be_met_and_says_what_cannot(firmware: Any, guest: Guest) -> None:
    with pytest.raises(PlanUnmet) as unmet:
        guest.apply(HALF_MET, partial=True)
    assert unmet.value.applied
    assert guest.hsms()[0].state == "associated"


def test_partial_and_not_strict_is_content(firmware: Any, guest: Guest) -> None:
    plan = guest.apply(HALF_MET, partial=True, strict=False)
    assert plan.unmet
    assert len(firmware.story.plans) == 1


@pytest.mark.parametrize("policy", [MET, HALF_MET])
def test_a_dry_run_changes_nothing(firmware: Any, guest: Guest, policy: str) -> None:
    plan = guest.apply(policy, dry_run=True)
    assert plan.steps
    assert firmware.story.plans == []
    assert firmware.story.policy is None
    assert {hsm.state for hsm in guest.hsms()} == {"unbound"}


def test_a_secret_that_the_guest_has_not_is_said(firmware: Any, guest: Guest) -> None:
    firmware.story.secrets.clear()
    with pytest.raises(PlanUnmet, match="is not in the guest's store"):
        guest.apply(MET)


def test_a_guest_reads_and_writes_its_storage(firmware: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvisor_guest.storage.MAX_ACCESS", 100)
    memory = Guest("lab", state=firmware.state).memory
    data = bytes(range(256))
    memory.write(0x1001, data)
    assert memory.read(0x1000, 258) == b"\0" + data + b"\0"
    with pytest.raises(Refused) as refused:
        memory.read(1 << 30, 1)
    assert (refused.value.kind, refused.value.code) == ("program", 0x3E)
