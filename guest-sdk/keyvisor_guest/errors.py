"""What can go wrong in the SDK's clients and in the command.

    SdkError
    ├── StateDirectoryUnusable   no place for the state, or a path too long for a Unix socket
    ├── NameInvalid              not the name of a guest or of an HSM, or none was given
    ├── NotRunning               nobody listens at the door: no such guest, or no firmware
    ├── NotOpen                  the guest is there, and opens to nobody before its secret store is locked
    ├── DoorClosed               the door belongs to somebody else
    ├── DoorBroken               the answer broke off, came too late, or is no message of the door
    ├── Refused                  the firmware said no (carries the code for programs and the findings for people)
    ├── ImageUnusable            a file that is no image, or was changed where nothing is measured
    ├── GuestThere               the name has a guest already: it runs, or a host left it half made
    ├── DoesNotFit               a planned guest needs more storage than is free (carries how much more)
    ├── PlanUnmet                a policy has rules that no HSM meets (carries the plan)
    ├── PersonalizationFailed    a request of the user's was refused, or did not come (carries what became of each)
    ├── ClientUnusable           the stock PKCS#11 client is missing, or serves another guest in this process
    └── CommandUnusable          a program that the command was to run, or a verb's own parts, cannot be loaded

An error's text has one finding per line: lower case, user input in backticks, with the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvisor_guest.personalization.personalizing import Outcome
    from keyvisor_guest.planning import GuestPlan

__all__ = [
    "ClientUnusable",
    "CommandUnusable",
    "DoesNotFit",
    "DoorBroken",
    "DoorClosed",
    "GuestThere",
    "ImageUnusable",
    "NameInvalid",
    "NotOpen",
    "NotRunning",
    "PersonalizationFailed",
    "PlanUnmet",
    "Refused",
    "SdkError",
    "StateDirectoryUnusable",
]


class SdkError(Exception):
    """Base of everything that the clients and the command raise on purpose."""


class StateDirectoryUnusable(SdkError):
    """There is no place for the state, or a path in it is too long for a Unix socket."""


class NameInvalid(SdkError):
    """Not the name of a guest or of an HSM, or none was given."""


class NotRunning(SdkError):
    """Nobody listens at the door: no such guest, or no firmware."""


class NotOpen(SdkError):
    """The guest is there, and opens to nobody before its secret store is locked: its image says so."""


class DoorClosed(SdkError):
    """The door belongs to somebody else."""


class DoorBroken(SdkError):
    """The answer broke off, came too late, or is no message of the door."""


class Refused(SdkError):
    """The firmware said no.

    `kind` names the numbering that `code` is of: `ap` (AP response codes; formats, F.5), `uv` (return codes of
    the ultravisor; formats, B.1, D), `attest` (those of attestation; C.6), `program` (interruption codes of a refused
    access to storage), `key` (of protected keys; decision 10) or `http`. `findings` are the reasons one by one, where
    there are several. `handle` comes with `uv` codes that have 8000h in them: what was created half and has to be
    destroyed (D.3).
    """

    def __init__(
        self, kind: str, code: int, message: str, findings: Sequence[str] = (), handle: int | None = None
    ) -> None:
        super().__init__("\n".join([message, *findings]))
        self.kind = kind
        self.code = code
        self.message = message
        self.findings = tuple(findings)
        self.handle = handle


class ImageUnusable(SdkError):
    """A file that is no image, or was changed where nothing is measured: it starts no guest."""


class GuestThere(SdkError):
    """The name has a guest already: it runs, or a host that died left it half made."""


class DoesNotFit(SdkError):
    """A planned guest needs more storage than is free: `missing` bytes more."""

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


class PlanUnmet(SdkError):
    """A policy has rules that no HSM meets. `applied` says whether what can be met was applied all the same."""

    def __init__(self, plan: GuestPlan, reasons: Sequence[str], *, applied: bool) -> None:
        outcome = (
            "the rest is applied" if applied else "nothing was applied; `--partial` applies what can be met"
        )
        super().__init__("\n".join([*reasons, f"{len(reasons)} unmet: {outcome}"]))
        self.plan = plan
        self.reasons = tuple(reasons)
        self.applied = applied


class PersonalizationFailed(SdkError):
    """A request of the user's was refused, or did not come. The store is not locked. `outcomes`: each that came."""

    def __init__(self, outcomes: Sequence[Outcome], problems: Sequence[str]) -> None:
        way_out = "the secret store is not locked: hand in all again, with what is missing"
        if any(one.fate == "taken" for one in outcomes):
            way_out += "; what was taken will be there twice, as an attestation shows, if the guest is not started again"
        super().__init__("\n".join([*problems, way_out]))
        self.outcomes = tuple(outcomes)
        self.problems = tuple(problems)


class ClientUnusable(SdkError):
    """The stock PKCS#11 client is missing, or serves another guest in this process."""


class CommandUnusable(SdkError):
    """A program that the command was to run, or a verb's own parts, cannot be loaded.

    `exit_code` is what the command ends with: 1, or as the shells have it 126 (not executable), 127 (not found).
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
