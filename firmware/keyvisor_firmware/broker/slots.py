"""The HSMs of one guest as its gate knows them, and what the filter grants on each (architecture.md, section 5, 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

from keyvisor_firmware.broker.calls import Access, Call
from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.state_page import HsmState, state_of
from keyvisor_hsm.cryptoki import CKR


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
    """What one word of the state page allows: calls on `keys`. `binding` is the epoch of the bind that it goes back to."""

    word: int
    binding: int
    keys: KeyStore

    @property
    def state(self) -> HsmState:
        """The state that was granted."""
        return state_of(self.word)


class Slot:
    """One attached HSM. `index` is its place in the state page; `description` and `grant` are replaced, never changed."""

    __slots__ = ("_words", "description", "grant", "id", "index")

    def __init__(self, id_: int, description: Description, index: int, words: memoryview) -> None:
        self.id = id_
        self.description = description
        self.index = index
        self.grant: Grant | None = None
        self._words = words

    def present(self) -> bool:
        """Whether the HSM is bound, so that its token is there."""
        return state_of(self._words[self.index]) is not HsmState.UNBOUND

    def admit(self, call: Call) -> Grant:
        """The grant under which `call` may reach the module now. Raises Refused."""
        grant = self.grant
        if grant is None or self._words[self.index] != grant.word:
            raise self._refused(CKR.TOKEN_NOT_PRESENT, f"HSM {self.description.apqn} is not bound")
        if call.access is Access.SENSITIVE and grant.word & 0xFF != HsmState.ASSOCIATED:
            self._admit_unassociated(call)
        return grant

    def confirm(self, grant: Grant) -> None:
        """After the module's answer: it may leave only if nothing changed meanwhile. Raises Refused."""
        if self._words[self.index] != grant.word:
            apqn = self.description.apqn
            raise self._refused(CKR.DEVICE_REMOVED, f"HSM {apqn} was taken away while the call was under way")

    def _admit_unassociated(self, call: Call) -> None:
        apqn, does = self.description.apqn, f"{call.name} {call.reason}"
        if self.description.mode != "accel":
            raise self._refused(CKR.USER_NOT_LOGGED_IN, f"{does}, and HSM {apqn} is bound but not associated")
        if not call.accelerator:
            raise self._refused(
                CKR.FUNCTION_NOT_SUPPORTED, f"{does}, and the accelerator {apqn} serves clear keys only"
            )

    def _refused(self, rv: CKR, reason: str) -> Refused:
        return Refused(rv, reason, self.description.apqn)
