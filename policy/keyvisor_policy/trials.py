"""Cases put to their policy: what each was to show, what came, and which rules and control points no case decides.

Pure: asks `Policy.assign` and `Policy.permit`, as a guest and the firmware do; calls are `request_trials`' affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keyvisor_policy.cases import Asked, Case, Named, Paired
from keyvisor_policy.control_points import ControlPoint
from keyvisor_policy.errors import Finding, InventoryRefused, NotPermitted
from keyvisor_policy.hsms import Hsm
from keyvisor_policy.matching import secret_text, usable
from keyvisor_policy.plan import HsmOutcome, Plan
from keyvisor_policy.policy import Policy
from keyvisor_policy.request_trials import Answered, answers
from keyvisor_policy.rules import Rule, Secret
from keyvisor_policy.strict_yaml.wording import nearest, shown
from keyvisor_policy.tracing import against, passed_over


@dataclass(frozen=True, slots=True)
class Trial:
    """A case that was run. `differences` says everything that is not as expected; it passed where there are none.

    `met` are the rules that the case's plan satisfies, `kept_out` those that it leaves unmet or that a `refuse` of the
    case asked in vain. `answers` are the calls that it asks.
    """

    case: Case
    differences: tuple[Finding, ...]
    met: tuple[Rule, ...] = ()
    kept_out: tuple[Rule, ...] = ()
    answers: tuple[Answered, ...] = ()

    @property
    def passed(self) -> bool:
        """Everything is as expected."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Coverage:
    """The rules that no case shows at work, and those that no case shows holding back; in the policy's order.

    And the file's own control points that decide no call which a case asks.
    """

    never_met: tuple[Rule, ...]
    never_kept_out: tuple[Rule, ...]
    never_decides: tuple[ControlPoint, ...]


def run(policy: Policy) -> tuple[Trial, ...]:
    """Every case of the policy, in the file's order."""
    return tuple(_Run(policy, case).trial() for case in policy.cases)


def coverage(policy: Policy, trials: tuple[Trial, ...]) -> Coverage:
    """Which rules and control points no case decides; of a trial that failed all counts that came of it."""
    met = {rule for trial in trials for rule in trial.met}
    kept_out = {rule for trial in trials for rule in trial.kept_out}
    decided = {answer.point for trial in trials for answer in trial.answers if answer.point}
    return Coverage(
        tuple(rule for rule in policy.rules if rule not in met),
        tuple(rule for rule in policy.rules if rule not in kept_out),
        tuple(point for point in policy.own_points if point not in decided),
    )


class _Run:
    """One case on its way to a trial; notes what differs and goes on."""

    def __init__(self, policy: Policy, case: Case) -> None:
        self._policy = policy
        self._case = case
        self._hsms = {hsm.apqn: hsm for hsm in case.hsms}
        self._held = frozenset(secret.id for secret in case.secrets)

    def trial(self) -> Trial:
        try:
            plan = self._policy.assign(self._case.hsms, self._held, self._case.current)
        except InventoryRefused as error:
            return Trial(self._case, (self._here(f"no plan is made for its HSMs: {error}"),))
        answered = answers(self._policy, self._case, plan)
        differences = [*self._vacuous(), *self._differences(plan), *self._about_requests(answered)]
        differences.sort(key=lambda finding: (finding.line, finding.column))
        refused = {pair.secret.id for pair in self._case.expect.refuse if self._permits(pair) is None}
        kept_out = tuple(
            outcome.rule
            for outcome in plan.rules
            if not outcome.met or (outcome.rule.secret is not None and outcome.rule.secret.id in refused)
        )
        met = tuple(outcome.rule for outcome in plan.rules if outcome.met)
        return Trial(self._case, tuple(differences), met, kept_out, answered)

    def _vacuous(self) -> Iterator[Finding]:
        """That the case would pass whatever the rules say."""
        expect = self._case.expect
        if expect.empty:
            yield self._here("expects nothing; say what must come of it, as in `associate: {}`")
        named = {secret.id for secret in self._case.secrets} | {pair.secret.id for pair in expect.refuse}
        matched = any(
            usable(hsm, rule.hsm) or (rule.secret is not None and rule.secret.id in named)
            for rule in self._policy.rules
            for hsm in self._case.hsms
        )
        if not matched:
            yield self._here(
                "matches nothing: no rule matches one of its HSMs or is for one of its secrets; give it those of a rule"
            )

    def _differences(self, plan: Plan) -> Iterator[Finding]:
        outcomes = {outcome.apqn: outcome for outcome in plan.hsms}
        expect = self._case.expect
        for pair in expect.associate or ():
            yield from self._about_associate(plan, pair, outcomes[pair.apqn])
        for named in expect.bind or ():
            yield from self._about_bind(named, outcomes[named.name])
        if not expect.partly:
            yield from self._about_others(outcomes)
            yield from self._about_other_rules(plan)
        for named in expect.unbound:
            rule = outcomes[named.name].rule
            if rule is not None:
                yield self._at(named, f"{named.name}: expected unbound, found {_doing(outcomes[named.name])}")
        for named in expect.unmet or ():
            outcome = next(outcome for outcome in plan.rules if outcome.rule.name == named.name)
            if outcome.met:
                having = ", ".join(hsm.apqn for hsm in outcome.hsms)
                yield self._at(
                    named, f"rule {shown(named.name)}: expected unmet, found met with {having or 'nothing'}"
                )
        for pair in expect.refuse:
            yield from self._about_refuse(pair)

    def _about_associate(self, plan: Plan, pair: Paired, outcome: HsmOutcome) -> Iterator[Finding]:
        served = outcome.rule.secret if outcome.rule is not None else None
        if served is not None and served.id == pair.secret.id:
            return
        reason = self._why_not(plan, pair.secret, self._hsms[pair.apqn])
        yield self._at(
            pair,
            f"{pair.apqn}: expected secret {secret_text(pair.secret)}, found {_doing(outcome)}; {reason}",
        )

    def _why_not(self, plan: Plan, secret: Secret, hsm: Hsm) -> str:
        """Why the HSM does not have the secret, by the rule for it that lacks least."""
        candidates = [rule for rule in self._policy.rules if rule.secret and rule.secret.id == secret.id]
        if not candidates:
            names = [rule.secret.name for rule in self._policy.rules if rule.secret and rule.secret.name]
            meant = nearest(secret.name, names) if secret.name is not None else None
            return "no rule is for this secret" + (f"; did you mean {shown(meant)}?" if meant else "")
        reasons = [(rule, against(rule, hsm, self._held)) for rule in candidates]
        free = next((rule for rule, reason in reasons if not reason), None)
        if free is None:
            rule, reason = min(reasons, key=lambda pair: pair[1].count(";"))
            return f"{_place(rule)}: {reason}"
        outcome = next(outcome for outcome in plan.rules if outcome.rule is free)
        serves = next(outcome.rule for outcome in plan.hsms if outcome.apqn == hsm.apqn)
        return f"{_place(free)}: {passed_over(outcome, serves)}"

    def _about_bind(self, named: Named, outcome: HsmOutcome) -> Iterator[Finding]:
        if outcome.rule is None or outcome.rule.secret is not None:
            reasons = [
                f"{_place(rule)}: {reason}"
                for rule in self._policy.rules
                if rule.secret is None and (reason := against(rule, self._hsms[named.name], self._held))
            ]
            why = "; ".join(reasons[:1]) or "no rule for accelerators has it"
            yield self._at(
                named, f"{named.name}: expected bound as an accelerator, found {_doing(outcome)}; {why}"
            )

    def _about_others(self, outcomes: dict[str, HsmOutcome]) -> Iterator[Finding]:
        """Nothing is associated or bound beyond what an exact expectation names."""
        expect = self._case.expect
        associated = {pair.apqn for pair in expect.associate or ()}
        bound = {named.name for named in expect.bind or ()}
        for apqn, outcome in outcomes.items():
            if outcome.rule is None or apqn in associated | bound:
                continue
            exact = expect.bind if outcome.rule.secret is None else expect.associate
            if exact is not None:
                kind = "bound as an accelerator" if outcome.rule.secret is None else "associated"
                message = f"{apqn}: expected not to be {kind}, found {_doing(outcome)}"
                yield Finding(self._policy.source, expect.line, expect.column, message)

    def _about_other_rules(self, plan: Plan) -> Iterator[Finding]:
        """Every rule is met but those that an exact expectation names."""
        expect = self._case.expect
        named = {named.name for named in expect.unmet or ()}
        for outcome in plan.unmet if expect.unmet is not None else ():
            if outcome.rule.name not in named:
                message = f"expected met, but {outcome.summary}"
                yield Finding(self._policy.source, expect.line, expect.column, message)

    def _about_refuse(self, pair: Paired) -> Iterator[Finding]:
        what = f"secret {secret_text(pair.secret)} on {pair.apqn}"
        rule = self._permits(pair)
        if rule is not None:
            yield self._at(pair, f"{what}: expected refused, found permitted by {_place(rule)}")
        elif not any(rule.secret and rule.secret.id == pair.secret.id for rule in self._policy.rules):
            names = [rule.secret.name for rule in self._policy.rules if rule.secret and rule.secret.name]
            meant = nearest(pair.secret.name, names) if pair.secret.name is not None else None
            hint = f"did you mean {shown(meant)}?" if meant else "name one that a rule has"
            yield self._at(pair, f"{what}: no rule is for this secret, so that this shows nothing; {hint}")

    def _about_requests(self, answered: tuple[Answered, ...]) -> Iterator[Finding]:
        for one in answered:
            if one.difference is not None:
                yield self._at(one.asked, one.difference)

    def _permits(self, pair: Paired) -> Rule | None:
        try:
            return self._policy.permit(self._hsms[pair.apqn], pair.secret.id)
        except NotPermitted:
            return None

    def _here(self, message: str) -> Finding:
        return Finding(self._policy.source, self._case.line, self._case.column, message)

    def _at(self, said: Named | Paired | Asked, message: str) -> Finding:
        return Finding(self._policy.source, said.line, said.column, message)


def _doing(outcome: HsmOutcome) -> str:
    """What the plan makes of an HSM that serves a rule."""
    rule = outcome.rule
    if rule is None:
        return "nothing"
    what = "bound" if rule.secret is None else f"secret {secret_text(rule.secret)}"
    return f"{what} by {_place(rule)}"


def _place(rule: Rule) -> str:
    return f"rule {shown(rule.name)} in line {rule.line}"
