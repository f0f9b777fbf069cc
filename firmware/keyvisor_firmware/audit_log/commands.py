"""The audit log's own commands: what is in it, what gates refused is written to it, and whether it went back.

Refused calls are written some at a time, in a transaction of their own: no guest's request waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keyvisor_firmware.association.hsms import Hsms, as_policy_sees
from keyvisor_firmware.association.machine import State
from keyvisor_firmware.association.missing import missing_for
from keyvisor_firmware.audit import Audit, Decided
from keyvisor_firmware.audit_log.chain import Event, Head
from keyvisor_firmware.audit_log.decisions import LONGEST, Decision, Verdict, judged, secret_name, sought
from keyvisor_firmware.audit_log.refused_calls import LONGEST as LONGEST_REASON
from keyvisor_firmware.audit_log.refused_calls import Due, RefusedCall, RefusedCalls
from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import Conflict, Malformed
from keyvisor_firmware.guests.register import Register
from keyvisor_firmware.guests.running import Running
from keyvisor_firmware.storage.holdings import Holdings
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn, UnknownHsm

CALL_REFUSED: Final = "call refused"
WENT_BACK: Final = "audit log went back"


class AuditCommands:
    """What the operator reads, and what the daemon does of its own accord."""

    def __init__(
        self,
        commands: Commands,
        holdings: Holdings,
        guests: Register,
        hsms: Hsms,
        audit: Audit,
        refused_calls: RefusedCalls,
    ) -> None:
        self._commands = commands
        self._holdings = holdings
        self._guests = guests
        self._hsms = hsms
        self._audit = audit
        self._refused_calls = refused_calls

    def newest(self, most: int) -> tuple[Event, ...]:
        """The newest records, oldest first; what gates have told until now is among them. Raises Conflict for a broken log."""
        with self._commands.alone():
            for guest in self._guests:
                guest.gate.refusals()  # takes in what the gate has told
            self.write_refused_calls()
            try:
                with self._commands.reading() as records:
                    return records.events(most)
            except (ValueError, TypeError):
                raise Conflict(
                    "the audit log is not as the firmware wrote it: `keyvisor audit verify` says where"
                ) from None

    def head(self) -> Head | None:
        """The last record; None of an empty log."""
        with self._commands.reading() as records:
            return records.audit_head()

    @property
    def public_key(self) -> bytes:
        """What verifies the log: DER SubjectPublicKeyInfo."""
        return self._audit.public_key

    def write_refused_calls(self, *, all_of_it: bool = False) -> None:
        """Record what is due of the calls that gates refused."""
        with self._commands.alone():
            due = self._refused_calls.due(all_of_it=all_of_it)
            if not due:
                return
            with self._commands.errand("record refused calls", None) as work:
                for one in due:
                    detail, decision = self._told(one)
                    self._audit.refused(
                        work.records, CALL_REFUSED, one.guest, detail, _reason(one), Decided([decision])
                    )

    def compare(self, remembered: Iterable[bytes]) -> bool:
        """Whether the log still has the head that the operator token remembers. If not, that is logged and recorded."""
        heads = [head for head in map(_head, remembered) if head is not None]
        if not heads:
            return True
        last = max(heads, key=lambda head: head.number)
        with self._commands.reading() as records:
            found, now = records.event_hash(last.number), records.audit_head()
        if found == last.hash:
            return True
        detail = {"remembered": str(last), "found": "nothing" if now is None else str(now)}
        with self._commands.errand(WENT_BACK, None) as work:
            self._audit.noticed(work.records, WENT_BACK, detail)
        self._audit.log.warning(
            "the audit log went back: the database was replaced by an older one, or made anew", **detail
        )
        return False

    def _told(self, due: Due) -> tuple[dict[str, str], Decision]:
        call = due.call
        if call is None:
            told = Decision("any", False, count=due.count, first=due.first, last=due.last)
            return {"count": str(due.count)}, told
        detail = {"call": call.call, "code": call.code, "count": str(due.count)}
        if call.apqn is not None:
            detail["apqn"] = call.apqn
        guest = self._guest(call.guest)
        policy = None if guest is None else guest.policy
        secret_id: bytes | None = None if guest is None else self._secret_id(guest, call.apqn)
        hsm = None if call.hsm is None else as_policy_sees(call.hsm)
        verdict = Verdict(None)
        if policy is not None and hsm is not None:
            if secret_id is None:
                verdict, secret_id = sought(policy, hsm)
            else:
                verdict = judged(policy, hsm, secret_id)
        decision = Decision(
            call=call.call,
            allowed=False,
            apqn=call.apqn,
            hsm=hsm,
            state=call.state,
            code=call.code,
            missing=None if guest is None else self._missing(guest, call),
            secret_id=None if secret_id is None else secret_id.hex(),
            secret=None if secret_id is None else secret_name(policy, secret_id),
            policy=None if policy is None else policy.digest.hex(),
            source=None if policy is None else policy.source[:LONGEST],
            rule=verdict.rule,
            against=verdict.against,
            others=verdict.others,
            because=call.because,
            count=due.count,
            first=due.first,
            last=due.last,
        )
        return detail, decision

    def _guest(self, name: str) -> Running | None:
        return next((guest for guest in self._guests if guest.instance.name == name), None)

    def _secret_id(self, guest: Running, apqn: str | None) -> SecretId | None:
        held = self._holdings.bindings(guest.instance.id)
        return next((one.secret_id for one in held.values() if str(one.apqn) == apqn), None)

    def _missing(self, guest: Running, call: RefusedCall) -> str | None:
        if call.apqn is None or call.state is None:
            return None
        try:
            data = self._hsms.query(Apqn.parse(call.apqn))
        except (UnknownHsm, ValueError):
            return None
        return missing_for(data, State(call.state), guest.policy, guest.secrets)[:LONGEST_REASON]


def _reason(due: Due) -> str:
    if due.call is None:
        return "more kinds of calls were refused than are recorded one by one"
    return due.call.reason[:LONGEST_REASON]


def _head(remembered: bytes) -> Head | None:
    try:
        return Head.parse(remembered.decode("ascii"))
    except (Malformed, UnicodeDecodeError):
        return None
