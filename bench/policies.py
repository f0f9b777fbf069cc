"""Section `policy`: what the policy tools and one decision take as the rules grow. No firmware takes part.

Rules of two shapes: each with an MKVP of its own, told apart at once; and all alike but for the firmware that they want,
where a tool that compared each rule with each would show it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Final

from bench.run import Figures, Run
from keyvisor_policy import (
    Hsm,
    Interval,
    Never,
    NotPermitted,
    Pattern,
    Policy,
    Rule,
    Secret,
    SecretId,
    secret_id,
)
from keyvisor_policy.lint import check
from keyvisor_policy.never import Description, Is
from keyvisor_policy.prove import implies, nevers

SHAPES: Final[dict[str, Callable[[int], Pattern]]] = {
    "own MKVP": lambda number: Pattern("ep11", mkvp=mkvp(number)),
    "firmware": lambda number: Pattern("ep11", firmware=Interval((number, 0), (number, 9))),
}

_SECRETS: Final = tuple(Secret(secret_id(f"s{number}"), f"s{number}") for number in range(50))
_NEWEST: Final = 8
_BATCH: Final = 200  # decisions in a row: what interrupts one of them does not count
_BATCHES: Final = 20
_MILLISECONDS: Final = 1e3
_MICROSECONDS: Final = 1e6


def measure(run: Run) -> Figures:
    """Per shape and number of rules: milliseconds of each tool and microseconds of each decision, a figure per round."""
    found: Figures = {"hsms": run.size.planned_hsms}
    for shape in SHAPES:
        found[shape] = {}
        for count in run.size.growing_policies:
            run.say(f"a policy of {count:,} rules: {shape}")
            found[shape][f"{count:,}"] = measured(shape, count, run.size.planned_hsms, run.size.rounds)
    return found


def measured(shape: str, count: int, hsms: int, rounds: int) -> Figures:
    """What so many rules of a shape take, with so many HSMs."""
    policy, there = policy_of(shape, count), [hsm(number) for number in range(hsms)]
    secrets = {secret.id for secret in _SECRETS}
    narrowed = (dataclasses.replace(rule.hsm, generation=Interval(_NEWEST, None)) for rule in policy.rules)
    rules = zip(policy.rules, narrowed, strict=True)
    new = dataclasses.replace(policy, rules=tuple(dataclasses.replace(rule, hsm=its) for rule, its in rules))
    tools: dict[str, Callable[[Policy], object]] = {
        "check": check,
        "plan": lambda fresh: fresh.assign(there, secrets),
        "prove": nevers,
        "implies": lambda fresh: implies(new, fresh),
    }
    figures: Figures = {name: [_tool(tool, policy) for _ in range(rounds)] for name, tool in tools.items()}
    asked, stranger = hsm(count // 2), hsm(count)
    secret = _SECRETS[count // 2 % len(_SECRETS)].id
    figures["permit"] = [_decision(policy, asked, secret, _BATCH) for _ in range(rounds)]
    figures["refuse"] = [_decision(policy, stranger, secret, 1) for _ in range(rounds)]
    return figures


def policy_of(shape: str, count: int) -> Policy:
    """So many rules of a shape, and ten `never` that cannot happen."""
    rules = (
        Rule(f"r{number}", SHAPES[shape](number), _SECRETS[number % len(_SECRETS)], line=number + 1)
        for number in range(count)
    )
    outside = Description(firmware=Is(Interval((0, 10), (0, 11))), mkvp=Is(b"\xff" * 16))
    never = tuple(Never(outside, secret) for secret in _SECRETS[:10])
    return Policy(tuple(rules), "bench.yaml", b"", never=never)


def hsm(number: int) -> Hsm:
    """An HSM that is as rule `number` of either shape wants it."""
    return Hsm(
        f"{number % 256:02x}.{number // 256:04x}", "ep11", _NEWEST, mkvp=mkvp(number), firmware=(number, 5)
    )


def mkvp(number: int) -> bytes:
    """One for each number, 16 bytes."""
    return number.to_bytes(16, "big")


def _tool(tool: Callable[[Policy], object], policy: Policy) -> float:
    """Milliseconds on a policy that nobody has asked yet, so that it makes its indexes too."""
    fresh = dataclasses.replace(policy)
    begun = time.perf_counter()
    tool(fresh)
    return (time.perf_counter() - begun) * _MILLISECONDS


def _decision(policy: Policy, asked: Hsm, secret: SecretId, batch: int) -> float:
    """Microseconds of a decision, once the indexes are there."""
    _permits(policy, asked, secret)
    times = []
    for _ in range(_BATCHES):
        begun = time.perf_counter()
        for _ in range(batch):
            _permits(policy, asked, secret)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) / batch * _MICROSECONDS


def _permits(policy: Policy, asked: Hsm, secret: SecretId) -> bool:
    try:
        policy.permit(asked, secret)
    except NotPermitted:
        return False
    return True
