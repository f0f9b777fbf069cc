"""Gates without processes: they remember what they were told, and fail when the test says so.

The story that it tells is the broker's: an HSM is attached, bound, associated through a partition's keys, and
nothing passes any more once it is unbound. A crash takes all gates with it, as a daemon's does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvisor_hsm.cards import Apqn, ConfigurationData
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys
from keyvisor_policy.control_points import NO_CONTROL_POINTS, ControlPoints


class Crash(BaseException):
    """The daemon dies here: nothing that comes later happens."""


class Mishap(Exception):
    """Something unforeseen goes wrong at a gate; the daemon lives on."""


@dataclass(frozen=True)
class Call:
    """A PKCS#11 call that a gate refused."""

    at: str
    apqn: str | None
    call: str
    code: str
    reason: str
    because: None = None


class Mechanism(NamedTuple):
    """What the module behind every HSM can do."""

    type: int
    min_key_size: int
    max_key_size: int
    flags: int
    allowed: bool = True


@dataclass
class Gates:
    """Makes simulated gates. `grants` is what passes now: per guest and APQN None, "bound", or a partition's name."""

    told: list[str] = field(default_factory=list)
    grants: dict[str, dict[str, str | None]] = field(default_factory=dict)
    refused: dict[str, list[Call]] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)  # APQNs whose partition does not open
    waited: dict[str, bool] = field(default_factory=dict)  # per APQN, how the last association was asked for
    mechanisms: tuple[Mechanism, ...] = (Mechanism(0x1041, 112, 521, 0x2800), Mechanism(0x80000123, 0, 0, 1))
    # per guest its control points, and per APQN the association rule that it is held through
    controlled: dict[str, tuple[ControlPoints, dict[str, str]]] = field(default_factory=dict)
    dead: bool = False
    _countdown: int | None = None
    _how: str = ""

    def fail(self, after: int, how: str) -> None:
        """The effect that comes after `after` more fails: `crash before`, `crash after` or `mishap before`, `mishap after`."""
        self._countdown, self._how = after, how

    @property
    def failed(self) -> bool:
        """Whether the failure that was asked for has happened."""
        return self._countdown is None

    def open(self, guest: str) -> Gate:
        try:
            self.effect(f"{guest}: open", lambda: self.grants.update({guest: {}}))
        except Mishap:
            self.grants.pop(guest, None)  # a door that cannot be made whole is not made
            raise
        return Gate(self, guest)

    def effect(self, what: str, happen: object) -> None:
        if self.dead:
            raise Crash
        now = self._countdown == 0
        if self._countdown is not None:
            self._countdown = None if now else self._countdown - 1
        if now and self._how.endswith("before"):
            self._break(what)
        self.told.append(what)
        assert callable(happen)
        happen()
        if now:
            self._break(what)

    def _break(self, what: str) -> None:
        if self._how.startswith("mishap"):
            raise Mishap(what)
        self.dead = True
        self.grants.clear()
        raise Crash(what)


@dataclass
class Gate:
    """One guest's."""

    gates: Gates
    guest: str

    @property
    def _granted(self) -> dict[str, str | None]:
        return self.gates.grants[self.guest]

    def attach(self, hsm: ConfigurationData) -> None:
        self._tell("attach", hsm.apqn, lambda: self._granted.setdefault(str(hsm.apqn), None))

    def detach(self, apqn: Apqn) -> None:
        self._tell("detach", apqn, lambda: self._granted.pop(str(apqn)))

    def govern(self, points: ControlPoints, rules: Mapping[Apqn, str]) -> None:
        """Told where there are control points, or were any: the rules alone mean nothing to a gate."""
        now = points, {str(apqn): rule for apqn, rule in rules.items()}
        before, _ = self.gates.controlled.get(self.guest, (NO_CONTROL_POINTS, {}))
        if points.points or before.points:
            self.gates.effect(
                f"{self.guest}: control {len(points.points)}",
                lambda: self.gates.controlled.update({self.guest: now}),
            )
        else:
            self.gates.controlled[self.guest] = now

    def bind(self, apqn: Apqn, *, rule: str | None = None) -> None:
        self._tell("bind", apqn, lambda: self._grant(apqn, "bound", rule))

    def associate(
        self, apqn: Apqn, keys: PartitionKeys, *, rule: str | None = None, wait: bool = True
    ) -> None:
        if str(apqn) in self.gates.unusable and wait:
            raise PartitionUnusable(f"the partition in {keys.directory} is damaged")
        self.gates.waited[str(apqn)] = wait
        self._tell("associate", apqn, lambda: self._grant(apqn, keys.directory, rule))

    def unbind(self, apqn: Apqn) -> None:
        self._tell("unbind", apqn, lambda: self._grant(apqn, None))

    def mechanisms(self, apqn: Apqn) -> tuple[Mechanism, ...]:
        if str(apqn) in self.gates.unusable:
            raise PartitionUnusable(f"the gate is not ready for HSM {apqn}")
        assert self._granted[str(apqn)] is not None, "only a bound HSM tells"
        return self.gates.mechanisms

    def refusals(self) -> tuple[list[Call], int]:
        return self.gates.refused.get(self.guest, []), 0

    def stop(self) -> None:
        self.gates.effect(f"{self.guest}: stop", lambda: self.gates.grants.pop(self.guest, None))

    def _tell(self, what: str, apqn: Apqn, happen: object) -> None:
        self.gates.effect(f"{self.guest}: {what} {apqn}", happen)

    def _grant(self, apqn: Apqn, what: str | None, rule: str | None = None) -> None:
        assert str(apqn) in self._granted, "only an attached HSM can be granted"
        self._granted[str(apqn)] = what
        _, rules = self.gates.controlled.setdefault(self.guest, (NO_CONTROL_POINTS, {}))
        rules.pop(str(apqn), None)
        if rule is not None:
            rules[str(apqn)] = rule
