"""What a running firmware did with something that a policy allows, and how to find one to ask.

This package knows no firmware: who can start one is an entry point of the group `keyvisor.replay`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal, TypeAlias

from keyvisor_policy.prove import Allowed
from keyvisor_policy.request_prove import AllowedRequest

GROUP = "keyvisor.replay"
REQUEST_GROUP = "keyvisor.replay_request"

Outcome: TypeAlias = Literal["associated", "bound", "asked", "refused", "not replayed"]
"""`asked`: under the one policy it passed, and under the other a control point refused it."""


@dataclass(frozen=True, slots=True)
class Substituted:
    """One word for which another stood, on the card and in the policy: `field` says what it is."""

    field: str
    was: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.field} {self.was} is {self.becomes}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it. `code` is the firmware's, as in `ap 3f`, where it refused; `substituted` is all that differed."""

    outcome: Outcome
    message: str
    code: str | None = None
    substituted: tuple[Substituted, ...] = ()

    def __str__(self) -> str:
        changes = f" (there, {' and '.join(map(str, self.substituted))})" if self.substituted else ""
        return f"replayed: {self.outcome}: {self.message}{changes}"

    def value(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "outcome": self.outcome,
            "message": self.message,
            "code": self.code,
            "substituted": [
                {"field": one.field, "was": one.was, "becomes": one.becomes} for one in self.substituted
            ],
        }


Replay: TypeAlias = Callable[[str, Allowed], Replayed]
"""Given a policy's text and something that it allows: asks a firmware of its own, and ends that again."""


def replayer() -> Replay | None:
    """Who can replay; None where nobody is installed."""
    found = [point.load() for point in entry_points(group=GROUP)]
    return found[0] if found else None


ReplayRequest: TypeAlias = Callable[[str, str, AllowedRequest], Replayed]
"""Given the texts of two policies, and a request that the first lets be asked and the second does not: asks under both."""


def request_replayer() -> ReplayRequest | None:
    """Who can replay requests; None where nobody is installed."""
    found = [point.load() for point in entry_points(group=REQUEST_GROUP)]
    return found[0] if found else None
