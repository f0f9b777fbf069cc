"""A guest that runs: what the firmware holds of it in memory, beside what the database says."""

from __future__ import annotations

from dataclasses import dataclass, field

from keyvisor_firmware.association.gates import Gate
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.secrets import SecretStore
from keyvisor_policy import Policy


@dataclass(slots=True)
class Running:
    """`secrets` and `policy` are replaced after the commit that changes them, never before."""

    instance: Instance
    gate: Gate
    secrets: SecretStore = field(repr=False)
    policy: Policy | None = None

    @property
    def open(self) -> bool:
        """Whether anything may be bound: at once, or where the image says so once the secret store is locked."""
        return self.secrets.locked or not self.instance.opens_after_lock
