"""The HSMs as the firmware knows them: configuration data with MKVPs, and what opens a key partition.

The only module that asks the operator token for anything that depends on a master key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import keyvisor_policy
from keyvisor_hsm.cards import Apqn, ConfigurationData, Inventory
from keyvisor_hsm.partitions import PartitionKeys


class MasterKeys(Protocol):
    """What the operator token does with master keys (keyvisor_hsm.master_keys.OperatorToken)."""

    def ensure_master_key(self, name: str) -> None:
        """Make the master key unless it is there."""

    def mkvp(self, name: str) -> bytes:
        """Its 16-byte verification pattern."""
        ...

    def partition_keys(self, master_key: str, association_secret: bytes) -> PartitionKeys:
        """What opens the partition of the two."""
        ...


class Hsms:
    """All HSMs of the machine. Makes the master keys that the inventory asks for."""

    def __init__(self, inventory: Inventory, master_keys: MasterKeys) -> None:
        self._inventory = inventory
        self._master_keys = master_keys
        for name in sorted(inventory.master_keys()):
            master_keys.ensure_master_key(name)
        self._mkvps = {name: master_keys.mkvp(name) for name in inventory.master_keys()}

    def __iter__(self) -> Iterator[Apqn]:
        return iter(self._inventory)

    def __contains__(self, apqn: object) -> bool:
        return apqn in self._inventory

    def query(self, apqn: Apqn) -> ConfigurationData:
        """The HSM's configuration data. Raises UnknownHsm."""
        return self._inventory.query(apqn, self._mkvps)

    def partition_keys(self, apqn: Apqn, association_secret: bytes) -> PartitionKeys:
        """What opens the partition of the HSM's master key and the secret. Raises UnknownHsm, ValueError."""
        master_key = self._inventory.master_key(apqn)
        if master_key is None:
            raise ValueError(f"HSM {apqn} has no master key")
        return self._master_keys.partition_keys(master_key, association_secret)


def as_policy_sees(hsm: ConfigurationData) -> keyvisor_policy.Hsm:
    """The same HSM as the policy engine's value."""
    return keyvisor_policy.Hsm(
        apqn=str(hsm.apqn),
        mode=hsm.mode.value,
        generation=int(hsm.generation),
        serial=hsm.serial,
        mkvp=hsm.mkvp,
        firmware=hsm.firmware,
        api=hsm.api,
        compliance=hsm.compliance,
        online=hsm.online,
    )
