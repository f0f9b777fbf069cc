"""The HSMs of one guest as its gate knows them, and what the filter grants on each (architecture.md, section 5, 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from keyvisor_firmware.broker.calls import CALLS, Access, Call
from keyvisor_firmware.broker.control_points import UNCONTROLLED, Control, refused_calls
from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.state_page import HsmState, state_of
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.native import address_of


@dataclass(frozen=True, slots=True)
class Description:
    """What applications are told about an HSM: APQN, mode (`ep11`, `accel`), generation (`CEX8`), serial, firmware version."""

    apqn: str
    mode: str
    generation: str
    serial: str
    firmware: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Grant:
    """What one word of the state page allows: calls on `keys`, as far as `control` does.

    `binding` is the epoch of the bind that it goes back to.
    """

    word: int
    binding: int
    keys: KeyStore
    control: Control = UNCONTROLLED

    @property
    def state(self) -> HsmState:
        """The state that was granted."""
        return state_of(self.word)


def permitted(call: Call, state: HsmState, mode: str) -> bool:
    """Whether a call may reach an HSM of this mode in this state, which is bound at least."""
    if call.access is not Access.SENSITIVE or state is HsmState.ASSOCIATED:
        return True
    return mode == "accel" and call.accelerator


@lru_cache
def permitted_calls(state: HsmState, mode: str) -> int:
    """The same for all calls: a bit for each, by its id."""
    return sum(1 << call.id for call in CALLS if permitted(call, state, mode))


class Slot:
    """One attached HSM. `index` is its place in the state page; `description` is replaced, never changed.

    Grants are offered before the page shows their word, and the page alone decides which one is good: between the
    offer and the page's change the old grant still is, so nobody who is at work notices. `sessions` are those of all
    connections.
    """

    __slots__ = ("_grants", "_words", "description", "id", "index", "sessions", "word_address")

    def __init__(self, id_: int, description: Description, index: int, words: memoryview) -> None:
        self.id = id_
        self.description = description
        self.index = index
        self.sessions: set[object] = set()
        self._grants: dict[int, Grant] = {}
        self._words = words
        self.word_address = address_of(words) + index * words.itemsize  # bytes

    @property
    def grant(self) -> Grant | None:
        """The grant that is good now; None where the HSM is not bound."""
        return self._grants.get(self._words[self.index])

    def offered(self, word_: int) -> Grant | None:
        """The grant for that word, if there is one already."""
        return self._grants.get(word_)

    def offer(self, grant: Grant | None) -> tuple[Grant, ...]:
        """Let `grant` be good as soon as the page shows its word. Those that can never be good again are given back."""
        kept = {one.word: one for one in (self.grant, grant) if one is not None}
        gone = tuple(one for word_, one in self._grants.items() if word_ not in kept)
        self._grants = kept
        return gone

    def settled(self) -> bool:
        """Whether the page shows the word that was offered last. Grants run ahead of the page for a moment."""
        return not self._grants or next(reversed(self._grants)) == self._words[self.index]

    def present(self) -> bool:
        """Whether the HSM is bound, so that its token is there."""
        return state_of(self._words[self.index]) is not HsmState.UNBOUND

    def admit(self, call: Call) -> Grant:
        """The grant under which `call` may reach the module now. Raises Refused."""
        grant = self._grants.get(self._words[self.index])
        if grant is None:
            raise self._refused(CKR.TOKEN_NOT_PRESENT, f"HSM {self.description.apqn} is not bound")
        if not permitted(call, grant.state, self.description.mode):
            raise self._not_permitted(call)
        return grant

    def permitted_calls(self, grant: Grant) -> int:
        """The calls that `admit`, and no control point, lets through under a grant that is good: a bit for each, by its id."""
        return permitted_calls(grant.state, self.description.mode) & ~refused_calls(grant.control)

    def confirm(self, grant: Grant) -> None:
        """After the module's answer: it may leave only if nothing was taken away meanwhile. Raises Refused.

        An HSM that was associated meanwhile is bound as before, and what a bound one may do was done.
        """
        word_ = self._words[self.index]
        if word_ == grant.word:
            return
        now = self._grants.get(word_)
        if now is None or now.binding != grant.binding or now.state < grant.state:
            apqn = self.description.apqn
            raise self._refused(CKR.DEVICE_REMOVED, f"HSM {apqn} was taken away while the call was under way")

    def _not_permitted(self, call: Call) -> Refused:
        apqn, does = self.description.apqn, f"{call.name} {call.reason}"
        if self.description.mode != "accel":
            return self._refused(
                CKR.USER_NOT_LOGGED_IN, f"{does}, and HSM {apqn} is bound but not associated"
            )
        return self._refused(
            CKR.FUNCTION_NOT_SUPPORTED, f"{does}, and the accelerator {apqn} serves clear keys only"
        )

    def _refused(self, rv: CKR, reason: str) -> Refused:
        return Refused(rv, reason, self.description.apqn)
