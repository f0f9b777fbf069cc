"""What the commands take and answer, as values. The doors make messages of them; what a door must not tell is not
in the value that it gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keyvisor_firmware.association.gates import Mechanism, RefusedCall
from keyvisor_firmware.association.machine import State
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn, ConfigurationData


@dataclass(frozen=True, slots=True)
class GuestView:
    """A guest as the host sees it. `cuid` is 16 bytes, `started` ISO 8601, UTC, empty before it runs.

    `storage_length` is bytes; `cpus` are numbers, ascending, and `cpu_handles` theirs.
    """

    name: str
    cuid: bytes
    attached: tuple[Apqn, ...]
    started: str
    handle: int
    state: GuestState
    cpus: tuple[int, ...]
    cpu_handles: tuple[int, ...]
    storage_length: int
    asce: int


@dataclass(frozen=True, slots=True)
class HsmView:
    """An HSM. `secret_id` (32 bytes) is given where it is associated; `holder`, a guest's name, to the operator only."""

    data: ConfigurationData
    state: State = State.UNBOUND
    secret_id: SecretId | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class MechanismView:
    """A mechanism of the module behind an HSM. `allowed`: whether policy lets the guest use it."""

    mechanism: Mechanism
    allowed: bool


@dataclass(frozen=True, slots=True)
class RefusalView:
    """A call that the gate refused, and what is missing now.

    `state` is what the HSM is to the guest now. `rule` is the control point, or the rule for the HSM, with its source and
    line. `must_be` is what would have to be true, `commands` bring it about.
    """

    call: RefusedCall
    missing: str
    state: str | None = None
    rule: str | None = None
    must_be: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of a plan. `secret_id` (32 bytes) goes with `associate`, and only with it."""

    action: Literal["unbind", "bind", "associate"]
    apqn: Apqn
    secret_id: SecretId | None = None

    def __str__(self) -> str:
        with_secret = "" if self.secret_id is None else f" {self.secret_id.hex()}"
        return f"{self.action} {self.apqn}{with_secret}"


@dataclass(frozen=True, slots=True)
class SeenHsm:
    """What an HSM was to the guest when a plan was made. `secret_id` (32 bytes) where it was associated."""

    apqn: Apqn
    state: State
    secret_id: SecretId | None = None
