"""Between the guest's door and the policy package: the door's messages as its values, its plan as a message.

Decides nothing: the policy chooses, and the firmware checks what was chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import keyvisor_policy
from keyvisor_guest.errors import DoorBroken, SdkError
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_policy import Holding, Hsm, Plan, Policy, SecretId, holding

__all__ = ["assign", "parsed", "read", "reasons", "request"]

TEXT_SOURCE = "policy"  # what findings in a text that is no file begin with


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


def assign(policy: Policy, hsms: Iterable[messages.Hsm], secrets: Iterable[messages.Secret]) -> Plan:
    """The policy's plan for what the door tells. Raises keyvisor_policy's InventoryRefused; DoorBroken."""
    listed = list(hsms)
    try:
        current = {hsm.apqn: held for hsm in listed if (held := _holding(hsm)) is not None}
        there = {_secret_id(each.id) for each in secrets if each.type == SecretKind.ASSOCIATION}
        return policy.assign(map(_hsm, listed), there, current)
    except ValueError as error:
        raise DoorBroken(
            f"the door tells of an HSM that cannot be ({error}): is the firmware of another version?"
        ) from None


def reasons(plan: Plan) -> list[str]:
    """One line for each rule that is unmet."""
    return [outcome.summary for outcome in plan.unmet]


def request(text: messages.PolicyText, plan: Plan) -> messages.ApplyPlan:
    """The policy and all steps of its plan, to be done as one."""
    steps = [
        messages.Step(
            action=step.action,
            apqn=step.apqn,
            secret_id=step.secret_id.hex() if step.secret_id is not None else None,
        )
        for step in plan.steps
    ]
    return messages.ApplyPlan(policy=text, steps=steps)


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


def _secret_id(text: str) -> SecretId:
    return SecretId(bytes.fromhex(text))
