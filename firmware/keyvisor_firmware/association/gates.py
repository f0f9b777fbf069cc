"""What the firmware asks of the gates, and what they tell it: the border to the broker, as protocols.

The firmware decides and the gate enforces; neither imports the other. A gate never outlives the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from keyvisor_hsm.cards import Apqn, ConfigurationData
from keyvisor_hsm.partitions import PartitionKeys
from keyvisor_policy.control_points import ControlPoints


class RefusedCall(Protocol):
    """A PKCS#11 call that the gate refused: when (ISO 8601, UTC), which HSM, call and CK_RV, and why.

    `because` is there where a control point of the policy refused it.
    """

    @property
    def at(self) -> str: ...
    @property
    def apqn(self) -> str | None: ...
    @property
    def call(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def because(self) -> Because | None: ...


class Because(Protocol):
    """A control point, and where it stands."""

    @property
    def point(self) -> str: ...
    @property
    def origin(self) -> str: ...


class Mechanism(Protocol):
    """One CK_MECHANISM_TYPE with its CK_MECHANISM_INFO; the unit of the key sizes is the mechanism's own.

    `allowed`: whether the policy leaves any function of it; the flags are then those that are left.
    """

    @property
    def type(self) -> int: ...
    @property
    def min_key_size(self) -> int: ...
    @property
    def max_key_size(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def allowed(self) -> bool: ...


class Gate(Protocol):
    """One guest's PKCS#11 door, and the process behind it."""

    def attach(self, hsm: ConfigurationData) -> None:
        """The HSM becomes a slot of the guest, unbound."""

    def detach(self, apqn: Apqn) -> None:
        """The slot is gone."""

    def govern(self, points: ControlPoints, rules: Mapping[Apqn, str]) -> None:
        """What the policy lets HSMs be asked, from when this returns; `rules` are those that HSMs are held through."""

    def bind(self, apqn: Apqn, *, rule: str | None = None) -> None:
        """Non-sensitive requests pass. Raises PartitionUnusable; the HSM is then as it was.

        `rule` is the association rule that an accelerator is held through.
        """

    def associate(
        self, apqn: Apqn, keys: PartitionKeys, *, rule: str | None = None, wait: bool = True
    ) -> None:
        """Sensitive requests pass. Raises PartitionUnusable; the HSM is then as it was.

        `rule` is the association rule that allows it. Without `wait` the partition is opened by the gate that runs next,
        not now: after a restart.
        """

    def unbind(self, apqn: Apqn) -> None:
        """Nothing passes any more when this returns."""

    def mechanisms(self, apqn: Apqn) -> Sequence[Mechanism]:
        """What the module behind a bound HSM can do. Raises PartitionUnusable where the gate cannot tell."""
        ...

    def refusals(self) -> tuple[Sequence[RefusedCall], int]:
        """What the gate refused, newest last, and how many were dropped."""
        ...

    def stop(self) -> None:
        """End the process and close the door."""


class Gates(Protocol):
    """Makes the doors."""

    def open(self, guest: str) -> Gate:
        """Make the guest's door. Raises OSError."""
        ...
