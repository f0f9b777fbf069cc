"""Plans and permissions: what a guest gets, what the firmware allows, and the reasons that are given."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import (
    Holding,
    Hsm,
    InventoryRefused,
    NotPermitted,
    Plan,
    Policy,
    SecretId,
    Step,
    holding,
    parse,
    secret_id,
)

MakeHsm = Callable[..., Hsm]

A, B = secret_id("a"), secret_id("b")
KEYS = {name: bytes([value]) * 16 for name, value in (("one", 0x11), ("two", 0x22))}


def policy(*rules: str) -> Policy:
    entries = ", ".join(f"{{{rule}}}" for rule in rules)
    return parse(f"version: 1\nassociations: [{entries}]\n")


def served(plan: Plan) -> dict[str, str]:
    return {outcome.apqn: outcome.rule.name for outcome in plan.hsms if outcome.rule is not None}


def steps(plan: Plan) -> list[tuple[str, str]]:
    return [(step.action, step.apqn) for step in plan.steps]


def serials(*letters: str) -> list[str]:
    return [letter * 16 for letter in letters]


def test_an_ep11_hsm_is_bound_and_associated_an_accelerator_bound(hsm: MakeHsm) -> None:
    plan = policy("name: a, hsm: {mode: ep11}", "name: fast, hsm: {mode: accel}").assign(
        [hsm("04.0001"), hsm("03.0002", mode="accel", mkvp=None)], {A}
    )
    assert plan.met
    assert plan.steps == (Step("bind", "04.0001"), Step("associate", "04.0001", A), Step("bind", "03.0002"))


def test_a_broad_rule_leaves_a_later_narrow_one_its_only_hsm(hsm: MakeHsm) -> None:
    one, two = serials("A", "B")
    plan = policy("name: a, hsm: {}", f"name: b, hsm: {{serial: {one}}}").assign(
        [hsm("03.0001", serial=one), hsm("04.0001", serial=two)], {A, B}
    )
    assert served(plan) == {"03.0001": "b", "04.0001": "a"}


def test_part2_T4_the_first_rule_has_the_only_hsm(hsm: MakeHsm) -> None:
    for first, second in (("a", "b"), ("b", "a")):
        plan = policy(f"name: {first}, hsm: {{}}", f"name: {second}, hsm: {{}}").assign([hsm()], {A, B})
        assert served(plan) == {"03.0011": first}
        (unmet,) = plan.unmet
        assert unmet.summary == f"rule `{second}` wants 1 HSM and has 0: 03.0011: serves the rule `{first}`"


def test_part2_T6_a_rule_whose_secret_is_missing_is_unmet_and_binds_nothing(hsm: MakeHsm) -> None:
    plan = policy("name: a, hsm: {}").assign([hsm()], {B})
    assert plan.steps == ()
    (unmet,) = plan.unmet
    assert unmet.summary == "rule `a` wants 1 HSM and has 0: secret `a` is not in the guest's store"
    by_id = policy(f"name: x, secret_id: 0x{A.hex()}, hsm: {{}}").assign([hsm()], ())
    assert f"secret with id `{A.hex()}` is not in the guest's store" in by_id.unmet[0].summary


def test_a_missing_secret_leaves_the_hsm_to_later_rules(hsm: MakeHsm) -> None:
    assert served(policy("name: a, hsm: {}", "name: b, hsm: {}").assign([hsm()], {B})) == {"03.0011": "b"}


def test_one_hsm_serves_one_rule_and_two_hsms_may_share_a_secret(hsm: MakeHsm) -> None:
    plan = policy("name: a, hsm: {}, count: 2").assign([hsm("03.0001"), hsm("04.0001")], {A})
    assert {step.secret_id for step in plan.steps if step.action == "associate"} == {A}
    assert len(plan.steps) == 4


def test_a_rule_is_met_with_all_that_it_wants(hsm: MakeHsm) -> None:
    plan = policy("name: a, hsm: {}, count: 2", "name: b, hsm: {}").assign([hsm()], {A, B})
    assert served(plan) == {"03.0011": "b"}
    assert [outcome.met for outcome in plan.rules] == [False, True]


def test_what_is_left_goes_to_a_rule_that_cannot_be_met_in_full(hsm: MakeHsm) -> None:
    plan = policy("name: a, hsm: {}, count: 3").assign([hsm("03.0001"), hsm("04.0001")], {A})
    assert served(plan) == {"03.0001": "a", "04.0001": "a"}
    assert plan.unmet[0].summary == "rule `a` wants 3 HSMs and has 2: there are no more HSMs"


def test_all_takes_every_match_but_leaves_others_what_they_need(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001"), hsm("05.0001", generation=7), hsm("06.0001", mode="accel")]
    everything = policy("name: a, hsm: {}, count: all").assign(there, {A})
    assert served(everything) == {"03.0001": "a", "04.0001": "a", "05.0001": "a"}
    shared = policy("name: a, hsm: {}, count: all", "name: b, hsm: {generation: '>=CEX8'}").assign(
        there, {A, B}
    )
    assert served(shared) == {"03.0001": "a", "05.0001": "a", "04.0001": "b"}
    assert shared.met
    assert not policy("name: a, hsm: {}, count: all").assign([], {A}).met


def test_ties_go_to_what_stands_then_the_newest_then_the_lowest_apqn(hsm: MakeHsm) -> None:
    there = [hsm("05.0001"), hsm("04.0002"), hsm("04.0001", mkvp=KEYS["one"]), hsm("03.0001", generation=7)]
    wants_one = policy("name: a, hsm: {}")
    assert served(wants_one.assign(there, {A})) == {"04.0001": "a"}
    assert served(wants_one.assign(there, {A}, {"05.0001": Holding()})) == {"05.0001": "a"}
    standing = {"05.0001": Holding(), "03.0001": Holding(A)}
    assert served(wants_one.assign(there, {A}, standing)) == {"03.0001": "a"}


def test_an_hsm_is_kept_for_the_rule_that_it_serves(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001")]
    both = policy("name: a, hsm: {}", "name: b, hsm: {}")
    plan = both.assign(there, {A, B}, {"03.0001": Holding(B), "04.0001": Holding(A)})
    assert plan.steps == ()
    assert [outcome.kept for outcome in plan.rules] == [("04.0001",), ("03.0001",)]
    assert all(outcome.kept for outcome in plan.hsms)


def test_a_plan_that_was_done_asks_for_nothing_more(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001", generation=7), hsm("05.0001", mode="accel", mkvp=None)]
    rules = policy("name: a, hsm: {}", "name: b, hsm: {}", "name: fast, hsm: {mode: accel}")
    first = rules.assign(there, {A, B})
    done = {o.apqn: Holding(o.rule.secret.id if o.rule.secret else None) for o in first.hsms if o.rule}
    assert rules.assign(there, {A, B}, done).steps == ()


# What an HSM is now, what the rule wants of it, and the steps between.
@pytest.mark.parametrize(
    ("state", "associated", "expected"),
    [
        ("unbound", None, ["bind", "associate"]),
        ("bound", None, ["associate"]),
        ("associated", A, []),
        ("associated", B, ["unbind", "bind", "associate"]),
        ("pending", A, ["unbind", "bind", "associate"]),
        ("failed", None, ["unbind", "bind", "associate"]),
    ],
)
def test_the_steps_follow_from_what_an_hsm_is(
    state: str, associated: SecretId | None, expected: list[str], hsm: MakeHsm
) -> None:
    now = holding(state, associated)
    plan = policy("name: a, hsm: {}").assign([hsm()], {A}, {} if now is None else {"03.0011": now})
    assert [step.action for step in plan.steps] == expected


def test_words_that_are_no_state_are_refused() -> None:
    for state in ("Bound", "associated", ""):
        with pytest.raises(ValueError, match="is not a state"):
            holding(state)


def test_what_no_rule_wants_is_unbound_first(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001", online=False), hsm("05.0001", mode="cca")]
    current = {"04.0001": Holding(A), "05.0001": Holding(), "09.0001": Holding(B), "03.0001": Holding(B)}
    plan = policy("name: a, hsm: {}").assign(there, {A}, current)
    assert steps(plan) == [
        ("unbind", "03.0001"),
        ("unbind", "04.0001"),
        ("unbind", "05.0001"),
        ("unbind", "09.0001"),
        ("bind", "03.0001"),
        ("associate", "03.0001"),
    ]


def test_an_accelerator_that_is_bound_is_kept(hsm: MakeHsm) -> None:
    plan = policy("name: x, hsm: {mode: accel}").assign([hsm(mode="accel")], (), {"03.0011": Holding()})
    assert plan.steps == ()


def test_a_cca_hsm_is_never_used(hsm: MakeHsm) -> None:
    plan = policy("name: a, hsm: {}", "name: x, hsm: {mode: accel}").assign([hsm(mode="cca")], {A})
    assert plan.steps == ()
    assert len(plan.unmet) == 2


def test_reasons_are_given_field_by_field(hsm: MakeHsm) -> None:
    wanted = f"name: a, hsm: {{serial: {'A' * 16}, generation: '>=CEX8'}}"
    plan = policy(wanted).assign(
        [hsm("04.0001", serial="B" * 16), hsm("03.0001", serial="C" * 16, generation=7)], {A}
    )
    (unmet,) = plan.unmet
    assert [str(reason) for reason in unmet.reasons] == [
        f"03.0001: serial differs: `{'A' * 16}` wanted, `{'C' * 16}` found",
        "03.0001: generation differs: `>=CEX8` wanted, `CEX7` found",
        f"04.0001: serial differs: `{'A' * 16}` wanted, `{'B' * 16}` found",
    ]
    assert unmet.summary == (
        f"rule `a` wants 1 HSM and has 0: 04.0001: serial differs: `{'A' * 16}` wanted, `{'B' * 16}` found;"
        f" 03.0001: serial differs: `{'A' * 16}` wanted, `{'C' * 16}` found,"
        " generation differs: `>=CEX8` wanted, `CEX7` found"
    )
    assert (
        policy(wanted).assign([], {A}).unmet[0].summary == "rule `a` wants 1 HSM and has 0: no HSM is there"
    )


def test_a_summary_stays_one_line_however_many_hsms_there_are(hsm: MakeHsm) -> None:
    there = [hsm(f"{card:02x}.0001", online=False) for card in range(64)]
    (unmet,) = policy("name: a, hsm: {}").assign(there, {A}).unmet
    assert unmet.summary.endswith("02.0001: the HSM is offline; 61 more do not match either")
    assert "\n" not in unmet.summary


def test_two_usable_domains_of_one_card_with_one_master_key_are_refused(hsm: MakeHsm) -> None:
    anything = policy("name: a, hsm: {}")
    with pytest.raises(
        InventoryRefused, match=r"03\.0001 and 03\.0002 are domains of one card with the same master key"
    ):
        anything.assign([hsm("03.0002"), hsm("03.0001")], {A})
    for twin in (
        hsm("04.0002"),
        hsm("03.0002", mkvp=KEYS["one"]),
        hsm("03.0002", online=False),
        hsm("03.0002", mkvp=None),
        hsm("03.0002", mode="cca"),
    ):
        assert anything.assign([hsm("03.0001"), twin], {A}).met


def test_an_apqn_that_comes_twice_is_refused(hsm: MakeHsm) -> None:
    with pytest.raises(InventoryRefused, match=r"HSM 03\.0011 is there twice"):
        policy().assign([hsm(), hsm(mode="accel")], ())


def test_permit_gives_the_first_rule_that_allows_it(hsm: MakeHsm) -> None:
    rules = policy(
        f"name: x, secret: a, hsm: {{serial: {'A' * 16}}}", "name: z, secret: a, hsm: {}", "name: a, hsm: {}"
    )
    assert rules.permit(hsm(), A).name == "z"
    assert rules.permit(hsm(serial="A" * 16), A).name == "x"


def test_permit_refuses_what_no_rule_allows_and_says_why(hsm: MakeHsm) -> None:
    rules = policy(
        f"name: a, hsm: {{serial: {'A' * 16}}}", "name: b, hsm: {}", "name: fast, hsm: {mode: accel}"
    )
    with pytest.raises(NotPermitted) as caught:
        rules.permit(hsm(), A)
    assert str(caught.value) == (
        "no rule allows secret `a` on 03.0011: rule `a`:"
        f" serial differs: `{'A' * 16}` wanted, `93AADFK719460083` found; nor do the 2 other rules"
    )
    assert [refusal.rule.name for refusal in caught.value.refusals] == ["a", "b", "fast"]
    assert [[m.field for m in refusal.mismatches] for refusal in caught.value.refusals] == [
        ["serial"],
        ["secret"],
        ["secret", "mode"],
    ]


def test_permit_refuses_unknown_secrets_empty_policies_and_everything_but_ep11(hsm: MakeHsm) -> None:
    rules = policy("name: a, hsm: {}", "name: fast, hsm: {mode: accel}")
    with pytest.raises(NotPermitted, match=f"no rule allows secret with id `{B.hex()}`"):
        rules.permit(hsm(), B)
    with pytest.raises(NotPermitted, match="the policy has no rules"):
        policy().permit(hsm(), A)
    for changes in ({"mode": "accel"}, {"mode": "cca"}, {"online": False}, {"mkvp": None}):
        with pytest.raises(NotPermitted):
            rules.permit(hsm(**changes), A)


def test_rules_for_an_hsm_leave_the_secret_aside(hsm: MakeHsm) -> None:
    rules = policy(
        "name: a, hsm: {}", f"name: b, hsm: {{serial: {'A' * 16}}}", "name: fast, hsm: {mode: accel}"
    )
    assert [rule.name for rule in rules.rules_for(hsm())] == ["a"]
    assert [rule.name for rule in rules.rules_for(hsm(mode="accel"))] == ["fast"]
    assert rules.rules_for(hsm(online=False)) == ()


def test_a_policy_prints_without_its_digest() -> None:
    assert "digest" not in repr(policy("name: a, hsm: {}"))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Policy, list[Hsm], set[SecretId], dict[str, Holding]]:
    names = ["a", "b", "c", "d"]
    modes = st.sampled_from(["", "mode: ep11", "mode: accel"])
    others = st.sampled_from(
        ["", "generation: '>=CEX8'", "serial: AAAAAAAAAAAAAAAA", f"mkvp: {KEYS['one'].hex()}"]
    )
    counts = st.sampled_from(["", ", count: 2", ", count: all"])
    rules = []
    for name in draw(st.lists(st.sampled_from(names), unique=True)):
        fields = ", ".join(filter(None, (draw(modes), draw(others))))
        rules.append(f"name: {name}, hsm: {{{fields}}}{draw(counts)}")
    there = [
        Hsm(
            f"{card:02x}.0001",
            draw(st.sampled_from(["ep11", "ep11", "accel", "cca"])),
            draw(st.sampled_from([7, 8])),
            draw(st.sampled_from(serials("A", "B"))),
            draw(st.sampled_from([*KEYS.values(), None])),
            online=draw(st.sampled_from([True, True, False])),
        )
        for card in range(draw(st.integers(0, 5)))
    ]
    secrets = {secret_id(name) for name in draw(st.sets(st.sampled_from(names)))}
    states = st.sampled_from([None, Holding(), Holding(A), Holding(B), Holding(stuck=True)])
    current = {hsm.apqn: now for hsm in there if (now := draw(states)) is not None}
    return policy(*rules), there, secrets, current


@given(situations(), st.randoms(use_true_random=False))
def test_permuting_hsms_never_changes_the_plan(
    situation: tuple[Policy, list[Hsm], set[SecretId], dict[str, Holding]], dice: random.Random
) -> None:
    rules, there, secrets, current = situation
    shuffled = there.copy()
    dice.shuffle(shuffled)
    assert rules.assign(there, secrets, current) == rules.assign(
        shuffled, secrets, dict(reversed(current.items()))
    )


@given(situations())
def test_a_plans_steps_can_be_executed_and_lead_where_it_says(
    situation: tuple[Policy, list[Hsm], set[SecretId], dict[str, Holding]],
) -> None:
    rules, there, secrets, current = situation
    plan = rules.assign(there, secrets, current)
    after = executed(plan.steps, current)
    by_apqn = {hsm.apqn: hsm for hsm in there}
    for outcome in plan.hsms:
        if outcome.rule is None:
            assert outcome.apqn not in after
        else:
            secret = outcome.rule.secret
            assert after.pop(outcome.apqn) == Holding(secret.id if secret else None)
            assert outcome.rule in rules.rules_for(by_apqn[outcome.apqn])
            if secret is not None:
                assert secret.id in secrets
                rules.permit(by_apqn[outcome.apqn], secret.id)
    assert not after
    assert rules.assign(there, secrets, {}).met == plan.met


def executed(todo: Iterable[Step], current: dict[str, Holding]) -> dict[str, Holding]:
    """The states after the steps, each checked as an HSM would (formats, F.5)."""
    now = dict(current)
    for step in todo:
        match step.action:
            case "unbind":
                del now[step.apqn]
            case "bind":
                assert step.apqn not in now
                now[step.apqn] = Holding()
            case "associate":
                assert now[step.apqn] == Holding()
                now[step.apqn] = dataclasses.replace(now[step.apqn], secret_id=step.secret_id)
    return now


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"apqn": "3.11"}, "is not an APQN"),
        ({"apqn": "03.001A"}, "is not an APQN"),
        ({"mode": "cex"}, "is not a mode"),
        ({"generation": 9}, "generation 9"),
        ({"mkvp": b"short"}, "an MKVP has 16 bytes, not 5"),
    ],
)
def test_an_hsm_that_cannot_be_is_refused(changes: dict[str, object], said: str, hsm: MakeHsm) -> None:
    with pytest.raises(ValueError, match=said):
        hsm(**changes)
