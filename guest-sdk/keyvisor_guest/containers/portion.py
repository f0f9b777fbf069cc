"""The portion of an image's layers that is encrypted: `0,2-4,6-`, counted from the bottom. The others stay readable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from keyvisor_guest.containers.errors import Unbuildable

__all__ = ["EVERY_LAYER", "Portion"]

_RANGE: Final = re.compile(r"(\d{1,4})(?:(-)(\d{1,4})?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Portion:
    """Ranges of layers (first, last); no last means up to the top."""

    ranges: tuple[tuple[int, int | None], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the text of an option. Raises Unbuildable."""
        ranges: list[tuple[int, int | None]] = []
        for one in text.split(","):
            found = _RANGE.fullmatch(one.strip())
            if not found:
                raise Unbuildable(
                    f"`{one}` is no range of layers: write `0`, `2-4` or `1-`, with commas between"
                )
            first = int(found[1])
            last = first if not found[2] else int(found[3]) if found[3] else None
            if last is not None and last < first:
                raise Unbuildable(f"`{one}` is no range of layers: it ends before it begins")
            ranges.append((first, last))
        return cls(tuple(ranges))

    def includes(self, layer: int) -> bool:
        """Whether the layer is encrypted."""
        return any(first <= layer and (last is None or layer <= last) for first, last in self.ranges)

    def check(self, layers: int) -> None:
        """Raises Unbuildable where a layer is named that an image of `layers` does not have, or none is encrypted."""
        for first, last in self.ranges:
            if max(first, last or 0) >= layers:
                raise Unbuildable(
                    f"layer {max(first, last or 0)} is to be encrypted: the image has layers 0 to {layers - 1}"
                )
        if not any(self.includes(layer) for layer in range(layers)):
            raise Unbuildable("no layer is to be encrypted: name one at least, `0-` for all")


EVERY_LAYER: Final = Portion(((0, None),))
