"""Patterns looked up by an HSM that they match, or by a pattern that they cover, without comparing each.

They are first told apart by what is compared for equality: mode, MKVP and serial number. A few that are alike in these
are compared one by one, with `matching` itself; of many the masks of all fields are laid over each other. Both answer
what comparing each would answer. Knows patterns; knows neither secrets nor what stands behind a pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyvisor_policy.bit_masks import Intervals, NameSets, members
from keyvisor_policy.hsms import Hsm
from keyvisor_policy.matching import covers, usable
from keyvisor_policy.rules import Pattern

MOST_COMPARED = 16  # patterns alike in what is compared for equality; masks cost more than comparing these


class PatternIndex:
    """Patterns by their numbers, in an order that counts: the first is the lowest."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._alike: dict[tuple[str, bytes | None, str | None], _Few | _Many] = {}
        alike: dict[tuple[str, bytes | None, str | None], list[int]] = {}
        for number, pattern in enumerate(patterns):
            alike.setdefault((pattern.mode, pattern.mkvp, pattern.serial), []).append(number)
        for key, numbers in alike.items():
            kind = _Few if len(numbers) <= MOST_COMPARED else _Many
            self._alike[key] = kind(numbers, [patterns[number] for number in numbers])

    def matching(self, hsm: Hsm) -> list[int]:
        """All that the HSM matches, as `usable` has it; ascending."""
        if not hsm.online or (hsm.mode == "ep11" and hsm.mkvp is None):
            return []
        near = self._near(hsm.mode, hsm.mkvp, hsm.serial)
        return sorted(number for group in near for number in group.matching(hsm))

    def first_matching(self, hsm: Hsm) -> int | None:
        """The first that the HSM matches; None where it matches none."""
        if not hsm.online or (hsm.mode == "ep11" and hsm.mkvp is None):
            return None
        firsts = (next(group.matching(hsm), None) for group in self._near(hsm.mode, hsm.mkvp, hsm.serial))
        return min((first for first in firsts if first is not None), default=None)

    def first_covering(self, pattern: Pattern) -> int | None:
        """The first that covers the pattern, as `covers` has it; None where none does."""
        near = self._near(pattern.mode, pattern.mkvp, pattern.serial)
        firsts = (next(group.covering(pattern), None) for group in near)
        return min((first for first in firsts if first is not None), default=None)

    def _near(self, mode: str, mkvp: bytes | None, serial: str | None) -> Iterator[_Few | _Many]:
        """Those that name these, or name none."""
        for one in (None,) if mkvp is None else (mkvp, None):
            for other in (None,) if serial is None else (serial, None):
                group = self._alike.get((mode, one, other))
                if group is not None:
                    yield group


class _Few:
    """Some patterns that are compared one by one."""

    def __init__(self, numbers: Sequence[int], patterns: Sequence[Pattern]) -> None:
        self._listed = tuple(zip(numbers, patterns, strict=True))

    def matching(self, hsm: Hsm) -> Iterator[int]:
        return (number for number, pattern in self._listed if usable(hsm, pattern))

    def covering(self, narrow: Pattern) -> Iterator[int]:
        return (number for number, pattern in self._listed if covers(pattern, narrow))


class _Many:
    """Many patterns, alike in mode, MKVP and serial number; an HSM or pattern that comes here agrees with these."""

    def __init__(self, numbers: Sequence[int], patterns: Sequence[Pattern]) -> None:
        self._numbers = numbers
        self._generation = Intervals([pattern.generation for pattern in patterns])
        self._firmware = Intervals([pattern.firmware for pattern in patterns])
        self._api = Intervals([pattern.api for pattern in patterns])
        self._compliance = NameSets([pattern.compliance for pattern in patterns])

    def matching(self, hsm: Hsm) -> Iterator[int]:
        return self._in(
            self._generation.containing(hsm.generation)
            & self._firmware.containing(hsm.firmware)
            & self._api.containing(hsm.api)
            & self._compliance.inside(hsm.compliance)
        )

    def covering(self, narrow: Pattern) -> Iterator[int]:
        return self._in(
            self._generation.covering(narrow.generation)
            & self._firmware.covering(narrow.firmware)
            & self._api.covering(narrow.api)
            & self._compliance.inside(narrow.compliance)
        )

    def _in(self, mask: int) -> Iterator[int]:
        return (self._numbers[bit] for bit in members(mask))
