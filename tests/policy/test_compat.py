"""pvapconfig's own plan: against a plain transcription of its algorithm, and story by story (formats, F.2 to F.4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from tests.policy.pvapconfig_world import IDS, KEYS, SERIALS, as_file, worlds

from keyvisor_policy import Holding, Hsm, InventoryRefused, Rule, SecretId, parse, secret_id
from keyvisor_policy.compat import PvapconfigPlan, differing, matches, pvapconfig_plan

MakeHsm = Callable[..., Hsm]

A, B = secret_id("a"), secret_id("b")
MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"
EP11 = f"mode: EP11, mkvp: {MKVP}"


def rules(*entries: str) -> tuple[Rule, ...]:
    return parse("\n".join(f"- {{{entry}}}" for entry in entries) or "[]").rules


def steps(plan: PvapconfigPlan) -> list[tuple[str, str]]:
    return [(step.action, step.apqn) for step in plan.steps]


def served(plan: PvapconfigPlan) -> list[str | None]:
    return [entry.hsm.apqn if entry.hsm else None for entry in plan.entries]


def results(plan: PvapconfigPlan) -> list[str]:
    return [entry.result for entry in plan.entries]


# --- the algorithm, written down once more from formats F.3, over the raw entries of the file


def transcribed(
    entries: list[dict[str, str]],
    hsms: list[Hsm],
    secrets: set[SecretId],
    current: dict[str, Holding],
    strict: bool,
) -> tuple[list[tuple[str, str, bytes | None]], list[str | None], int] | str:
    there = [hsm for hsm in hsms if hsm.online and hsm.mode in ("ep11", "accel")]
    if not entries or not there:
        return [], [None] * len(entries), 0
    for one in there:
        for other in there:
            twins = (
                one.mode == other.mode == "ep11" and one.apqn[:2] == other.apqn[:2] and one.apqn < other.apqn
            )
            if twins and one.mkvp is not None and one.mkvp == other.mkvp:
                return "refused"
    there.sort(key=lambda hsm: (-hsm.generation, hsm.apqn))

    def match(entry: dict[str, str], hsm: Hsm) -> bool:
        if entry["mode"].lower() != hsm.mode:
            return False
        if "mingen" in entry and hsm.generation > int(entry["mingen"][-1]):
            return False
        if hsm.mode == "accel":
            return True
        if "serialnr" in entry and entry["serialnr"] != hsm.serial:
            return False
        return hsm.mkvp is not None and entry["mkvp"] == hsm.mkvp.hex()

    done: list[tuple[str, str, bytes | None]] = []
    got: list[str | None] = [None] * len(entries)
    used: set[str] = set()
    for number, entry in enumerate(entries):  # keep
        for hsm in there:
            if hsm.apqn in used or not match(entry, hsm):
                continue
            now = current.get(hsm.apqn)
            if now is None:
                continue
            if hsm.mode == "ep11":
                wanted = secret_id(entry["name"])
                if now.stuck or now.secret_id != wanted or wanted not in secrets:
                    continue
            got[number] = hsm.apqn
            used.add(hsm.apqn)
            break
    # clear
    done += [("unbind", hsm.apqn, None) for hsm in there if hsm.apqn not in used and hsm.apqn in current]
    for number, entry in enumerate(entries):  # fulfil
        if got[number] is not None:
            continue
        for hsm in there:
            if hsm.apqn in used or not match(entry, hsm):
                continue
            if hsm.mode == "ep11" and secret_id(entry["name"]) not in secrets:
                break
            done.append(("bind", hsm.apqn, None))
            if hsm.mode == "ep11":
                done.append(("associate", hsm.apqn, secret_id(entry["name"])))
            got[number] = hsm.apqn
            used.add(hsm.apqn)
            break
    applied = sum(apqn is not None for apqn in got)
    if applied == 0 or (strict and applied < len(entries)):
        return done, got, 1
    return done, got, 0


World = tuple[list[dict[str, str]], list[Hsm], set[SecretId], dict[str, Holding]]


@given(worlds())
@example(([{"mode": "Accel"}], [], set(), {}))
def test_the_plan_is_that_of_the_transcription(world: World) -> None:
    entries, hsms, secrets, current = world
    for strict in (False, True):
        expected = transcribed(entries, hsms, secrets, current, strict)
        list_rules = parse(as_file(entries)).rules
        if expected == "refused":
            with pytest.raises(InventoryRefused):
                pvapconfig_plan(list_rules, hsms, secrets, current, strict=strict)
            continue
        plan = pvapconfig_plan(list_rules, hsms, secrets, current, strict=strict)
        done = [(step.action, step.apqn, step.secret_id) for step in plan.steps]
        assert (done, served(plan), plan.exit_code) == expected


@given(worlds())
def test_the_order_of_the_hsms_does_not_count_and_strict_changes_the_exit_code_only(world: World) -> None:
    entries, hsms, secrets, current = world
    list_rules = parse(as_file(entries)).rules
    try:
        plan = pvapconfig_plan(list_rules, hsms, secrets, current)
    except InventoryRefused:
        return
    assert pvapconfig_plan(list_rules, hsms[::-1], secrets, current) == plan
    strict = pvapconfig_plan(list_rules, hsms, secrets, current, strict=True)
    assert (strict.entries, strict.steps) == (plan.entries, plan.steps)
    assert strict.exit_code >= plan.exit_code


@given(worlds())
def test_a_plan_is_one_that_can_be_done(world: World) -> None:
    """No HSM serves twice, only what is bound is unbound, and only what is not bound is bound."""
    entries, hsms, secrets, current = world
    try:
        plan = pvapconfig_plan(parse(as_file(entries)).rules, hsms, secrets, current)
    except InventoryRefused:
        return
    bound = set(current)
    for step in plan.steps:
        assert (step.apqn in bound) == (step.action != "bind")
        if step.action == "unbind":
            bound.remove(step.apqn)
        bound |= {step.apqn} if step.action == "bind" else set()
        assert (step.secret_id in secrets) == (step.action == "associate")
    taken = [apqn for apqn in served(plan) if apqn is not None]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= bound


@given(worlds())
def test_reasons_are_given_exactly_for_open_entries_and_agree_with_the_match(world: World) -> None:
    entries, hsms, secrets, current = world
    list_rules = parse(as_file(entries)).rules
    for rule in list_rules:
        for hsm in hsms:
            assert matches(rule, hsm) == (not differing(rule, hsm))
    try:
        plan = pvapconfig_plan(list_rules, hsms, secrets, current)
    except InventoryRefused:
        return
    for entry in plan.entries:
        assert bool(list(plan.reasons(entry))) == (entry.result == "open")


# --- stories


def test_a_narrow_entry_loses_its_only_hsm_to_a_broad_one_before_it(hsm: MakeHsm) -> None:
    there = [hsm("03.0001", serial=SERIALS[0]), hsm("04.0001", serial=SERIALS[1])]
    broad_first = rules(f"{EP11}, name: a", f"{EP11}, name: b, serialnr: {SERIALS[0]}")
    plan = pvapconfig_plan(broad_first, there, {A, B})
    assert served(plan) == ["03.0001", None]
    assert steps(plan) == [("bind", "03.0001"), ("associate", "03.0001")]
    assert [str(reason) for reason in plan.reasons(plan.entries[1])] == [
        "03.0001: serves entry 1",
        f"04.0001: serial differs: `{SERIALS[0]}` wanted, `{SERIALS[1]}` found",
    ]
    assert plan.exit_code == 0
    assert pvapconfig_plan(broad_first, there, {A, B}, strict=True).exit_code == 1
    assert served(pvapconfig_plan(broad_first[::-1], there, {A, B})) == ["03.0001", "04.0001"]


@pytest.mark.parametrize("mingen", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("generation", [4, 5, 6, 7, 8])
def test_mingen_works_as_a_maximum(hsm: MakeHsm, mingen: int, generation: int) -> None:
    there = [hsm(mode="accel", generation=generation)]
    plan = pvapconfig_plan(rules(f"mode: Accel, mingen: CEX{mingen}"), there, ())
    assert results(plan) == ["applied" if generation <= mingen else "open"]
    if generation > mingen:
        assert [str(reason.mismatch) for reason in plan.reasons(plan.entries[0])] == [
            f"generation differs: `<=CEX{mingen}` wanted, `CEX{generation}` found"
        ]


def test_cex8_accepts_an_older_ep11_hsm_too(hsm: MakeHsm) -> None:
    assert served(pvapconfig_plan(rules(f"{EP11}, name: a, mingen: CEX8"), [hsm(generation=7)], {A})) == [
        "03.0011"
    ]


def test_a_missing_secret_leaves_the_entry_open_and_the_hsm_to_the_next(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001")]
    plan = pvapconfig_plan(rules(f"{EP11}, name: a", f"{EP11}, name: b"), there, {B})
    assert served(plan) == [None, "03.0001"]
    assert [entry.warned for entry in plan.entries] == [True, False]
    assert str(next(plan.reasons(plan.entries[0]))) == "secret `a` is not in the guest's store"
    assert not pvapconfig_plan(rules(f"{EP11}, name: a"), [hsm(mode="accel")], ()).entries[0].warned


def test_the_newest_is_taken_first_and_ties_by_card_and_domain(hsm: MakeHsm) -> None:
    there = [
        hsm(apqn, mode="accel", generation=g) for apqn, g in (("05.0001", 8), ("03.0002", 8), ("02.0001", 7))
    ]
    plan = pvapconfig_plan(rules("mode: Accel", "mode: Accel", "mode: Accel"), there, ())
    assert served(plan) == ["03.0002", "05.0001", "02.0001"]


def test_what_is_as_wanted_is_kept_and_everything_else_unbound(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001"), hsm("05.0001", mode="accel"), hsm("06.0001", mode="accel")]
    current = {"03.0001": Holding(B), "04.0001": Holding(A), "06.0001": Holding()}
    plan = pvapconfig_plan(rules(f"{EP11}, name: a", "mode: Accel"), there, {A, B}, current)
    assert (results(plan), served(plan)) == (["kept", "kept"], ["04.0001", "06.0001"])
    assert steps(plan) == [("unbind", "03.0001")]


@pytest.mark.parametrize("now", [Holding(), Holding(B), Holding(A, stuck=True)])
def test_a_bound_hsm_that_is_not_associated_as_wanted_is_bound_again(hsm: MakeHsm, now: Holding) -> None:
    plan = pvapconfig_plan(rules(f"{EP11}, name: a"), [hsm()], {A, B}, {"03.0011": now})
    assert steps(plan) == [("unbind", "03.0011"), ("bind", "03.0011"), ("associate", "03.0011")]


def test_an_association_whose_secret_is_not_listed_is_not_kept(hsm: MakeHsm) -> None:
    plan = pvapconfig_plan(rules(f"{EP11}, name: a"), [hsm()], (), {"03.0011": Holding(A)})
    assert (results(plan), steps(plan), plan.exit_code) == (["open"], [("unbind", "03.0011")], 1)


def test_keeping_is_in_the_order_of_entries_and_may_keep_a_later_one_from_its_own(hsm: MakeHsm) -> None:
    there = [hsm("03.0001", mode="accel", generation=7), hsm("04.0001", mode="accel", generation=6)]
    plan = pvapconfig_plan(
        rules("mode: Accel", "mode: Accel, mingen: CEX6"), there, (), {"04.0001": Holding()}
    )
    assert served(plan) == ["04.0001", None]


def test_two_domains_of_one_card_with_one_master_key_are_refused(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("03.0002")]
    with pytest.raises(InventoryRefused, match="same master key"):
        pvapconfig_plan(rules("mode: Accel"), there, {A})
    assert pvapconfig_plan((), there, {A}).exit_code == 0
    for fine in (
        hsm("04.0002"),
        hsm("03.0002", mkvp=None),
        hsm("03.0002", mkvp=KEYS[0]),
        hsm("03.0002", mode="accel"),
        hsm("03.0002", online=False),
    ):
        assert pvapconfig_plan(rules(f"{EP11}, name: a"), [there[0], fine], {A}).exit_code == 0


def test_the_exit_code(hsm: MakeHsm) -> None:
    two = rules("mode: Accel", f"{EP11}, name: a")
    accelerator = hsm(mode="accel")
    assert [pvapconfig_plan(two, [accelerator], (), strict=strict).exit_code for strict in (False, True)] == [
        0,
        1,
    ]
    assert [pvapconfig_plan(two[1:], [hsm()], (), strict=strict).exit_code for strict in (False, True)] == [
        1,
        1,
    ]
    for nothing in ([], [hsm(mode="cca")], [hsm(online=False)]):
        assert pvapconfig_plan(two, nothing, (), strict=True).exit_code == 0
    assert pvapconfig_plan((), [hsm()], (), strict=True).exit_code == 0


def test_what_is_offline_or_cca_is_neither_used_nor_cleared(hsm: MakeHsm) -> None:
    there = [hsm("03.0001", online=False), hsm("04.0001", mode="cca"), hsm("05.0001", mode="accel")]
    current = {each.apqn: Holding() for each in there}
    plan = pvapconfig_plan(rules(f"{EP11}, name: a"), there, {A}, current)
    assert steps(plan) == [("unbind", "05.0001")]
    assert [each.apqn for each in plan.hsms] == ["05.0001"]


def test_an_hsm_without_a_master_key_matches_no_entry_but_is_cleared(hsm: MakeHsm) -> None:
    plan = pvapconfig_plan(rules(f"{EP11}, name: a"), [hsm(mkvp=None)], {A}, {"03.0011": Holding(IDS[0])})
    assert (steps(plan), plan.exit_code) == ([("unbind", "03.0011")], 1)


def test_ten_thousand_entries_and_a_thousand_hsms_are_seconds(hsm: MakeHsm) -> None:
    import time

    text = "\n".join(f"- {{mode: EP11, name: n{number}, mkvp: {number:032x}}}" for number in range(10_000))
    there = [hsm(f"{n >> 4:02x}.{n:04x}", mkvp=n.to_bytes(16, "big")) for n in range(1000)]
    list_rules = parse(text).rules
    begun = time.monotonic()
    plan = pvapconfig_plan(list_rules, there, {rule.secret.id for rule in list_rules if rule.secret})
    assert plan.applied == 1000
    assert time.monotonic() - begun < 60
