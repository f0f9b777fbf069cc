"""A refused call as its guest sees it: why, the rule, what would have to be true now, and the commands for it.

The same table and the same words as the operator's `audit explain`, without what belongs to others.
"""

from __future__ import annotations

from keyvisor_firmware.association.gates import RefusedCall
from keyvisor_firmware.association.hsms import as_policy_sees
from keyvisor_firmware.association.missing import missing_for
from keyvisor_firmware.audit_log.decisions import Decision, Verdict, judged, secret_name, sought
from keyvisor_firmware.audit_log.explaining import commands_for
from keyvisor_firmware.audit_log.remedies import remedy
from keyvisor_firmware.guests.running import Running
from keyvisor_firmware.views import HsmView, RefusalView


def refusal_view(call: RefusedCall, view: HsmView | None, guest: Running) -> RefusalView:
    """One refusal; `view` is its HSM as the guest has it now, None where it has not."""
    verdict, secret_id = _verdict(view, guest)
    rule = verdict.rule or next((one.rule for one in verdict.against), None)
    decision = Decision(
        call=call.call,
        allowed=False,
        apqn=call.apqn,
        code=call.code,
        secret_id=None if secret_id is None else secret_id.hex(),
        secret=None if secret_id is None else secret_name(guest.policy, secret_id),
        source=None if guest.policy is None else guest.policy.source,
    )
    because = None if call.because is None else f"{call.because.point} ({call.because.origin})"
    return RefusalView(
        call=call,
        missing=_missing(call.apqn, view, guest),
        state=None if view is None else view.state.value,
        rule=because or (None if rule is None else str(rule)),
        must_be=_must_be(call.code, verdict),
        commands=commands_for(decision, guest.instance.name),
    )


def _verdict(view: HsmView | None, guest: Running) -> tuple[Verdict, bytes | None]:
    if view is None or guest.policy is None:
        return Verdict(None), None
    hsm = as_policy_sees(view.data)
    if view.secret_id is None:
        return sought(guest.policy, hsm)
    return judged(guest.policy, hsm, view.secret_id), view.secret_id


def _must_be(code: str, verdict: Verdict) -> str:
    """And where no rule is for the HSM, what the one wants that lacks least."""
    if verdict.rule is not None or not verdict.against:
        return remedy(code).true
    closest = verdict.against[0]
    return f"{remedy(code).true}; rule {closest.rule} does not allow it: {'; '.join(closest.fields.values())}"


def _missing(apqn: str | None, view: HsmView | None, guest: Running) -> str:
    if apqn is None:
        return "the call names no HSM of this guest"
    if view is None:
        return f"HSM {apqn} is not attached any more: the host attaches HSMs"
    return missing_for(view.data, view.state, guest.policy, guest.secrets)
