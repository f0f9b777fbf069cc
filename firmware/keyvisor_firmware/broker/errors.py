"""What can go wrong between a guest's application and its HSM.

BrokerError
├── ProtocolError   bytes that are not the protocol: the connection is closed, nobody else notices
├── Refused         a call that is answered with a CK_RV of ours; the guest can ask why
│   └── Failed      the same for what no rule forbids (a closed session, a full table): not recorded
└── GateError       the gate's process cannot be started or does not answer
    └── GateEnded   it ran and is gone: it died, or left because it was idle
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyvisor_hsm.cryptoki import CKR


class BrokerError(Exception):
    """Base of everything the broker raises on purpose."""


class ProtocolError(BrokerError):
    """Bytes that are not the protocol. The message says what was expected; it never holds the bytes."""


@dataclass(frozen=True, slots=True)
class Because:
    """What a control point decided about: enough to explain the refusal later, and to decide it again.

    `point` is the control point's name and `origin` where it stands, `source:line` or a profile's name. `mechanism` is
    the call's CK_MECHANISM_TYPE. `template` holds what rules looked at, attribute name to its value as a policy
    writes it: never a value that is a secret. `rule` names the association rule that the HSM is associated through.
    """

    point: str
    origin: str
    mechanism: int | None = None
    template: Mapping[str, str] = field(default_factory=dict)
    rule: str | None = None


class Refused(BrokerError):
    """A call that the filter does not let through: `rv` for the wire, `reason` for a person, `apqn` where it went.

    `because` is there where a control point of the guest's policy refused it.
    """

    def __init__(self, rv: CKR, reason: str, apqn: str | None = None, because: Because | None = None) -> None:
        super().__init__(reason)
        self.rv = rv
        self.reason = reason
        self.apqn = apqn
        self.because = because


class Failed(Refused):
    """A call that cannot be done, as any token would say; nothing that a policy could change."""


class GateError(BrokerError):
    """The gate's process cannot be started or does not answer."""


class GateEnded(GateError):
    """The gate's process ran and is gone."""
