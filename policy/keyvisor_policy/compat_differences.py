"""Where pvapconfig 2.43.0 and keyvisor differ, for one list and one inventory, in words.

Makes both plans and compares: for each entry the bound, the secret and the HSM that it gets, for each HSM what is
done to it, and what is met in the end. Pure; knows no file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from keyvisor_policy.compat import PVAPCONFIG, EntryOutcome, PvapconfigPlan, matches, pvapconfig_plan
from keyvisor_policy.errors import InventoryRefused
from keyvisor_policy.hsms import Holding, Hsm, SecretId, generation_name
from keyvisor_policy.matching import holds, secret_text, usable
from keyvisor_policy.plan import Action, Plan, RuleOutcome
from keyvisor_policy.policy import Policy
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown

Code: TypeAlias = Literal["mingen", "missing-secret", "assignment", "steps", "outcome", "refused"]

CODES: Mapping[Code, str] = MappingProxyType(
    {
        "mingen": f"{PVAPCONFIG} takes `mingen` for the newest generation there may be, its manual for the oldest",
        "missing-secret": f"an entry without its secret is passed over by {PVAPCONFIG}; keyvisor then applies nothing",
        "assignment": f"{PVAPCONFIG} gives each entry the first HSM that fits; keyvisor meets as many as can be",
        "steps": "other things are done to an HSM",
        "outcome": "other entries are met, or the exit code differs",
        "refused": "no plan is made for these HSMs",
    }
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. `entry` counts from 1, as that program does while it runs; `code` is a key of CODES."""

    code: Code
    message: str
    entry: int | None = None
    apqn: str | None = None

    def __str__(self) -> str:
        return self.message


def differences(
    policy: Policy,
    hsms: Collection[Hsm],
    secrets: Collection[SecretId],
    current: Mapping[str, Holding] = MappingProxyType({}),
) -> tuple[Difference, ...]:
    """What differs for the policy of a pvapconfig list: entries in order, then HSMs by APQN, then the outcome."""
    try:
        theirs = pvapconfig_plan(policy.rules, hsms, secrets, current)
        ours = policy.assign(hsms, secrets, current)
    except InventoryRefused as error:
        return (Difference("refused", f"no plan is made: {error}"),)
    found: list[Difference] = []
    for entry, outcome in zip(theirs.entries, ours.rules, strict=True):
        found += _generations(entry, hsms)
        found += _secret(entry, secrets)
        found += _assignment(entry, outcome, theirs, ours)
    return (*found, *_hsms(theirs, ours), *_outcome(theirs, ours))


def _generations(entry: EntryOutcome, hsms: Collection[Hsm]) -> Iterator[Difference]:
    """The HSMs that one of the two takes for the entry and the other does not: what `mingen` means decides."""
    wanted = entry.rule.hsm.generation
    if wanted is None or wanted.lowest is None:
        return
    for hsm in sorted(hsms, key=lambda hsm: hsm.apqn):
        here, there = usable(hsm, entry.rule.hsm), hsm.online and matches(entry.rule, hsm)
        if here == there:
            continue
        taken = (
            f"keyvisor takes it, {PVAPCONFIG} refuses it as too new"
            if here
            else f"{PVAPCONFIG} takes it, keyvisor refuses it as too old"
        )
        bound = f"{generation_name(hsm.generation)} and `mingen` is {generation_name(wanted.lowest)}"
        yield Difference("mingen", f"{_named(entry)}: {hsm.apqn} is {bound}: {taken}", entry.number, hsm.apqn)


def _secret(entry: EntryOutcome, secrets: Collection[SecretId]) -> Iterator[Difference]:
    if entry.rule.secret is None or holds(entry.rule, secrets):
        return
    words = "passes the entry over; keyvisor applies nothing then, unless `--partial` is given"
    message = f"secret {secret_text(entry.rule.secret)} is not in the guest's store: {PVAPCONFIG} {words}"
    yield Difference("missing-secret", f"{_named(entry)}: {message}", entry.number)


def _assignment(
    entry: EntryOutcome, outcome: RuleOutcome, theirs: PvapconfigPlan, ours: Plan
) -> Iterator[Difference]:
    """The entry's HSM, where it is another one, and who has instead the one that the other program gives it."""
    here = outcome.hsms[0].apqn if outcome.hsms else None
    there = entry.hsm.apqn if entry.hsm is not None else None
    if here == there:
        return
    said = [f"{PVAPCONFIG} {_given(there)}, keyvisor {_given(here)}"]
    said += [
        f"there {here} {'stays with' if each.result == 'kept' else 'is the first match of'} {_named(each)}"
        for each in theirs.entries
        if here is not None and each.hsm is not None and each.hsm.apqn == here
    ]
    said += [
        f"here {there} goes to rule {shown(hsm.rule.name)}"
        for hsm in ours.hsms
        if there is not None and hsm.apqn == there and hsm.rule is not None
    ]
    yield Difference("assignment", f"{_named(entry)}: {'; '.join(said)}", entry.number, here or there)


def _given(apqn: str | None) -> str:
    return "leaves it without an HSM" if apqn is None else f"gives it {apqn}"


def _hsms(theirs: PvapconfigPlan, ours: Plan) -> Iterator[Difference]:
    """What is done to each HSM, where that differs."""
    doing = _doing(theirs)
    served = {entry.hsm.apqn: entry.rule for entry in theirs.entries if entry.hsm is not None}
    seen = {hsm.apqn for hsm in theirs.hsms}
    for hsm in ours.hsms:
        there = (doing.get(hsm.apqn, ()), served.get(hsm.apqn))
        if there == (hsm.actions, hsm.rule):
            continue
        told = _told(*there) if hsm.apqn in seen else "does not look at it"
        yield Difference(
            "steps",
            f"HSM {hsm.apqn}: {PVAPCONFIG} {told}, keyvisor {_told(hsm.actions, hsm.rule)}",
            None,
            hsm.apqn,
        )


def _outcome(theirs: PvapconfigPlan, ours: Plan) -> Iterator[Difference]:
    """How many entries are met, and the exit code, where the two differ or only a part is met."""
    total = len(theirs.entries)
    met = total - len(ours.unmet)
    strict = int(theirs.applied < total and bool(theirs.hsms))
    if (theirs.applied, theirs.exit_code, strict) == (met, int(not ours.met), int(not ours.met)):
        return
    there = f"applies {theirs.applied} of {total} and ends with {theirs.exit_code}, with `--strict` {strict}"
    here = (
        f"applies {met} of {total} and ends with 0"
        if ours.met
        else f"can meet {met} of {total}: it applies nothing without `--partial` and ends with 1"
    )
    yield Difference("outcome", f"{PVAPCONFIG} {there}; keyvisor {here}")


def _doing(theirs: PvapconfigPlan) -> dict[str, tuple[Action, ...]]:
    doing: dict[str, tuple[Action, ...]] = {}
    for step in theirs.steps:
        doing[step.apqn] = (*doing.get(step.apqn, ()), step.action)
    return doing


_WORDS: Mapping[Action, str] = MappingProxyType(
    {"unbind": "unbinds", "bind": "binds", "associate": "associates"}
)


def _told(actions: tuple[Action, ...], rule: Rule | None) -> str:
    verbs = [_WORDS[action] for action in actions]
    words = " and ".join(", ".join(verbs).rsplit(", ", 1)) or ("keeps" if rule is not None else "leaves")
    return f"{words} it" if rule is None else f"{words} it for {shown(rule.name)}"


def _named(entry: EntryOutcome) -> str:
    return f"entry {entry.number} {shown(entry.rule.name)}"
