"""Where pvapconfig 2.43.0 and keyvisor differ: said where they do, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from tests.policy.pvapconfig_world import SERIALS, as_file, worlds

from keyvisor_policy import Holding, Hsm, InventoryRefused, Policy, SecretId, parse, secret_id
from keyvisor_policy.compat import matches, pvapconfig_plan
from keyvisor_policy.compat_differences import CODES, differences
from keyvisor_policy.matching import usable

MakeHsm = Callable[..., Hsm]

A, B = secret_id("a"), secret_id("b")
MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"
EP11 = f"mode: EP11, mkvp: {MKVP}"

World = tuple[list[dict[str, str]], list[Hsm], set[SecretId], dict[str, Holding]]


def policy(*entries: str) -> Policy:
    return parse("\n".join(f"- {{{entry}}}" for entry in entries) or "[]")


@given(worlds())
def test_what_differs_is_said_and_nothing_else(world: World) -> None:
    entries, hsms, secrets, current = world
    made = parse(as_file(entries))
    found = differences(made, hsms, secrets, current)
    assert {each.code for each in found} <= set(CODES)
    try:
        theirs, ours = (
            pvapconfig_plan(made.rules, hsms, secrets, current),
            made.assign(hsms, secrets, current),
        )
    except InventoryRefused:
        assert [each.code for each in found] == ["refused"]
        return
    done: dict[str, list[str]] = {}
    for step in theirs.steps:
        done.setdefault(step.apqn, []).append(step.action)
    there = [entry.hsm.apqn if entry.hsm else None for entry in theirs.entries]
    here = [outcome.hsms[0].apqn if outcome.hsms else None for outcome in ours.rules]
    served = {apqn: made.rules[number] for number, apqn in enumerate(there) if apqn is not None}
    assert [each.entry for each in found if each.code == "assignment"] == [
        number + 1 for number in range(len(there)) if there[number] != here[number]
    ]
    assert [each.apqn for each in found if each.code == "steps"] == [
        hsm.apqn
        for hsm in ours.hsms
        if list(hsm.actions) != done.get(hsm.apqn, []) or hsm.rule is not served.get(hsm.apqn)
    ]
    assert {(each.entry, each.apqn) for each in found if each.code == "mingen"} == {
        (number, hsm.apqn)
        for number, rule in enumerate(made.rules, 1)
        for hsm in hsms
        if hsm.online and matches(rule, hsm) != usable(hsm, rule.hsm)
    }
    assert [each.entry for each in found if each.code == "missing-secret"] == [
        number for number, rule in enumerate(made.rules, 1) if rule.secret and rule.secret.id not in secrets
    ]
    if not any(each.code == "outcome" for each in found):
        assert (theirs.exit_code == 0) == ours.met
        assert [apqn is None for apqn in there].count(True) == len(ours.unmet)


def test_nothing_is_said_where_nothing_differs(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001", mode="accel")]
    assert differences(policy(f"{EP11}, name: a", "mode: Accel, mingen: CEX8"), there, {A}) == ()
    assert differences(policy(), [], ()) == ()


def said(
    made: Policy, hsms: list[Hsm], secrets: set[SecretId], current: dict[str, Holding] | None = None
) -> list[str]:
    return [f"{each} [{each.code}]" for each in differences(made, hsms, secrets, current or {})]


def test_mingen(hsm: MakeHsm) -> None:
    there = [hsm("03.0001", mode="accel", generation=8), hsm("04.0001", mode="accel", generation=6)]
    assert said(policy("mode: Accel, mingen: CEX7, name: tls"), there, set()) == [
        (
            "entry 1 `tls`: 03.0001 is CEX8 and `mingen` is CEX7: "
            "keyvisor takes it, pvapconfig-2.43 refuses it as too new [mingen]"
        ),
        (
            "entry 1 `tls`: 04.0001 is CEX6 and `mingen` is CEX7: "
            "pvapconfig-2.43 takes it, keyvisor refuses it as too old [mingen]"
        ),
        "entry 1 `tls`: pvapconfig-2.43 gives it 04.0001, keyvisor gives it 03.0001 [assignment]",
        "HSM 03.0001: pvapconfig-2.43 leaves it, keyvisor binds it for `tls` [steps]",
        "HSM 04.0001: pvapconfig-2.43 binds it for `tls`, keyvisor leaves it [steps]",
    ]


def test_mingen_decides_nothing_about_an_hsm_that_is_offline(hsm: MakeHsm) -> None:
    there = [hsm("03.0001", mode="accel", generation=generation, online=False) for generation in (6, 7, 8)]
    found = [said(policy("mode: Accel, mingen: CEX7"), [each], set()) for each in there]
    assert not any("mingen" in line for lines in found for line in lines)


def test_first_fit_against_the_best_assignment(hsm: MakeHsm) -> None:
    there = [hsm("03.0001", serial=SERIALS[0]), hsm("04.0001", serial=SERIALS[1])]
    made = policy(f"{EP11}, name: a", f"{EP11}, name: b, serialnr: {SERIALS[0]}")
    assert said(made, there, {A, B}) == [
        "entry 1 `a`: pvapconfig-2.43 gives it 03.0001, keyvisor gives it 04.0001; here 03.0001 goes to rule `b` [assignment]",
        (
            "entry 2 `b`: pvapconfig-2.43 leaves it without an HSM, keyvisor gives it 03.0001; "
            "there 03.0001 is the first match of entry 1 `a` [assignment]"
        ),
        "HSM 03.0001: pvapconfig-2.43 binds and associates it for `a`, keyvisor binds and associates it for `b` [steps]",
        "HSM 04.0001: pvapconfig-2.43 leaves it, keyvisor binds and associates it for `a` [steps]",
        "pvapconfig-2.43 applies 1 of 2 and ends with 0, with `--strict` 1; keyvisor applies 2 of 2 and ends with 0 [outcome]",
    ]


def test_a_missing_secret(hsm: MakeHsm) -> None:
    assert said(
        policy(f"{EP11}, name: a", "mode: Accel"), [hsm("03.0001"), hsm("04.0001", mode="accel")], set()
    ) == [
        (
            "entry 1 `a`: secret `a` is not in the guest's store: pvapconfig-2.43 passes the entry over; "
            "keyvisor applies nothing then, unless `--partial` is given [missing-secret]"
        ),
        (
            "pvapconfig-2.43 applies 1 of 2 and ends with 0, with `--strict` 1; keyvisor can meet 1 of 2: "
            "it applies nothing without `--partial` and ends with 1 [outcome]"
        ),
    ]


@pytest.mark.parametrize(
    ("changes", "now", "words"),
    [
        ({}, Holding(), "unbinds, binds and associates it for `a`, keyvisor associates it for `a`"),
        ({"online": False}, Holding(A), "does not look at it, keyvisor unbinds it"),
    ],
)
def test_what_is_done_to_an_hsm(hsm: MakeHsm, changes: dict[str, bool], now: Holding, words: str) -> None:
    found = said(policy(f"{EP11}, name: a"), [hsm(**changes)], {A}, {"03.0011": now})
    assert f"HSM 03.0011: pvapconfig-2.43 {words} [steps]" in found


def test_hsms_that_both_refuse(hsm: MakeHsm) -> None:
    (one,) = said(policy("mode: Accel"), [hsm("03.0001"), hsm("03.0002")], set())
    assert one.startswith(
        "no plan is made: 03.0001 and 03.0002 are domains of one card with the same master key"
    )


def test_both_fail_but_not_with_as_much(hsm: MakeHsm) -> None:
    found = said(policy("mode: Accel, mingen: CEX6", f"{EP11}, name: a"), [hsm(mode="accel")], {A})
    assert found[-1] == (
        "pvapconfig-2.43 applies 0 of 2 and ends with 1, with `--strict` 1; keyvisor can meet 1 of 2: "
        "it applies nothing without `--partial` and ends with 1 [outcome]"
    )
