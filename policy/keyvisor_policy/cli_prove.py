"""The verbs `keyvisor policy prove` and `keyvisor policy diff`.

They print what `prove` and `difference` answer and end with their exit code; they decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from keyvisor_policy.cli_arguments import File, Inventory, Json, Secrets, held, loaded, there_are
from keyvisor_policy.terminal import fail, print_json, print_table, printable

if TYPE_CHECKING:
    from keyvisor_policy.claims import Claim
    from keyvisor_policy.difference import Difference
    from keyvisor_policy.plan import HsmOutcome
    from keyvisor_policy.policy import Policy
    from keyvisor_policy.prove import Allowed
    from keyvisor_policy.replaying import Replayed
    from keyvisor_policy.request_prove import AllowedRequest
    from keyvisor_policy.rules import Rule


def prove(
    file: File,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Prove that this rule is not shadowed by earlier ones; may be given again."
        ),
    ] = None,
    implies: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD",
            exists=True,
            dir_okay=False,
            help="Prove that FILE allows nothing that OLD refuses.",
        ),
    ] = None,
    equal: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER", exists=True, dir_okay=False, help="Prove that FILE and OTHER allow the same."
        ),
    ] = None,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Ask a running firmware for each counterexample: one of its own, in a state that goes again.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Decide over all HSMs there can be: without options, that no `never` of the file can happen.

    What is compared is what may be associated or bound, and what may then be asked; which rule is first counts for the
    latter only, and how many HSMs it wants does not.

    Exit code 0: all of it is proved. 1: there is a counterexample, or a file is wrong. 2: wrong command line.
    """
    from keyvisor_policy.errors import Undecidable

    others = [path for path in (implies, equal) if path is not None]
    policy, *policies = loaded(file, *others)
    by_path = dict(zip(others, policies, strict=True))
    rules = [_rule(policy, name) for name in rule or ()]
    try:
        claims = list(
            _claims(policy, rules, by_path[implies] if implies else None, by_path[equal] if equal else None)
        )
    except Undecidable as error:
        fail(f"{file}: cannot be decided: {error}")
    answers = _replayed(claims) if replay else [None] * len(claims)
    if as_json:
        values = [
            claim.value() | ({} if answer is None else {"replay": answer.value()})
            for (claim, *_), answer in zip(claims, answers, strict=True)
        ]
        print_json({"proved": all(claim.proved for claim, *_ in claims), "claims": values})
    for (claim, *_), answer in zip(claims, answers, strict=True) if not as_json else ():
        print(printable(str(claim)))
        if answer is not None:
            print(printable(f"  {answer}"))
    if not claims and not as_json:
        print(printable(f"{file}: nothing to prove, there is no `never`"))
    if not all(claim.proved for claim, *_ in claims):
        raise typer.Exit(1)


def diff(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", exists=True, dir_okay=False, help="The policy before.")
    ],
    new: Annotated[
        Path, typer.Argument(metavar="NEW", exists=True, dir_okay=False, help="The policy after.")
    ],
    inventory: Inventory,
    secrets: Secrets = None,
    as_json: Json = False,
) -> None:
    """Say what changes from one policy to another: for each HSM, and in what may be on any HSM there can be.

    Exit code 0: nothing. 1: something, or a file is wrong. 2: wrong command line.
    """
    from keyvisor_policy.difference import difference
    from keyvisor_policy.errors import InventoryRefused, Undecidable

    before, after = loaded(old, new)
    there = there_are(inventory)
    try:
        found = difference(before, after, there.hsms, held((before, after), secrets), there.current)
    except InventoryRefused as error:
        fail(f"{inventory}: {error}")
    except Undecidable as error:
        fail(f"{new}: cannot be decided: {error}")
    if as_json:
        print_json(_value(before, after, found))
    else:
        _print_difference(before, after, found)
    if not found.same:
        raise typer.Exit(1)


def _rule(policy: Policy, name: str) -> Rule:
    from keyvisor_policy.strict_yaml.wording import nearest

    found = next((rule for rule in policy.rules if rule.name == name), None)
    if found is None:
        meant = nearest(name, [rule.name for rule in policy.rules])
        hint = f"; did you mean `{meant}`?" if meant else ""
        raise typer.BadParameter(printable(f"`{name}` is no rule of the file{hint}"), param_hint="--rule")
    return found


_Claimed: TypeAlias = "tuple[Claim, tuple[Policy, ...], Allowed | AllowedRequest | None]"
"""What is claimed, the policy that would have to allow a counterexample, the one that refuses it, and that counterexample."""


def _claims(
    policy: Policy, rules: list[Rule], implied: Policy | None, equal: Policy | None
) -> Iterator[_Claimed]:
    from keyvisor_policy import prove as proofs
    from keyvisor_policy.claims import implies_claim, never_claim, shadow_claim

    for rule in rules:
        yield shadow_claim(policy, rule, proofs.shadowed(policy, rule)), (policy,), None
    if implied is not None:
        proof = proofs.implies(policy, implied)
        yield implies_claim(policy, implied, proof), (policy,), proof.counterexample
        yield from _request_claims(policy, implied)
    if equal is not None:
        forth, back = proofs.equal(policy, equal)
        yield implies_claim(policy, equal, forth), (policy,), forth.counterexample
        yield from _request_claims(policy, equal)
        yield implies_claim(equal, policy, back), (equal,), back.counterexample
        yield from _request_claims(equal, policy)
    if not rules and implied is None and equal is None:
        for never, proof in zip(policy.never, proofs.nevers(policy), strict=True):
            yield never_claim(policy, never, proof), (policy,), proof.counterexample


def _request_claims(new: Policy, old: Policy) -> Iterator[_Claimed]:
    """Nothing where neither says anything of requests."""
    from keyvisor_policy.request_claims import implies_requests_claim
    from keyvisor_policy.request_prove import implies_requests

    if new.control_points.points or old.control_points.points:
        proof = implies_requests(new, old)
        yield implies_requests_claim(new, old, proof), (new, old), proof.counterexample


def _replayed(claims: list[_Claimed]) -> list[Replayed | None]:
    """What a firmware does with each counterexample; nothing for what is proved, and for a rule that is shadowed."""
    from keyvisor_policy.prove import Allowed
    from keyvisor_policy.replaying import replayer, request_replayer
    from keyvisor_policy.strict_yaml import read_file

    ask, ask_request = replayer(), request_replayer()
    if ask is None or ask_request is None:
        fail("nobody here can start a firmware: install `keyvisor[firmware]`, or leave `--replay` out")
    answers: list[Replayed | None] = []
    for _, policies, example in claims:
        texts = [read_file(Path(policy.source)).decode() for policy in policies]
        if example is None:
            answers.append(None)
        elif isinstance(example, Allowed):
            answers.append(ask(texts[0], example))
        else:
            answers.append(ask_request(texts[0], texts[1], example))
    return answers


def _print_difference(before: Policy, after: Policy, found: Difference) -> None:
    from keyvisor_policy.claims import allows
    from keyvisor_policy.request_claims import command, lets, refuses

    if found.same:
        print("nothing changes")
    if found.hsms:
        rows = [
            (change.apqn, _doing(change.was), _doing(change.becomes), "; ".join(change.reasons))
            for change in found.hsms
        ]
        print_table(("HSM", "was", "becomes", "reason"), rows)
    for rule in found.rules:
        print(printable(f"now met: rule `{rule.name}`" if rule.met else f"now unmet: {rule.reason}"))
    for example in found.allowed:
        print(printable(f"newly allowed, for example: {allows(example)}"))
    for example in found.refused:
        print(printable(f"newly refused, for example: {allows(example)} in the old policy"))
    for policy, asked, words in (
        (before, found.asked_allowed, ("newly allowed", "there")),
        (after, found.asked_refused, ("newly refused", "now")),
    ):
        for request in asked:
            print(printable(f"{words[0]}, for example: {lets(request)}"))
            print(printable(f"  {words[1]} {refuses(request)}: {command(policy, request)}"))


def _doing(hsm: HsmOutcome) -> str:
    from keyvisor_policy.strict_yaml.wording import shown

    if hsm.rule is None:
        return ", ".join(hsm.actions) or "unbound"
    return f"{shown(hsm.rule.name)}: {', '.join(hsm.actions) or 'keep'}"


def _value(before: Policy, after: Policy, found: Difference) -> dict[str, object]:
    from keyvisor_policy.claims import example_value
    from keyvisor_policy.request_claims import request_example_value

    return {
        "same": found.same,
        "hsms": [
            {
                "apqn": change.apqn,
                "was": _outcome(change.was),
                "becomes": _outcome(change.becomes),
                "reasons": list(change.reasons),
            }
            for change in found.hsms
        ],
        "rules": [{"name": rule.name, "met": rule.met, "reason": rule.reason} for rule in found.rules],
        "newly_allowed": [example_value(after, example) for example in found.allowed],
        "newly_refused": [example_value(before, example) for example in found.refused],
        "requests_newly_allowed": [
            request_example_value(after, before, example) for example in found.asked_allowed
        ],
        "requests_newly_refused": [
            request_example_value(before, after, example) for example in found.asked_refused
        ],
    }


def _outcome(hsm: HsmOutcome) -> dict[str, object]:
    rule = hsm.rule
    return {
        "rule": None if rule is None else rule.name,
        "secret_id": None if rule is None or rule.secret is None else rule.secret.id.hex(),
        "actions": list(hsm.actions),
    }
