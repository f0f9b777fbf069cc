"""The inventory: which cards the machine has, and what a query to one of their domains answers.

Pure values. Knows nothing of tokens, files or guests; master keys appear by name only.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

_APQN = re.compile(r"([0-9a-fA-F]{2})\.([0-9a-fA-F]{4})")

SERIAL_LENGTH = 16
MKVP_LENGTH = 16


@dataclass(frozen=True, slots=True, order=True)
class Apqn:
    """Adapter and queue number: the name of an HSM. `card` is 0..255, `domain` is 0..255."""

    card: int
    domain: int

    def __post_init__(self) -> None:
        if not (0 <= self.card <= 0xFF and 0 <= self.domain <= 0xFF):
            raise ValueError(f"card and domain are 00 to ff, not {self.card:x} and {self.domain:x}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `03.0011` (card.domain, hex). Raises ValueError for anything else."""
        match = _APQN.fullmatch(text)
        if match is None:
            raise ValueError(f"`{text}` is not an APQN; write card.domain in hex, as in `03.0011`")
        return cls(int(match[1], 16), int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.card:02x}.{self.domain:04x}"


class Generation(enum.IntEnum):
    """Crypto Express generations, in the order of their making."""

    CEX4 = 4
    CEX5 = 5
    CEX6 = 6
    CEX7 = 7
    CEX8 = 8


class Mode(enum.StrEnum):
    """What a card is set up as. Only `ep11` is associated; `accel` is bound only; `cca` is neither."""

    EP11 = "ep11"
    ACCEL = "accel"
    CCA = "cca"


@dataclass(frozen=True, slots=True)
class Domain:
    """One crypto domain of a card. `master_key` is the name of its current master key, None if it has none."""

    number: int
    master_key: str | None = None
    online: bool = True


@dataclass(frozen=True, slots=True)
class Card:
    """One adapter with its domains."""

    number: int
    generation: Generation
    mode: Mode
    serial: str
    firmware: tuple[int, int]
    api: int
    compliance: frozenset[str]
    domains: tuple[Domain, ...]


@dataclass(frozen=True, slots=True)
class ConfigurationData:
    """What a query to an HSM answers. `mkvp` is 16 bytes, or None where there is no valid current master key."""

    apqn: Apqn
    generation: Generation
    mode: Mode
    serial: str
    mkvp: bytes | None
    firmware: tuple[int, int]
    api: int
    compliance: frozenset[str]
    online: bool


class UnknownHsm(LookupError):
    """No card of the inventory has that domain."""

    def __init__(self, apqn: Apqn) -> None:
        super().__init__(f"no HSM {apqn} in the inventory; `keyvisor hsm list` shows those there are")
        self.apqn = apqn


class Inventory:
    """All cards of the machine. Looked up by APQN; iterates in APQN order."""

    def __init__(self, cards: tuple[Card, ...]) -> None:
        self._hsms: dict[Apqn, tuple[Card, Domain]] = {
            Apqn(card.number, domain.number): (card, domain) for card in cards for domain in card.domains
        }

    def __iter__(self) -> Iterator[Apqn]:
        return iter(sorted(self._hsms))

    def __contains__(self, apqn: object) -> bool:
        return apqn in self._hsms

    def master_key(self, apqn: Apqn) -> str | None:
        """The name of the HSM's current master key. Raises UnknownHsm."""
        return self._find(apqn)[1].master_key

    def master_keys(self) -> frozenset[str]:
        """The names of all master keys that the inventory asks for."""
        return frozenset(d.master_key for _, d in self._hsms.values() if d.master_key is not None)

    def query(self, apqn: Apqn, mkvps: Mapping[str, bytes]) -> ConfigurationData:
        """The HSM's configuration data; `mkvps` gives the 16-byte MKVP of each master key. Raises UnknownHsm."""
        card, domain = self._find(apqn)
        mkvp = mkvps[domain.master_key] if domain.master_key is not None else None
        return ConfigurationData(
            apqn=apqn,
            generation=card.generation,
            mode=card.mode,
            serial=card.serial,
            mkvp=mkvp if card.mode is not Mode.ACCEL else None,
            firmware=card.firmware,
            api=card.api,
            compliance=card.compliance,
            online=domain.online,
        )

    def _find(self, apqn: Apqn) -> tuple[Card, Domain]:
        try:
            return self._hsms[apqn]
        except KeyError:
            raise UnknownHsm(apqn) from None
