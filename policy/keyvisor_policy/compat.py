"""What pvapconfig 2.43.0 itself would do with its list: its plan step by step, its bound, its exit code (formats, F.2 to F.4).

For comparison only; nothing is applied by it. Pure, and without what needs a machine: no lock, no bus, no failing
bind. Where that program leaves an order open, among HSMs of one generation, theirs is that of card and domain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from keyvisor_policy.hsms import Holding, Hsm, SecretId, generation_name
from keyvisor_policy.matching import Mismatch, mismatches, missing_secret
from keyvisor_policy.plan import Reason, Step
from keyvisor_policy.policy import accepted
from keyvisor_policy.rules import Rule

PVAPCONFIG = "pvapconfig-2.43"

Result: TypeAlias = Literal["kept", "applied", "open"]


@dataclass(frozen=True, slots=True)
class EntryOutcome:
    """What becomes of one entry. `number` counts from 1, as that program does while it runs.

    `hsm` is None exactly where the entry stays open. `warned` says that it found an HSM and had no secret for it:
    no other HSM is tried then.
    """

    number: int
    rule: Rule
    result: Result
    hsm: Hsm | None = None
    warned: bool = False


@dataclass(frozen=True, slots=True)
class PvapconfigPlan:
    """That program's run: its steps in its order, what becomes of each entry, and what it ends with.

    `hsms` are those that it sees, in the order in which it tries them.
    """

    entries: tuple[EntryOutcome, ...]
    steps: tuple[Step, ...]
    hsms: tuple[Hsm, ...]
    exit_code: int

    @property
    def applied(self) -> int:
        """How many entries are kept or applied."""
        return sum(entry.hsm is not None for entry in self.entries)

    def reasons(self, entry: EntryOutcome) -> Iterator[Reason]:
        """Why an open entry has no HSM: of the entry first, then of each HSM, in the order in which it tries them."""
        if entry.hsm is not None:
            return
        serving = {each.hsm.apqn: each for each in self.entries if each.hsm is not None}
        if entry.warned and entry.rule.secret is not None:
            yield Reason(None, missing_secret(entry.rule.secret))
        if not self.hsms:
            yield Reason(None, Mismatch("hsm", "no HSM is there"))
        for hsm in self.hsms:
            found = differing(entry.rule, hsm)
            if not found and hsm.apqn in serving:
                found = (Mismatch("hsm", f"serves entry {serving[hsm.apqn].number}"),)
            yield from (Reason(hsm.apqn, mismatch) for mismatch in found)


def pvapconfig_plan(
    rules: Sequence[Rule],
    hsms: Iterable[Hsm],
    secrets: Collection[SecretId],
    current: Mapping[str, Holding] = MappingProxyType({}),
    *,
    strict: bool = False,
) -> PvapconfigPlan:
    """That program's run over the rules of a pvapconfig list, for these HSMs in whatever order they come.

    `secrets` are the ids of the association secrets that the guest holds, `current` is what HSMs are to the guest
    now. `strict` changes the exit code and nothing else. Raises InventoryRefused for two EP11 domains of one card
    with the same master key, which it refuses too, and for an APQN that comes twice.
    """
    seen = tuple(hsm for hsm in accepted(hsms) if hsm.online and hsm.mode != "cca") if rules else ()
    if not seen:
        return PvapconfigPlan(tuple(_open(rules)), (), (), 0)
    run = _Run(rules, seen, frozenset(secrets))
    run.keep(current)
    run.clear(current)
    run.fulfil()
    open_ones = sum(entry.hsm is None for entry in run.entries)
    failed = open_ones > 0 if strict else open_ones == len(run.entries)
    return PvapconfigPlan(tuple(run.entries), tuple(run.steps), seen, int(failed))


def matches(rule: Rule, hsm: Hsm) -> bool:
    """Whether that program takes the HSM for the entry: its `mingen` is the newest generation that it accepts."""
    wanted = rule.hsm
    bound = _bound(rule)
    if hsm.mode != wanted.mode or (bound is not None and hsm.generation > bound):
        return False
    return wanted.mode == "accel" or (
        hsm.mkvp is not None and hsm.mkvp == wanted.mkvp and wanted.serial in (None, hsm.serial)
    )


def differing(rule: Rule, hsm: Hsm) -> tuple[Mismatch, ...]:
    """Every field that differs for that program; empty exactly where it `matches`."""
    found = [
        mismatch for mismatch in mismatches(hsm, rule.hsm) if mismatch.field not in ("generation", "online")
    ]
    bound = _bound(rule)
    if bound is not None and hsm.generation > bound:
        words = f"`<={generation_name(bound)}` wanted, `{generation_name(hsm.generation)}` found"
        found.append(Mismatch("generation", f"generation differs: {words}"))
    return tuple(found)


def _bound(rule: Rule) -> int | None:
    """The entry's `mingen`."""
    return None if rule.hsm.generation is None else rule.hsm.generation.lowest


def _open(rules: Sequence[Rule]) -> Iterator[EntryOutcome]:
    return (EntryOutcome(number, rule, "open") for number, rule in enumerate(rules, 1))


class _Run:
    """Its three passes over one order of HSMs (formats, F.3). Each HSM serves one entry; nothing is taken back."""

    def __init__(self, rules: Sequence[Rule], seen: Sequence[Hsm], secrets: frozenset[SecretId]) -> None:
        self.entries = list(_open(rules))
        self.steps: list[Step] = []
        self._secrets = secrets
        self._unused = {hsm.apqn: hsm for hsm in seen}

    def keep(self, current: Mapping[str, Holding]) -> None:
        """Each entry, in order, has the first unused HSM that already is as wanted."""
        standing = [hsm for hsm in self._unused.values() if hsm.apqn in current]
        for place, entry in enumerate(self.entries):
            for hsm in standing:
                if matches(entry.rule, hsm) and self._as_wanted(entry.rule, current[hsm.apqn]):
                    self._serve(place, hsm, "kept")
                    standing.remove(hsm)
                    break

    def clear(self, current: Mapping[str, Holding]) -> None:
        """Every other bound HSM is unbound, also one that an entry would have next."""
        self.steps += [Step("unbind", apqn) for apqn in self._unused if apqn in current]

    def fulfil(self) -> None:
        """Each open entry, in order, has the first unused HSM that matches; without its secret it stays open."""
        for place, entry in enumerate(self.entries):
            if entry.hsm is not None:
                continue
            hsm = next((hsm for hsm in self._unused.values() if matches(entry.rule, hsm)), None)
            if hsm is None:
                continue
            secret = entry.rule.secret
            if secret is not None and secret.id not in self._secrets:
                self.entries[place] = EntryOutcome(entry.number, entry.rule, "open", warned=True)
                continue
            self.steps.append(Step("bind", hsm.apqn))
            if secret is not None:
                self.steps.append(Step("associate", hsm.apqn, secret.id))
            self._serve(place, hsm, "applied")

    def _as_wanted(self, rule: Rule, now: Holding) -> bool:
        if rule.secret is None:
            return True
        return now.secret_id == rule.secret.id and not now.stuck and rule.secret.id in self._secrets

    def _serve(self, place: int, hsm: Hsm, result: Result) -> None:
        entry = self.entries[place]
        self.entries[place] = EntryOutcome(entry.number, entry.rule, result, hsm)
        del self._unused[hsm.apqn]
