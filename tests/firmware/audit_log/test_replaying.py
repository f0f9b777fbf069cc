"""Which recorded decisions another policy would change."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.audit_log.decisions import Decision, judged
from keyvisor_firmware.audit_log.replaying import Again, Replay, replay
from keyvisor_firmware.errors import ApError
from keyvisor_policy import Hsm, NotPermitted, Policy, parse, secret_id

from ..machine import HSM, OTHER, SIGNING, SPARE, Machine, policy

SERIAL = "{mode: ep11, serial: 93AADFK719460099}"  # SPARE's


def new(*secrets: str, hsm: str = "{mode: ep11}") -> Policy:
    return parse(policy(*secrets, hsm=hsm).text, "new.yaml")


def story(machine: Machine) -> None:
    """Two associations that were allowed, and one that was not."""
    guest = machine.ready("g", HSM, SPARE)
    machine.firmware.unbind(guest.id, HSM)
    machine.firmware.bind(guest.id, HSM)
    machine.firmware.add_secret(guest.id, machine.request(guest, "another"))
    with contextlib.suppress(ApError):
        machine.firmware.associate(guest.id, HSM, OTHER)


def changed(found: Replay) -> list[tuple[str, str | None, bool, bool]]:
    return [
        (change.decision.call, change.decision.apqn, change.decision.allowed, change.again.allowed)
        for change in found.changes
        if not change.same
    ]


def test_the_same_policy_changes_nothing(machine: Machine) -> None:
    story(machine)
    found = replay(machine.firmware.audit_log(), new("payments-signing"))
    assert (found.decided, found.changes, found.differs) == (3, (), False)
    assert found.left_aside > 3, "binding and unbinding are no policy's"


def test_a_narrower_policy_refuses_what_was_allowed_and_says_why(machine: Machine) -> None:
    story(machine)
    found = replay(machine.firmware.audit_log(), new("payments-signing", hsm=SERIAL))
    assert changed(found) == [("associate", str(HSM), True, False)]
    [change] = found.changes
    assert change.decision.rule is not None
    assert str(change.decision.rule) == "rule-of-payments-signing (policy.yaml:3)"
    assert change.again.reason is not None
    assert "serial differs" in change.again.reason


def test_a_wider_policy_allows_what_was_refused_and_names_the_rule(machine: Machine) -> None:
    story(machine)
    found = replay(machine.firmware.audit_log(), new("payments-signing", "another"))
    assert changed(found) == [("associate", str(HSM), False, True)]
    assert str(found.changes[0].again.rule) == "rule-of-another (new.yaml:4)"


def test_another_rule_is_told_and_is_no_difference(machine: Machine) -> None:
    story(machine)
    text = policy("payments-signing").text.replace("rule-of", "other-rule-of")
    found = replay(machine.firmware.audit_log(), parse(text, "new.yaml"))
    assert (len(found.changes), found.differs) == (2, False)
    assert all(change.same for change in found.changes)


def test_what_was_refused_for_another_reason_is_no_policys(machine: Machine) -> None:
    guest = machine.guest("g", HSM)
    machine.firmware.set_policy(guest.id, policy("another"))
    for _ in range(2):
        with contextlib.suppress(ApError):
            machine.firmware.associate(guest.id, HSM, SIGNING)  # not bound, then no such secret
        with contextlib.suppress(ApError):
            machine.firmware.bind(guest.id, HSM)
    found = replay(machine.firmware.audit_log(), new("payments-signing"))
    assert (found.decided, found.differs) == (0, False)


def test_calls_are_decided_again_by_whoever_can() -> None:
    because = {"point": "p", "origin": "o:1", "mechanism": 3, "template": {}, "rule": None}
    refused = Decision("C_Sign", False, code="CKR_MECHANISM_INVALID", because=because)
    other = Decision("C_Sign", False, code="CKR_USER_NOT_LOGGED_IN")
    events = [Event("at", "g", "call refused", {}, (refused.as_json(), other.as_json()), 7)]
    assert replay(events, new("s")).left_aside == 2
    asked = []

    def decide(decision: Decision, _policy: Policy) -> Again:
        asked.append(decision)
        return Again(allowed=True, rule=None, reason=None)

    found = replay(events, new("s"), decide)
    assert (asked, found.decided, found.left_aside, found.differs) == ([refused], 1, 1, True)
    assert found.changes[0].number == 7


RULES = st.lists(
    st.fixed_dictionaries(
        {
            "secret": st.sampled_from("ab"),
            "serial": st.sampled_from([None, "1" * 16, "2" * 16]),
            "api": st.sampled_from([None, 4, 6]),
        }
    ),
    min_size=1,
    max_size=4,
)


def written(rules: list[dict[str, object]]) -> Policy:
    lines = []
    for number, rule in enumerate(rules):
        fields = ["mode: ep11"]
        fields += [] if rule["serial"] is None else [f"serial: '{rule['serial']}'"]
        fields += [] if rule["api"] is None else [f"api: '>={rule['api']}'"]
        lines.append(f"  - {{name: r{number}, secret: {rule['secret']}, hsm: {{{', '.join(fields)}}}}}\n")
    return parse("version: 1\nassociations:\n" + "".join(lines))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    RULES,
    RULES,
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["1" * 16, "2" * 16]), st.integers(3, 6)), max_size=6
    ),
)
def test_a_replay_says_what_the_policy_says(
    old: list[dict[str, object]], now: list[dict[str, object]], asked: list[tuple[str, str, int]]
) -> None:
    """Shadow: `permit` of both policies."""
    events, expected = [], 0
    before, after = written(old), written(now)
    for number, (name, serial, api) in enumerate(asked):
        hsm = Hsm("03.0011", "ep11", 8, serial, bytes(16), api=api)
        verdict = judged(before, hsm, secret_id(name))
        decision = Decision(
            "associate",
            verdict.rule is not None,
            hsm=hsm,
            secret_id=secret_id(name).hex(),
            code=None if verdict.rule is not None else "3f",
            rule=verdict.rule,
        )
        events.append(Event("at", "g", "associate", {}, (decision.as_json(),), number))
        expected += permits(before, hsm, name) != permits(after, hsm, name)
    found = replay(events, after)
    assert found.decided == len(asked)
    assert sum(not change.same for change in found.changes) == expected
    assert not replay(events, before).changes


def permits(policy_: Policy, hsm: Hsm, name: str) -> bool:
    try:
        policy_.permit(hsm, secret_id(name))
    except NotPermitted:
        return False
    return True
