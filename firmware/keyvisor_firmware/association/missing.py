"""What is missing now for a call that was refused before: the next thing that somebody would have to do.

Pure: told what the HSM is to its guest, it looks for the first gap. Knows no gate and no call.
"""

from __future__ import annotations

from keyvisor_firmware.association.hsms import as_policy_sees
from keyvisor_firmware.association.machine import State
from keyvisor_firmware.secrets import NoSuchSecret, SecretStore
from keyvisor_hsm.cards import ConfigurationData, Mode
from keyvisor_policy import Policy, Refusal
from keyvisor_policy.matching import mismatches, secret_text
from keyvisor_policy.strict_yaml.wording import shown

NOTHING = "nothing any more"


def missing_for(hsm: ConfigurationData, state: State, policy: Policy | None, secrets: SecretStore) -> str:
    """One line about an attached HSM, in the order in which things have to be done."""
    if not hsm.online:
        return f"HSM {hsm.apqn} is offline"
    match state:
        case State.ASSOCIATED:
            return NOTHING
        case State.FAILED | State.PENDING:
            return f"the association of HSM {hsm.apqn} is {state}: unbind it first"
        case State.UNBOUND:
            return f"HSM {hsm.apqn} is not bound: bind it, or apply a policy"
    if hsm.mode is Mode.ACCEL:
        return f"{NOTHING}: an accelerator is bound and never associated"
    return _for_association(hsm, policy, secrets)


def _for_association(hsm: ConfigurationData, policy: Policy | None, secrets: SecretStore) -> str:
    if policy is None:
        return f"HSM {hsm.apqn} is bound, and no policy is registered: apply one"
    wanted = [rule for rule in policy.rules_for(as_policy_sees(hsm)) if rule.secret is not None]
    if not wanted:
        return _nearest(hsm, policy)
    for rule in wanted:
        if rule.secret is not None and _held(secrets, rule.secret.id):
            return f"HSM {hsm.apqn} is not associated: rule {shown(rule.name)} matches and its secret is there, apply the policy"
    rule = wanted[0]
    named = secret_text(rule.secret) if rule.secret is not None else ""
    return f"rule {shown(rule.name)} matches HSM {hsm.apqn}, and secret {named} is not in the store: add it"


def _nearest(hsm: ConfigurationData, policy: Policy) -> str:
    """No rule matches: why the one does not that lacks least."""
    seen = as_policy_sees(hsm)
    refusals = [Refusal(rule, mismatches(seen, rule.hsm)) for rule in policy.rules if rule.secret is not None]
    if not refusals:
        return f"the policy has no rule that associates HSM {hsm.apqn}"
    return f"no rule of the policy matches HSM {hsm.apqn}: {min(refusals, key=lambda r: len(r.mismatches))}"


def _held(secrets: SecretStore, secret_id: bytes) -> bool:
    try:
        secrets.find_association(secret_id)
    except NoSuchSecret:
        return False
    return True
