"""Which HSMs have come or gone since an application last asked (C_WaitForSlotEvent).

An HSM has an event when it is attached, detached, bound or unbound; one that was unbound and bound again while nobody
asked has one event. Knows no connection and does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyvisor_firmware.broker.slots import Slot

_UNBOUND: Final = 0


class SlotEvents:
    """What one connection was told last: per attached HSM its binding, 0 while it is unbound."""

    def __init__(self, slots: Mapping[int, Slot]) -> None:
        self._slots = slots
        self._told = self._now()

    def forget(self) -> None:
        """The application begins anew: what is so now is no news."""
        self._told = self._now()

    def next(self) -> int | None:
        """The id of a slot with an event, which is then told; None if there is none."""
        now = self._now()
        for slot_id in sorted(self._told.keys() | now.keys()):
            if self._told.get(slot_id) != now.get(slot_id):
                if slot_id in now:
                    self._told[slot_id] = now[slot_id]
                else:
                    del self._told[slot_id]
                return slot_id
        return None

    def settled(self) -> bool:
        """Whether the state page shows all that the gate was told of; if not, an event is about to be there."""
        return all(slot.settled() for slot in list(self._slots.values()))

    def _now(self) -> dict[int, int]:
        return {slot_id: _binding(slot) for slot_id, slot in list(self._slots.items())}


def _binding(slot: Slot) -> int:
    grant = slot.grant
    return _UNBOUND if grant is None else grant.binding
