"""What the daemon does for its audit log beside the commands: it writes refused calls, and has the operator token
remember the head.

A thread of its own, some moments after what happened, so that nobody waits for it. The token's memory makes a database
that went back noticed at the next start; it lags behind the log by `EVERY` seconds at most.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Final, Protocol

from sqlalchemy.exc import SQLAlchemyError

from keyvisor_firmware.audit import AUDIT_KEY, Log
from keyvisor_firmware.audit_log.chain import Head
from keyvisor_firmware.audit_log.commands import AuditCommands
from keyvisor_firmware.audit_log.refused_calls import RefusedCall, RefusedCalls
from keyvisor_firmware.broker.control import Refusal
from keyvisor_firmware.broker.gatekeeper import OnRefusal
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_firmware.errors import FirmwareError
from keyvisor_hsm.cards import ConfigurationData
from keyvisor_hsm.errors import HsmError

EVERY: Final = 1.0  # seconds


class Memory(Protocol):
    """What the operator token remembers (keyvisor_hsm.master_keys.OperatorToken)."""

    def remember(self, name: str, value: bytes) -> None: ...
    def remembered(self, name: str) -> tuple[bytes, ...]: ...


class AuditKeeper:
    """Keeps the log until `stop`."""

    def __init__(self, audit: AuditCommands, memory: Memory, log: Log) -> None:
        self._audit = audit
        self._memory = memory
        self._log = log
        self._remembered: Head | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit keeper", daemon=True)

    def start(self) -> None:
        """Look whether the log went back, say so if it did, and keep it from now on. Raises HsmError."""
        self._audit.compare(self._memory.remembered(AUDIT_KEY))
        self.keep()
        self._thread.start()

    def keep(self, *, all_of_it: bool = False) -> None:
        """Write what is due, and remember the head if it is another. What cannot be done is logged, and tried again."""
        try:
            self._audit.write_refused_calls(all_of_it=all_of_it)
            head = self._audit.head()
            if head is not None and head != self._remembered:
                self._memory.remember(AUDIT_KEY, str(head).encode("ascii"))
                self._remembered = head
        except (SQLAlchemyError, HsmError, FirmwareError) as error:
            self._log.warning("the audit log cannot be kept", reason=type(error).__name__)

    def stop(self) -> None:
        """Write all that there is, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.keep(all_of_it=True)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            self.keep()


def taking_in(refused_calls: RefusedCalls) -> OnRefusal:
    """What gatekeepers call for each refusal."""

    def take_in(guest: str, refusal: Refusal, hsm: ConfigurationData | None, state: HsmState | None) -> None:
        refused_calls.note(
            RefusedCall(
                guest=guest,
                at=refusal.at[:32],
                call=refusal.call[:64],
                code=refusal.code[:64],
                reason=refusal.reason,
                apqn=None if hsm is None else str(hsm.apqn),
                hsm=hsm,
                state=None if state is None else state.name.lower(),
                because={} if refusal.because is None else dataclasses.asdict(refusal.because),
            )
        )

    return take_in
