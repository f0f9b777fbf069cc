"""What one command does to gates, remembered so that it can be undone.

A command is checked and written first, then done to the gate, and committed last. Whatever fails on the way is
undone here in reverse order; a crash needs no undoing, since gates end with the daemon. Where one command does several
things, what it does to the gate can be kept back until all of them are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from keyvisor_firmware.association.gates import Gate
from keyvisor_firmware.audit import Log
from keyvisor_hsm.cards import Apqn, ConfigurationData
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys
from keyvisor_policy.control_points import ControlPoints

Undo = Callable[[], None]
Controlled = tuple[ControlPoints, Mapping[Apqn, str]]  # and the rules that HSMs are held through


Action = Literal["unbind", "bind", "associate"]


@dataclass(frozen=True, slots=True)
class KeptBack:
    """An effect that is still to be done. `happen` raises PartitionUnusable, unless it is an unbind."""

    action: Action
    apqn: Apqn
    happen: Callable[[], None]


class Effects:
    """The effects of one command. The way back is noted before each is done, since it may end half way."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._way_back: list[Undo] = []
        self._kept_back: list[KeptBack] | None = None

    @contextmanager
    def kept_back(self) -> Iterator[list[KeptBack]]:
        """Within, no HSM is bound, associated or unbound at a gate. What was to be done is in the list, in its order."""
        kept: list[KeptBack] = []
        self._kept_back = kept
        try:
            yield kept
        finally:
            self._kept_back = None

    def attach(self, gate: Gate, hsm: ConfigurationData) -> None:
        """The HSM becomes a slot."""
        self.note(lambda: gate.detach(hsm.apqn))
        gate.attach(hsm)

    def detach(self, gate: Gate, hsm: ConfigurationData) -> None:
        """The slot of an unbound HSM is gone."""
        self.note(lambda: gate.attach(hsm))
        gate.detach(hsm.apqn)

    def govern(self, gate: Gate, now: Controlled, before: Controlled) -> None:
        """Another policy decides what HSMs may be asked. `before` is what decided until now."""
        self.note(lambda: gate.govern(*before))
        gate.govern(*now)

    def bind(self, gate: Gate, apqn: Apqn, rule: str | None) -> None:
        """Non-sensitive requests pass. Raises PartitionUnusable."""

        def bound() -> None:
            self._attempt(lambda: gate.unbind(apqn), lambda: gate.bind(apqn, rule=rule))

        self._do("bind", apqn, bound)

    def associate(self, gate: Gate, apqn: Apqn, keys: PartitionKeys, rule: str) -> None:
        """Sensitive requests pass. Raises PartitionUnusable."""

        def back_to_bound() -> None:
            gate.unbind(apqn)
            gate.bind(apqn)

        def associated() -> None:
            self._attempt(back_to_bound, lambda: gate.associate(apqn, keys, rule=rule))

        self._do("associate", apqn, associated)

    def unbind(self, gate: Gate, apqn: Apqn, before: Undo) -> None:
        """Nothing passes. `before` gives the gate what it granted until now."""

        def happen() -> None:
            self.note(before)
            gate.unbind(apqn)

        self._do("unbind", apqn, happen)

    def note(self, undo: Undo) -> None:
        """Remember how to undo what is done next."""
        self._way_back.append(undo)

    def undo(self) -> None:
        """Back to how it was. A gate that does not go back grants less than the database says, never more."""
        while self._way_back:
            undo = self._way_back.pop()
            try:
                undo()
            except Exception as error:  # the rest has to be undone all the same
                self._log.warning("an effect could not be undone", reason=repr(error))

    def _do(self, action: Action, apqn: Apqn, happen: Callable[[], None]) -> None:
        if self._kept_back is None:
            happen()
        else:
            self._kept_back.append(KeptBack(action, apqn, happen))

    def _attempt(self, undo: Undo, effect: Callable[[], None]) -> None:
        self.note(undo)
        try:
            effect()
        except PartitionUnusable:
            self._way_back.pop()  # the gate is as it was; undoing would disturb what the guest has there
            raise
