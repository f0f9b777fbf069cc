"""HSMs looked up by a pattern, without looking at each: the mask of those that match it.

The other way round than `pattern_index`: a plan asks for each of many rules which of the same HSMs it can have. Answers
what `matching.usable` answers for each HSM. Knows neither secrets nor who is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyvisor_policy.bit_masks import Values, by_value
from keyvisor_policy.hsms import Hsm
from keyvisor_policy.rules import Pattern


class HsmIndex:
    """HSMs by their place in a sequence; bit 0 is the first."""

    def __init__(self, hsms: Sequence[Hsm]) -> None:
        self._online = by_value(hsm.online for hsm in hsms).get(True, 0)
        self._mode = by_value(hsm.mode for hsm in hsms)
        self._mkvp = by_value(hsm.mkvp for hsm in hsms)
        self._serial = by_value(hsm.serial for hsm in hsms)
        self._generation = Values([hsm.generation for hsm in hsms])
        self._firmware = Values([hsm.firmware for hsm in hsms])
        self._api = Values([hsm.api for hsm in hsms])
        self._compliance = {
            name: by_value(name in hsm.compliance for hsm in hsms)[True]
            for name in frozenset().union(*(hsm.compliance for hsm in hsms))
        }
        self._all = (1 << len(hsms)) - 1

    def matching(self, pattern: Pattern) -> int:
        """The HSMs that can be used at all and match every field."""
        mask = self._all
        for _, failing in self.failing(pattern):
            mask &= ~failing
        return mask

    def failing(self, pattern: Pattern) -> Iterator[tuple[str, int]]:
        """Per field that the pattern looks at, those that do not match in it, as `matching.mismatches` tells them."""
        every = self._all
        mode, keyless = self._mode.get(pattern.mode, 0), self._mkvp.get(None, 0)
        yield "online", every & ~self._online
        yield "mode", every & ~mode
        if pattern.mode == "ep11":
            yield "mkvp", mode & keyless
        if pattern.mkvp is not None:
            other = every & ~self._mkvp.get(pattern.mkvp, 0)
            yield "mkvp", other & ~keyless if pattern.mode == "ep11" else other
        if pattern.serial is not None:
            yield "serial", every & ~self._serial.get(pattern.serial, 0)
        if pattern.generation is not None:
            yield "generation", every & ~self._generation.inside(pattern.generation)
        if pattern.firmware is not None:
            yield "firmware", every & ~self._firmware.inside(pattern.firmware)
        if pattern.api is not None:
            yield "api", every & ~self._api.inside(pattern.api)
        if pattern.compliance:
            has_all = every
            for name in pattern.compliance:
                has_all &= self._compliance.get(name, 0)
            yield "compliance", every & ~has_all
