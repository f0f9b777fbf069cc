"""A side of the comparison: one token behind the stock client, and all that a program needs to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from conformance.programs import Ran, run

LABEL: Final = "03.0011"  # of the token, on either side: an HSM's token is labelled with its APQN
PLAIN: Final = "plain"
BROKER: Final = "broker"


@dataclass(frozen=True, slots=True)
class Pins:
    """A token's PINs."""

    user: str
    so: str


PINS: Final = Pins("1234", "5678")  # of either token, which live as long as one suite


@dataclass(frozen=True, slots=True)
class Side:
    """A fresh token, its label LABEL and its PINs PINS. `directory` is for the programs' files.

    `environment` leads the stock client, whose path is `client`, to the token.
    """

    name: str
    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    client: Path

    def run(self, *words: str | Path, seconds: float = 60.0, given: str | None = None) -> Ran:
        """Run a program on this token."""
        return run(words, self.environment, self.directory, seconds=seconds, given=given)
