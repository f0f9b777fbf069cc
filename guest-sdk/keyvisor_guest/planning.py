"""Between the guest's door and the policy package: the door's messages as its values, its plan as a message.

The policy chooses, and the firmware checks what was chosen. Decides one thing: what becomes of an HSM that is held and
that no rule wants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keyvisor_policy
from keyvisor_guest.errors import DoorBroken, SdkError
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_policy import Holding, Hsm, NotPermitted, Plan, Policy, SecretId, holding

__all__ = ["AppliedPlan", "GuestPlan", "assign", "parsed", "read", "reasons", "request"]

TEXT_SOURCE = "policy"  # what findings in a text that is no file begin with


@dataclass(frozen=True, slots=True)
class GuestPlan(Plan):
    """What a policy asks for here. `seen` are the HSMs that it was made from; `left` the APQNs of those that are held,
    that no rule wants, and that stay as they are.
    """

    seen: tuple[messages.Hsm, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppliedPlan(GuestPlan):
    """A plan that was applied. `now` are the HSMs as the firmware had them then."""

    now: tuple[messages.Hsm, ...]


def read(policy: Policy | Path | str) -> tuple[Policy, messages.PolicyText]:
    """A policy and its text. A `str` with a line break is a text, one without is a path.

    Raises keyvisor_policy's DocumentError; SdkError for a Policy whose file is not there any more or has changed:
    what the guest registers is what it planned with.
    """
    if isinstance(policy, str) and "\n" in policy:
        return keyvisor_policy.parse(policy, TEXT_SOURCE), messages.PolicyText(
            text=policy, source=TEXT_SOURCE
        )
    loaded = policy if isinstance(policy, Policy) else keyvisor_policy.load(Path(policy))
    return loaded, messages.PolicyText(text=_text(loaded), source=loaded.source)


def parsed(text: messages.PolicyText) -> Policy:
    """The policy of a text that the door gave. Raises keyvisor_policy's DocumentError."""
    return keyvisor_policy.parse(text.text, text.source)


def assign(
    policy: Policy,
    hsms: Iterable[messages.Hsm],
    secrets: Iterable[messages.Secret],
    *,
    unbind: bool = False,
) -> GuestPlan:
    """The policy's plan for what the door tells; with `unbind` it ends what no rule wants, too.

    Raises keyvisor_policy's InventoryRefused; DoorBroken.
    """
    seen = tuple(hsms)
    try:
        values = {hsm.apqn: _hsm(hsm) for hsm in seen}
        current = {hsm.apqn: held for hsm in seen if (held := _holding(hsm)) is not None}
        there = {_secret_id(each.id) for each in secrets if each.type == SecretKind.ASSOCIATION}
        plan = policy.assign(map(_hsm, seen), there, current)
        unwanted = [outcome.apqn for outcome in plan.hsms if outcome.rule is None and outcome.actions]
        left = () if unbind else [one for one in unwanted if _stands(policy, values[one], current[one])]
    except ValueError as error:
        raise DoorBroken(
            f"the door tells of an HSM that cannot be ({error}): is the firmware of another version?"
        ) from None
    stays = frozenset(left)
    outcomes = (replace(one, actions=()) if one.apqn in stays else one for one in plan.hsms)
    return GuestPlan(plan.rules, tuple(outcomes), seen, tuple(left))


def applied(plan: GuestPlan, now: Sequence[messages.Hsm]) -> AppliedPlan:
    """The plan, and what came of it."""
    return AppliedPlan(plan.rules, plan.hsms, plan.seen, plan.left, tuple(now))


def reasons(plan: Plan) -> list[str]:
    """One line for each rule that is unmet."""
    return [outcome.summary for outcome in plan.unmet]


def request(text: messages.PolicyText, plan: GuestPlan) -> messages.ApplyPlan:
    """The policy and all steps of its plan, to be done as one, if the HSMs still are what it was made from."""
    steps = [
        messages.Step(
            action=step.action,
            apqn=step.apqn,
            secret_id=step.secret_id.hex() if step.secret_id is not None else None,
        )
        for step in plan.steps
    ]
    seen = [messages.Seen(apqn=hsm.apqn, state=hsm.state, secret_id=hsm.secret_id) for hsm in plan.seen]
    return messages.ApplyPlan(policy=text, steps=steps, seen=seen)


def _text(policy: Policy) -> str:
    try:
        text = Path(policy.source).read_bytes()
    except OSError:
        raise SdkError(
            f"the text of the policy `{policy.source}` is not there: give the file's path or the text"
        ) from None
    if hashlib.sha256(text).digest() != policy.digest:
        raise SdkError(f"`{policy.source}` has changed since it was loaded: load it again")
    return text.decode()


def _hsm(hsm: messages.Hsm) -> Hsm:
    major, minor = hsm.firmware.split(".")
    return Hsm(
        apqn=hsm.apqn,
        mode=hsm.mode,
        generation=int(hsm.generation.removeprefix("CEX")),
        serial=hsm.serial,
        mkvp=bytes.fromhex(hsm.mkvp) if hsm.mkvp is not None else None,
        firmware=(int(major), int(minor)),
        api=hsm.api,
        compliance=frozenset(hsm.compliance),
        online=hsm.online,
    )


def _holding(hsm: messages.Hsm) -> Holding | None:
    return holding(hsm.state, _secret_id(hsm.secret_id) if hsm.secret_id is not None else None)


def _stands(policy: Policy, hsm: Hsm, held: Holding) -> bool:
    """Whether the firmware lets the HSM stay as it is under the policy, though no rule wants it."""
    if not hsm.online or held.secret_id is None:
        return hsm.online
    try:
        policy.permit(hsm, held.secret_id)
    except NotPermitted:
        return False
    return True


def _secret_id(text: str) -> SecretId:
    return SecretId(bytes.fromhex(text))
