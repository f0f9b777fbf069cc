"""Cases: how they are read, what is wrong with them, and what running them shows."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import DocumentError, Holding, Hsm, NotPermitted, Policy, SecretId, parse, secret_id
from keyvisor_policy.cases import MAX_CASES, Case, Expectation, Named, Paired
from keyvisor_policy.rules import Secret
from keyvisor_policy.trials import coverage, run

MKVP = "11111111111111111111111111111111"
ID = "0x" + "ab" * 32
RULES = f"""\
version: 1
associations:
- {{name: pay, secret: gold, hsm: {{mkvp: 0x{MKVP}, serial: AAAAAAAAAAAAAAAA}}}}
- {{name: fast, hsm: {{mode: accel, generation: ">=CEX7"}}}}
cases:
"""
GOOD = f"{{apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x{MKVP}, serial: AAAAAAAAAAAAAAAA}}"
OTHER = f"{{apqn: 04.0011, mode: ep11, generation: CEX8, mkvp: 0x{MKVP}, serial: BBBBBBBBBBBBBBBB}}"
FAST = "{apqn: 05.0011, mode: accel, generation: CEX7}"
SLOW = "{apqn: 06.0011, mode: accel, generation: CEX6}"


def case(
    expect: str, *, hsms: str = f"{GOOD}, {OTHER}, {FAST}, {SLOW}", more: str = "secrets: [gold]"
) -> str:
    return f"- name: x\n  given: {{hsms: [{hsms}], {more}}}\n  expect: {{{expect}}}\n"


def differences(expect: str, **rest: str) -> list[str]:
    policy = parse(RULES + case(expect, **rest), "p.yaml")
    (trial,) = run(policy)
    assert trial.passed == (not trial.differences)
    return [str(finding).removeprefix("p.yaml:") for finding in trial.differences]


def complaints(cases: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(RULES + cases, "p.yaml")
    return [str(finding).removeprefix("p.yaml:") for finding in caught.value.findings]


def test_a_case_is_read_with_all_that_it_has_and_its_places() -> None:
    policy = parse(
        RULES
        + f"""\
- name: everything
  given:
    hsms: [{GOOD}, {{apqn: 0A.0011, mode: cca, generation: CEX6, firmware: 8.0, api: 4, compliance: [fips], online: false}}]
    secrets: [gold, {ID}]
    current: {{0a.0011: bound, 03.0011: {{associated: gold}}}}
  expect:
    associate: {{03.0011: gold}}
    bind: []
    unmet: [fast]
    unbound: [0A.0011]
    refuse:
    - {{secret: {ID}, apqn: 03.0011}}
    partly: true
""",
        "p.yaml",
    )
    gold, unnamed = Secret(secret_id("gold"), "gold"), Secret(SecretId(b"\xab" * 32))
    good = Hsm("03.0011", "ep11", 8, "A" * 16, bytes.fromhex(MKVP))
    cca = Hsm("0a.0011", "cca", 6, "", None, (8, 0), 4, frozenset({"fips"}), online=False)
    assert policy.cases == (
        Case(
            "everything",
            (good, cca),
            (gold, unnamed),
            {"0a.0011": Holding(), "03.0011": Holding(gold.id)},
            Expectation(
                associate=(Paired("03.0011", gold, 12, 17),),
                bind=(),
                unmet=(Named("fast", 14, 13),),
                unbound=(Named("0a.0011", 15, 15),),
                refuse=(Paired("03.0011", unnamed, 17, 7),),
                partly=True,
                line=11,
                column=3,
            ),
            6,
            3,
        ),
    )


def test_a_policy_without_cases_has_none_and_cases_change_no_decision() -> None:
    bare = parse(RULES.replace("cases:\n", ""))
    assert bare.cases == ()
    assert parse(RULES + case("associate: {03.0011: gold}")).rules == bare.rules


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ("- {}\n", ["6:3: the key `name` is missing", "6:3: the key `given` is missing", "6:3: the key `expect` is missing"]),
        (case("asociate: {}"), ["8:12: unknown key `asociate`; did you mean `associate`?"]),
        (
            case("associate: {04.0011: gold, 07.0011: gold}"),
            ["8:39: associate: HSM 07.0011 is not among the case's `given.hsms`; add it there"],
        ),
        (
            case("associate: {seven: gold}"),
            ["8:24: associate: expected card.domain in hex, as in `03.0011`, found `seven`"],
        ),
        (
            case("associate: {0A.0011: gold, 0a.0011: gold}", hsms=GOOD.replace("03.0", "0a.0")),
            ["8:39: associate: HSM 0a.0011 is there twice; name it once"],
        ),
        (
            case("bind: [08.0011], unbound: [08.0011], refuse: [{secret: gold, apqn: 08.0011}]"),
            [
                f"8:{column}: {key}: HSM 08.0011 is not among the case's `given.hsms`; add it there"
                for column, key in ((19, "bind"), (39, "unbound"), (79, "refuse"))
            ],
        ),
        (
            case("associate: {}", more="current: {08.0011: bound}"),
            ["7:355: current: HSM 08.0011 is not among the case's `given.hsms`; add it there"],
        ),
        (
            case("associate: {}", more="current: {03.0011: bond}", hsms=GOOD),
            [
                "7:153: 03.0011: expected `bound` or `{associated: SECRET}`, found `bond`; did you mean `bound`?",
            ],
        ),
        (
            case("associate: {}", more="current: {03.0011: {asociated: gold}}", hsms=GOOD),
            ["7:153: 03.0011: expected `bound` or `{associated: SECRET}`, found other keys"],
        ),
        (
            case("associate: {}", more="current: {03.0011: [bound]}", hsms=GOOD),
            ["7:153: 03.0011: expected `bound` or `{associated: SECRET}`, found a list"],
        ),
        (
            case("unmet: [pays]"),
            ["8:20: unmet: `pays` is not the name of a rule of this policy; did you mean `pay`?"],
        ),
        (case("associate: {03.0011: 0x12}"), ["8:33: 03.0011: expected 64 hex digits, found `0x12`"]),
        (
            case("associate: {03.0011: no}"),
            ["8:33: 03.0011: expected text, but YAML reads `no` as a truth value; put it in quotes"],
        ),
        (
            case("associate: {}") + case("associate: {}"),
            ["9:9: name: `x` is the name of another case already, in line 6"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_cases_is_found_at_its_place(cases: str, said: list[str]) -> None:
    assert complaints(cases) == said


def test_too_many_cases_are_refused_before_they_are_looked_at() -> None:
    last = MAX_CASES + 6
    assert complaints("- {}\n" * (MAX_CASES + 1)) == [
        f"{last}:3: more than the {MAX_CASES} cases that a policy may have"
    ]


@pytest.mark.parametrize(
    "cases", ["cases: []\n", "cases: 1\n", "cases: {a: b}\n", "cases: [[]]\n", "cases: [1]\n"]
)
def test_what_is_no_list_of_cases_is_refused_or_empty(cases: str) -> None:
    try:
        assert parse("version: 1\n" + cases).cases == ()
    except DocumentError as error:
        assert len(error.findings) == 1  # noqa: PT017


SERIAL_DIFFERS = "rule `pay` in line 3: serial differs: `AAAAAAAAAAAAAAAA` wanted, `BBBBBBBBBBBBBBBB` found"
GENERATION_DIFFERS = "rule `fast` in line 4: generation differs: `>=CEX7` wanted, `CEX6` found"

# (what is expected, what it says when it does not hold, its twin that holds)
TWINS = [
    (
        "associate: {04.0011: gold}, partly: true",
        f"8:24: 04.0011: expected secret `gold`, found nothing; {SERIAL_DIFFERS}",
        "associate: {03.0011: gold}, partly: true",
    ),
    (
        "associate: {03.0011: silver}",
        "8:24: 03.0011: expected secret `silver`, found secret `gold` by rule `pay` in line 3; no rule is for this secret",
        "associate: {03.0011: gold}",
    ),
    (
        "associate: {}",
        "8:3: 03.0011: expected not to be associated, found secret `gold` by rule `pay` in line 3",
        "associate: {03.0011: gold}",
    ),
    (
        "bind: [06.0011, 05.0011]",
        f"8:19: 06.0011: expected bound as an accelerator, found nothing; {GENERATION_DIFFERS}",
        "bind: [05.0011]",
    ),
    (
        "bind: []",
        "8:3: 05.0011: expected not to be bound as an accelerator, found bound by rule `fast` in line 4",
        "bind: [05.0011]",
    ),
    ("unmet: [pay]", "8:20: rule `pay`: expected unmet, found met with 03.0011", "unmet: []"),
    (
        "unbound: [06.0011, 05.0011]",
        "8:31: 05.0011: expected unbound, found bound by rule `fast` in line 4",
        "unbound: [06.0011, 04.0011]",
    ),
    (
        "refuse: [{secret: gold, apqn: 03.0011}]",
        "8:21: secret `gold` on 03.0011: expected refused, found permitted by rule `pay` in line 3",
        "refuse: [{secret: gold, apqn: 04.0011}, {secret: gold, apqn: 05.0011}]",
    ),
    (
        "refuse: [{secret: golf, apqn: 04.0011}]",
        "8:21: secret `golf` on 04.0011: no rule is for this secret, so that this shows nothing; did you mean `gold`?",
        "refuse: [{secret: gold, apqn: 04.0011}]",
    ),
    ("", "6:3: expects nothing; say what must come of it, as in `associate: {}`", None),
    (
        "associate: {}, partly: true",
        "6:3: expects nothing; say what must come of it, as in `associate: {}`",
        "associate: {03.0011: gold}, partly: true",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("expect", "said", "twin"), TWINS)
def test_each_expectation_fails_in_words_at_its_place_and_its_twin_holds(
    expect: str, said: str, twin: str | None
) -> None:
    assert differences(expect) == [said]
    assert twin is None or differences(twin) == []


def test_a_rule_is_expected_unmet_where_it_is() -> None:
    for expect in ("unmet: [pay], associate: {}", "unmet: [], partly: true, bind: [05.0011]"):
        assert differences(expect, more="secrets: []") == []
    assert differences("unmet: []", more="secrets: []") == [
        "8:3: expected met, but rule `pay` wants 1 HSM and has 0: secret `gold` is not in the guest's store"
    ]
    assert differences("associate: {03.0011: gold}", more="secrets: []") == [
        "8:24: 03.0011: expected secret `gold`, found nothing; rule `pay` in line 3: secret `gold` is not in the guest's store"
    ]  # fmt: skip


def test_an_hsm_that_another_rule_has_is_told_with_that_rule() -> None:
    text = f"""\
version: 1
associations:
- {{name: a, hsm: {{}}}}
- {{name: b, hsm: {{}}}}
cases:
{case("associate: {03.0011: b, 04.0011: a}", more="secrets: [a, b]", hsms=f"{GOOD}, {OTHER}")}"""
    a, b = "rule `a` in line 3", "rule `b` in line 4"
    (trial,) = run(parse(text))
    assert [finding.message for finding in trial.differences] == [
        f"03.0011: expected secret `b`, found secret `a` by {a}; {b}: has all that it wants: 04.0011",
        f"04.0011: expected secret `a`, found secret `b` by {b}; {a}: has all that it wants: 03.0011",
    ]  # fmt: skip
    (trial,) = run(parse(text.replace(f", {OTHER}", "").replace(", 04.0011: a", "")))
    assert [finding.message for finding in trial.differences] == [
        "03.0011: expected secret `b`, found secret `a` by rule `a` in line 3; rule `b` in line 4: the HSM serves the rule `a`"
    ]  # fmt: skip


def test_a_case_that_matches_nothing_fails_and_one_of_the_rules_world_does_not() -> None:
    nothing = "6:3: matches nothing: no rule matches one of its HSMs or is for one of its secrets; give it those of a rule"
    assert differences("associate: {}", hsms=OTHER, more="secrets: [golden]") == [nothing]
    assert differences("associate: {}", hsms="", more="secrets: [gold]") == [nothing]
    assert differences("associate: {}", hsms=OTHER, more="secrets: [gold]") == []
    assert differences("associate: {}", hsms=FAST, more="secrets: []") == []


def test_hsms_that_no_plan_is_made_for_fail_the_case() -> None:
    twice = f"{GOOD}, {GOOD.replace('03.0011', '03.0012')}"
    (said,) = differences("associate: {}", hsms=twice)
    assert said.startswith("6:3: no plan is made for its HSMs: 03.0011 and 03.0012 are domains of one card")


def test_what_stands_already_is_looked_at() -> None:
    both = f"{GOOD}, {GOOD.replace('03.0011', '04.0011')}"
    for current, winner in (("", "03.0011"), (", current: {04.0011: {associated: gold}}", "04.0011")):
        assert (
            differences(f"associate: {{{winner}: gold}}", hsms=both, more="secrets: [gold]" + current) == []
        )


def test_coverage_names_rules_that_no_case_decides() -> None:
    def covered(*expects: str, more: str = "secrets: [gold]") -> tuple[list[str], list[str]]:
        cases = "".join(
            case(expect, more=more).replace("name: x", f"name: x{number}")
            for number, expect in enumerate(expects)
        )
        policy = parse(RULES + cases)
        found = coverage(policy, run(policy))
        return [rule.name for rule in found.never_met], [rule.name for rule in found.never_kept_out]

    assert covered("bind: [05.0011]") == ([], ["pay", "fast"])
    assert covered("bind: [05.0011]", more="secrets: []") == (["pay"], ["fast"])
    assert covered("bind: [05.0011]", "unmet: [pay]") == ([], ["pay", "fast"])
    assert covered("refuse: [{secret: gold, apqn: 04.0011}]") == ([], ["fast"])
    assert covered("refuse: [{secret: gold, apqn: 03.0011}]") == ([], ["pay", "fast"])


NAMES = ["a", "b", "c"]
hsms = st.builds(
    Hsm,
    apqn=st.just("00.0001"),
    mode=st.sampled_from(["ep11", "ep11", "accel"]),
    generation=st.sampled_from([7, 8]),
    serial=st.sampled_from(["A" * 16, "B" * 16]),
    mkvp=st.just(b"\1" * 16),
)


@st.composite
def policies_with_a_case(draw: st.DrawFn) -> Policy:
    rules = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1)):
        mode = draw(st.sampled_from(["mode: ep11", "mode: accel"]))
        other = draw(st.sampled_from(["", ", generation: '>=CEX8'", f", serial: {'A' * 16}"]))
        rules.append(
            f"{{name: {name}, hsm: {{{mode}{other}}}, count: {draw(st.sampled_from(['1', 'all']))}}}"
        )
    policy = parse(f"version: 1\nassociations: [{', '.join(rules)}]\n")
    there = tuple(
        dataclasses.replace(hsm, apqn=f"0{card}.0001")
        for card, hsm in enumerate(draw(st.lists(hsms, min_size=1, max_size=3)))
    )
    names = [rule.name for rule in policy.rules]
    secrets = st.sampled_from([Secret(secret_id(name), name) for name in names])
    apqns = st.sampled_from([hsm.apqn for hsm in there])
    named = st.lists(st.builds(Named, apqns), max_size=2, unique=True).map(tuple)
    paired = st.lists(st.builds(Paired, apqns, secrets), max_size=2, unique_by=lambda pair: pair.apqn).map(
        tuple
    )
    expect = draw(
        st.builds(
            Expectation,
            associate=st.none() | paired,
            bind=st.none() | named,
            unmet=st.none() | st.lists(st.builds(Named, st.sampled_from(names)), max_size=1).map(tuple),
            unbound=named,
            refuse=paired,
            partly=st.booleans(),
        )
    )
    held = tuple(draw(st.lists(secrets, unique=True)))
    return dataclasses.replace(policy, cases=(Case("x", there, held, {}, expect),))


@given(policies_with_a_case())
def test_a_case_passes_exactly_where_plan_and_permissions_are_as_it_says(policy: Policy) -> None:
    (one,) = policy.cases
    expect = one.expect
    plan = policy.assign(one.hsms, {secret.id for secret in one.secrets})
    is_associated = {o.apqn: o.rule.secret.id for o in plan.hsms if o.rule and o.rule.secret}
    is_bound = {o.apqn for o in plan.hsms if o.rule and not o.rule.secret}
    said = {pair.apqn: pair.secret.id for pair in expect.associate or ()}
    bound = {named.name for named in expect.bind or ()}
    holds = said.items() <= is_associated.items() and bound <= is_bound
    if not expect.partly:
        # What is named under the other word is that word's affair: it differs there already.
        holds &= expect.associate is None or set(is_associated) <= set(said) | bound
        holds &= expect.bind is None or is_bound <= bound | set(said)
    unmet, said_unmet = {o.rule.name for o in plan.unmet}, {named.name for named in expect.unmet or ()}
    holds &= said_unmet <= unmet if expect.partly or expect.unmet is None else said_unmet == unmet
    holds &= all(named.name not in is_associated.keys() | is_bound for named in expect.unbound)
    by_apqn = {hsm.apqn: hsm for hsm in one.hsms}
    for pair in expect.refuse:
        try:
            policy.permit(by_apqn[pair.apqn], pair.secret.id)
            holds = False
        except NotPermitted:
            holds &= any(rule.secret and rule.secret.id == pair.secret.id for rule in policy.rules)
    (trial,) = run(policy)
    vacuous = any(
        finding.message.startswith(("expects nothing", "matches nothing")) for finding in trial.differences
    )
    if not vacuous:
        assert trial.passed == holds
    else:
        assert not trial.passed
    assert {rule.name for rule in trial.met} == {o.rule.name for o in plan.rules if o.met}


@given(policies_with_a_case())
def test_a_case_that_writes_down_the_plan_passes(policy: Policy) -> None:
    (one,) = policy.cases
    plan = policy.assign(one.hsms, {secret.id for secret in one.secrets})
    expect = Expectation(
        associate=tuple(Paired(o.apqn, o.rule.secret) for o in plan.hsms if o.rule and o.rule.secret),
        bind=tuple(Named(o.apqn) for o in plan.hsms if o.rule and not o.rule.secret),
        unmet=tuple(Named(o.rule.name) for o in plan.unmet),
        unbound=tuple(Named(o.apqn) for o in plan.hsms if not o.rule),
    )
    (trial,) = run(dataclasses.replace(policy, cases=(dataclasses.replace(one, expect=expect),)))
    assert [f.message for f in trial.differences if not f.message.startswith("matches nothing")] == []


def test_a_heap_of_rules_and_of_misspelt_names_is_read_quickly() -> None:
    rules = "".join(f"- {{name: {'x' * 50}{number:05}, hsm: {{}}}}\n" for number in range(5000))
    unmet = ", ".join(f"{'x' * 50}{number:05}y" for number in range(5000))
    text = f"version: 1\nassociations:\n{rules}cases:\n{case(f'unmet: [{unmet}]')}"
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert all("did you mean" not in finding.message for finding in caught.value.findings)
