"""What `audit explain` says: what was asked, the state, the rule and its line, what would have to be true, what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.audit_log.chain import Event, canonical
from keyvisor_firmware.audit_log.decisions import Against, Decision, Place, judged
from keyvisor_firmware.audit_log.explaining import Explained, explain, explanations
from keyvisor_firmware.errors import ApError, NotFound, StateUnusable
from keyvisor_firmware.state.records import KEPT_POLICIES, PolicyRow, Records
from keyvisor_policy import Hsm, parse, secret_id

from ...images import an_image
from ..machine import HSM, LEDGER, OTHER, SIGNING, SPARE, Machine, policy, step

SERIAL = "{mode: ep11, serial: 93AADFK719460099}"


@contextlib.contextmanager
def records_of(machine: Machine) -> Iterator[Records]:
    with machine.database.transaction() as records:
        yield records


def last(machine: Machine) -> tuple[Event, tuple[Explained, ...]]:
    number = machine.firmware.audit_log()[-1].number
    with records_of(machine) as records:
        return explanations(records, number)


def refused(machine: Machine, code: ApCode) -> Explained:
    event, explained = last(machine)
    assert event.detail["outcome"] == "refused"
    assert f"{code:02x}" in explained[-1].answer
    return explained[-1]


def test_a_policy_that_does_not_allow_it_is_shown_with_the_line_and_field_by_field(machine: Machine) -> None:
    guest = machine.guest("g", HSM, secrets=("payments-signing",))
    machine.firmware.set_policy(guest.id, policy("payments-signing", hsm=SERIAL))
    machine.firmware.bind(guest.id, HSM)
    with pytest.raises(ApError):
        machine.firmware.associate(guest.id, HSM, SIGNING)
    found = refused(machine, ApCode.NOT_PERMITTED)
    assert found.asked == "associate HSM 03.0011 with secret `payments-signing`"
    assert found.state.startswith("bound; ep11 CEX8, serial 93AADFK719460083, mkvp ")
    [rule] = found.rules
    assert (rule.name, rule.at) == ("rule-of-payments-signing", "policy.yaml:3")
    assert rule.line is not None
    assert rule.line.startswith("- {name: rule-of-payments-signing")
    wrong = [name for name, _, holds in rule.fields if not holds]
    assert wrong == ["serial"]
    assert ("serial", "93AADFK719460099 wanted, 93AADFK719460083 found", False) in rule.fields
    assert any("serial: 93AADFK719460099 wanted" in item for item in found.true)
    assert found.commands[0] == (
        "keyvisor policy explain policy.yaml --hsm 03.0011 --inventory HSMS --secret payments-signing"
    )


def test_what_was_allowed_names_its_rule(machine: Machine) -> None:
    machine.ready("g", HSM)
    event, [found] = last(machine)
    assert (event.event, found.answer) == ("associate", "allowed")
    assert [rule.name for rule in found.rules] == ["rule-of-payments-signing"]
    assert all(holds for _, _, holds in found.rules[0].fields)
    assert (found.true, found.commands) == ((), ())


def test_each_refusal_on_the_way_says_the_command_that_brings_it_about(machine: Machine) -> None:
    """The story of a guest that does everything in the wrong order, and then what it is told."""
    guest = machine.start("g")
    for done, act, code in (
        (None, lambda: machine.firmware.bind(guest.id, HSM), ApCode.NOT_AVAILABLE),
        (
            lambda: machine.firmware.attach("g", HSM),
            lambda: machine.firmware.associate(guest.id, HSM, SIGNING),
            ApCode.NOT_BOUND,
        ),
        (
            lambda: machine.firmware.bind(guest.id, HSM),
            lambda: machine.firmware.associate(guest.id, HSM, SIGNING),
            ApCode.NO_SUCH_SECRET,
        ),
        (
            lambda: machine.firmware.add_secret(guest.id, machine.request(guest, "payments-signing")),
            lambda: machine.firmware.associate(guest.id, HSM, SIGNING),
            ApCode.NOT_PERMITTED,
        ),
    ):
        if done is not None:
            done()
        with pytest.raises(ApError) as raised:
            act()
        assert raised.value.code is code
        found = refused(machine, code)
        expected = {
            ApCode.NOT_AVAILABLE: "keyvisor host attach g 03.0011",
            ApCode.NOT_BOUND: "keyvisor guest bind --guest g 03.0011",
            ApCode.NO_SUCH_SECRET: "keyvisor guest secret add --guest g REQUEST",
            ApCode.NOT_PERMITTED: "keyvisor guest apply --guest g FILE",
        }[code]
        assert expected in found.commands


def test_a_plan_that_was_refused_says_what_it_had_allowed_before(machine: Machine) -> None:
    guest = machine.guest("g", HSM, SPARE, LEDGER, secrets=("payments-signing",))
    steps = [
        step("bind", HSM),
        step("associate", HSM, SIGNING),
        step("bind", SPARE),
        step("associate", SPARE, OTHER),
    ]
    with pytest.raises(ApError):
        machine.firmware.apply_plan(guest.id, policy("payments-signing"), steps)
    event, found = last(machine)
    assert event.event == "apply plan"
    assert [one.answer.split(":")[0].split(";")[0] for one in found] == ["allowed"] * 3 + ["refused"]
    assert "nothing of it was done" in found[1].answer
    assert found[3].policy is not None
    assert "no longer kept" not in found[3].policy, "the policy of a refused plan is kept too"


def test_an_association_that_a_new_policy_ends_is_explained(machine: Machine) -> None:
    guest = machine.ready("g", HSM)
    machine.firmware.set_policy(guest.id, policy("payments-signing", hsm=SERIAL))
    event, [found] = last(machine)
    assert event.event == "set policy"
    assert found.asked == "whether the association of HSM 03.0011 with secret `payments-signing` may stay"
    assert found.answer.startswith("refused: AP response code 3f")


def test_an_association_that_a_restart_ends_is_explained(machine: Machine) -> None:
    guest = machine.ready("g", HSM)
    with records_of(machine) as records:
        records.put_policy(guest.id, policy("another"))
    machine.again()
    [event] = [event for event in machine.firmware.audit_log() if "why" in event.detail]
    with records_of(machine) as records:
        _, [found] = explanations(records, event.number)
    assert found.asked.startswith("whether the association of HSM 03.0011")
    assert found.answer.startswith("refused: AP response code 3f")
    assert [rule.name for rule in found.rules] == ["rule-of-another"]


def test_without_the_text_of_the_policy_the_record_says_what_it_can(machine: Machine) -> None:
    guest = machine.guest("g", HSM, secrets=("payments-signing",))
    machine.firmware.set_policy(guest.id, policy("payments-signing", hsm=SERIAL))
    machine.firmware.bind(guest.id, HSM)
    with pytest.raises(ApError):
        machine.firmware.associate(guest.id, HSM, SIGNING)
    number = machine.firmware.audit_log()[-1].number
    for other in range(KEPT_POLICIES):
        machine.firmware.set_policy(guest.id, policy(f"s{other}"))
    with records_of(machine) as records:
        _, [found] = explanations(records, number)
    assert found.policy is not None
    assert "no longer kept" in found.policy
    [rule] = found.rules
    assert (rule.line, [name for name, _, _ in rule.fields]) == (None, ["serial"])
    assert "93AADFK719460099" in rule.fields[0][1]


def test_a_guest_keeps_no_more_than_its_newest_policies_and_another_guests_stay(machine: Machine) -> None:
    one, other = machine.start("g"), machine.start("h")
    kept = policy("kept")
    machine.firmware.set_policy(other.id, kept)
    for number in range(3 * KEPT_POLICIES):
        machine.firmware.set_policy(one.id, policy(f"s{number}"))
    with records_of(machine) as records:
        assert records.kept_policy(parse(kept.text).digest) == kept
        newest = [policy(f"s{number}") for number in range(3 * KEPT_POLICIES)][-KEPT_POLICIES:]
        assert [records.kept_policy(parse(row.text).digest) for row in newest] == newest
        assert records.kept_policy(parse(policy("s0").text).digest) is None


def test_the_policy_of_an_image_is_shown_too(machine: Machine) -> None:
    image = an_image(machine.host_key.private, kernel=b"a kernel", policy=policy("payments-signing").text)
    guest = machine.start("g", image.data)
    machine.firmware.attach("g", HSM)
    machine.firmware.add_secret(guest.id, machine.request(guest, "payments-signing"))
    machine.firmware.bind(guest.id, HSM)
    machine.firmware.associate(guest.id, HSM, SIGNING)
    _, [found] = last(machine)
    assert found.rules[0].at == "/etc/keyvisor/policy.yaml:3"
    assert found.rules[0].line is not None
    assert "rule-of-payments-signing" in found.rules[0].line


def test_a_control_point_is_shown_with_what_it_looked_at() -> None:
    text = "version: 1\nassociations:\n  - {name: r, secret: s, hsm: {mode: ep11}}\n"
    decision = Decision(
        call="C_GenerateKeyPair",
        allowed=False,
        apqn="03.0011",
        hsm=Hsm("03.0011", "ep11", 8, "93AADFK719460083", bytes(16)),
        state="associated",
        code="CKR_TEMPLATE_INCONSISTENT",
        rule=Place("r", "policy.yaml:3"),
        policy="00" * 32,
        source="policy.yaml",
        because={
            "point": "big enough",
            "origin": "policy.yaml:2",
            "mechanism": 0,
            "template": {"CKA_MODULUS_BITS": "1024"},
        },
    )
    event = Event("at", "g", "call refused", {"outcome": "refused", "reason": "too small"})
    found = explain(event, decision, PolicyRow("policy.yaml", text))
    assert found.asked == "C_GenerateKeyPair on HSM 03.0011 with mechanism 0x0 and CKA_MODULUS_BITS=1024"
    assert [(rule.name, rule.at, rule.line) for rule in found.rules] == [
        ("big enough", "policy.yaml:2", "associations:"),
        ("r", "policy.yaml:3", "- {name: r, secret: s, hsm: {mode: ep11}}"),
    ]
    assert any("control point `big enough` (policy.yaml:2)" in item for item in found.true)
    assert "keyvisor policy check policy.yaml" in found.commands


def test_a_shell_takes_what_a_guest_called_its_things_as_one_word() -> None:
    decision = Decision("associate", False, code="3f", secret="a; rm -rf /", source="$(reboot).yaml")
    found = explain(Event("at", "g", "associate", {}), decision, None)
    assert "'$(reboot).yaml'" in found.commands[0]
    assert "'a; rm -rf /'" in found.commands[0]


def test_a_number_that_is_no_records_is_said_so(machine: Machine) -> None:
    with records_of(machine) as records:
        for number in (10_000, 1 << 62):
            with pytest.raises(NotFound, match="shows the ids"):
                explanations(records, number)


def test_a_decision_of_another_version_is_said_so(machine: Machine) -> None:
    with records_of(machine) as records:
        for told in (
            {},
            {"call": "x"},
            {"call": "x", "allowed": True, "later": 1},
            {"call": "x", "allowed": 1, "hsm": {}},
        ):
            head = records.add_event(Event("at", "g", "e", {}, (told,)))
            with pytest.raises(StateUnusable, match="the one that wrote it"):
                explanations(records, head.number)
        machine.audit.sign(records)


# --- decisions as they are recorded


TEXT = st.text(max_size=9)
PLACES = st.builds(Place, TEXT, TEXT)
HSMS = st.builds(
    Hsm,
    apqn=st.just("03.0011"),
    mode=st.sampled_from(["ep11", "accel", "cca"]),
    generation=st.integers(4, 8),
    serial=TEXT,
    mkvp=st.none() | st.binary(min_size=16, max_size=16),
    firmware=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    api=st.integers(0, 99),
    compliance=st.frozensets(TEXT, max_size=3),
    online=st.booleans(),
)
DECISIONS = st.builds(
    Decision,
    call=TEXT,
    allowed=st.booleans(),
    apqn=st.none() | TEXT.filter(bool),
    hsm=st.none() | HSMS,
    state=st.none() | st.just("bound"),
    code=st.none() | st.just("3f"),
    rule=st.none() | PLACES,
    against=st.lists(st.builds(Against, PLACES, st.dictionaries(TEXT, TEXT, max_size=2)), max_size=2).map(
        tuple
    ),
    others=st.integers(0, 9),
    because=st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
    count=st.integers(1, 9),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(DECISIONS)
def test_a_decision_is_read_as_it_was_written(decision: Decision) -> None:
    assert Decision.from_json(decision.as_json()) == decision
    assert canonical(decision.as_json())


def test_of_a_large_policy_only_the_closest_rules_are_recorded() -> None:
    rules = "".join(
        f"  - {{name: r{n}, secret: s, hsm: {{mode: ep11, serial: {n:016}, api: '>={n}'}}}}\n"
        for n in range(1000)
    )
    rules += "  - {name: close, secret: s, hsm: {mode: ep11, serial: 93AADFK719460099}}\n"
    found = judged(
        parse("version: 1\nassociations:\n" + rules),
        Hsm("03.0011", "ep11", 8, "93AADFK719460083", bytes(16)),
        secret_id("s"),
    )
    assert found.against[0].rule.name in ("r0", "close")
    assert len(found.against) + found.others == 1001
    assert len(canonical(Decision("associate", False, against=found.against).as_json())) < 4096
