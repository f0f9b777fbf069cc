"""The values that decisions are about: HSMs, secrets' ids, and what an HSM is to its guest now.

Knows no rule and no file. Everything here comes from a query or from the firmware and is checked on the way in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal, NewType, TypeAlias, get_args

Mode: TypeAlias = Literal["ep11", "accel", "cca"]
MODES: tuple[Mode, ...] = get_args(Mode)

OLDEST_GENERATION = 4
NEWEST_GENERATION = 8
MKVP_LENGTH = 16  # bytes
SECRET_ID_LENGTH = 32  # bytes

_APQN = re.compile(r"[0-9a-f]{2}\.[0-9a-f]{4}")

SecretId = NewType("SecretId", bytes)
"""32 bytes: what requests carry instead of a secret's name (formats, A.4)."""


def secret_id(name: str) -> SecretId:
    """The id of the secret `name`: SHA-256 of the name's UTF-8 bytes (formats, A.4)."""
    return SecretId(hashlib.sha256(name.encode()).digest())


def generation_name(generation: int) -> str:
    """As people write it: `CEX8`."""
    return f"CEX{generation}"


def version_name(version: tuple[int, int]) -> str:
    """As people write it: `8.0`."""
    return f"{version[0]}.{version[1]}"


@dataclass(frozen=True, slots=True)
class Hsm:
    """One HSM: its name and its configuration data (patents, 2.3).

    `apqn` is card.domain in lower-case hex, `03.0011`; `mkvp` is 16 bytes, None where there is no valid current
    master key; `serial` is what the card says, whatever that is. Raises ValueError for what no HSM can be.
    """

    apqn: str
    mode: Mode
    generation: int
    serial: str = ""
    mkvp: bytes | None = None
    firmware: tuple[int, int] = (0, 0)
    api: int = 0
    compliance: frozenset[str] = field(default_factory=frozenset)
    online: bool = True

    def __post_init__(self) -> None:
        if _APQN.fullmatch(self.apqn) is None:
            raise ValueError(
                f"`{self.apqn}` is not an APQN; write card.domain in lower-case hex, as in `03.0011`"
            )
        if self.mode not in MODES:
            raise ValueError(f"`{self.mode}` is not a mode; it is one of {', '.join(MODES)}")
        if not OLDEST_GENERATION <= self.generation <= NEWEST_GENERATION:
            raise ValueError(
                f"generation {self.generation} is not one of {OLDEST_GENERATION} to {NEWEST_GENERATION}"
            )
        if self.mkvp is not None and len(self.mkvp) != MKVP_LENGTH:
            raise ValueError(f"an MKVP has {MKVP_LENGTH} bytes, not {len(self.mkvp)}")

    @property
    def card(self) -> str:
        """The card's number, two hex digits."""
        return self.apqn[:2]


@dataclass(frozen=True, slots=True)
class Holding:
    """What an HSM is to this guest now: bound, or associated with `secret_id`. One that is neither has no Holding.

    `stuck` means that an association is pending or has failed: nothing but unbinding helps (formats, F.5).
    """

    secret_id: SecretId | None = None
    stuck: bool = False


def holding(state: str, associated: SecretId | None = None) -> Holding | None:
    """The Holding for a state in the doors' words: unbound (None), bound, pending, associated, failed.

    Raises ValueError for any other word, and for `associated` without an id.
    """
    match state:
        case "unbound":
            return None
        case "bound":
            return Holding()
        case "associated" if associated is not None:
            return Holding(associated)
        case "pending" | "failed":
            return Holding(associated, stuck=True)
    raise ValueError(f"`{state}` is not a state of an association, or lacks its secret id")
