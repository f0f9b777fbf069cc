"""What every section is given: how long to measure, where to put files, whom to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

# What a section found: names, numbers, lists and dictionaries, as the JSON file has them.
Figures: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. `shapes` are pairs of client processes and threads in each; `marks` are which of the
    `started_guests`, from 1 on, are looked at; `image_mib` are sizes of images, and those with `image_layers` have a
    quarter of the first.
    """

    rounds: int
    seconds: float
    shapes: tuple[tuple[int, int], ...]
    objects: int
    connections: tuple[int, ...]
    cold_starts: int
    guests: int
    growing_rules: tuple[int, ...]
    growing_objects: tuple[int, ...]
    ranges: tuple[int, ...]
    donations: int
    started_guests: int
    marks: tuple[int, ...]
    growing_policies: tuple[int, ...]
    planned_hsms: int
    image_mib: tuple[int, ...]
    image_layers: tuple[int, ...]


FULL: Final = Size(
    rounds=5,
    seconds=0.25,
    shapes=((1, 1), (4, 1), (16, 1), (1, 8)),
    objects=1000,
    connections=(200, 1000),
    cold_starts=5,
    guests=200,
    growing_rules=(10, 1000, 10_000),  # the last is as many as a policy may have
    growing_objects=(10, 1000, 10_000),
    ranges=(10, 1000, 100_000),
    donations=200,
    started_guests=1000,
    marks=(1, 100, 1000),
    growing_policies=(10, 100, 1000, 10_000),
    planned_hsms=1000,
    image_mib=(300, 2048),
    image_layers=(1, 10, 100),
)
QUICK: Final = Size(
    rounds=3,
    seconds=0.05,
    shapes=((1, 1), (4, 1)),
    objects=100,
    connections=(20, 100),
    cold_starts=2,
    guests=8,
    growing_rules=(10, 100),
    growing_objects=(10, 100),
    ranges=(10, 1000),
    donations=20,
    started_guests=8,
    marks=(1, 8),
    growing_policies=(10, 100),
    planned_hsms=20,
    image_mib=(8, 32),
    image_layers=(1, 5),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `directory` is new and its path short, `say` shows what is being done."""

    size: Size
    directory: Path
    client: Path
    say: Callable[[str], None]

    def room(self, name: str) -> Path:
        """A section's directory."""
        path = self.directory / name
        path.mkdir()
        return path
