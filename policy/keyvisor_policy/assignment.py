"""Which HSM serves which rule, as pure combinatorics.

Rules are numbers in order of priority, HSMs numbers in order of preference; sets of HSMs are bit masks. One HSM
serves one rule. Of all assignments the one is taken that is best in this order, each only where all before it are
equal, so that exactly one is best:

1. which rules are met, the first before the second and so on; a rule is met when it has all HSMs that it wants,
   or at least one where it takes every match;
2. how many HSMs each rule has, again in order: what is left over goes to rules that take every match and to
   those that could not be met;
3. how much of what stands already is worth keeping, over all rules together;
4. each rule, in order, has the HSMs that come first.

1 and 2 grow by augmenting paths: the sets of rules that can be met together form a transversal matroid, so being
greedy in order of priority is exact. 3 removes gaining cycles (Bellman and Ford) until none is left. 4 moves only
along pairs that the potentials of 3 leave without loss.

What cannot be met is cheap: once no way leads from some HSMs to an idle one, none ever will, and they are left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

Worth = Mapping[int, Mapping[int, int]]
"""Per rule what is worth keeping: how much -> the mask of the HSMs that are worth it. Nothing is worth 0."""


def assigned(
    matches: Sequence[int], wanted: Sequence[int | None], hsms: int, worth: Worth
) -> tuple[int, ...]:
    """The best assignment: per rule the mask of its HSMs.

    `matches` is per rule the mask of the HSMs that can meet it, `wanted` how many it wants, None for every match;
    `hsms` is how many there are.
    """
    board = _Board(matches, hsms)
    for rule, count in enumerate(wanted):
        board.meet(rule, 1 if count is None else count)
    for rule, count in enumerate(wanted):
        board.fill(rule, hsms if count is None else count)
    tight = board.keep(worth)
    board.settle(tight)
    return board.served


class _Board:
    """Who owns each HSM. The last rule is idleness: it can have every HSM and is worth nothing."""

    def __init__(self, matches: Sequence[int], hsms: int) -> None:
        self._all = (1 << hsms) - 1
        self._idle = len(matches)
        self._matches = [*matches, self._all]
        self._owner = [self._idle] * hsms
        self._served = [*[0] * len(matches), self._all]
        self._open = self._all  # all others lead to no idle HSM, whichever rules swap theirs

    @property
    def served(self) -> tuple[int, ...]:
        """Per rule the mask of its HSMs."""
        return tuple(self._served[: self._idle])

    def meet(self, rule: int, count: int) -> None:
        """Give `rule` its `count` HSMs, or none at all. No other rule has fewer afterwards."""
        if self._matches[rule].bit_count() < count:
            return
        before = None if count == 1 else (self._owner.copy(), self._served.copy(), self._open)
        for given in range(count):
            if not self._grow(rule):
                if before is not None and given:
                    self._owner, self._served, self._open = before
                return

    def fill(self, rule: int, count: int) -> None:
        """Give `rule` as many HSMs, up to `count`, as can be without taking one from a rule that has no other."""
        while self._served[rule].bit_count() < count:
            if not self._grow(rule):
                return

    def keep(self, worth: Worth) -> list[int]:
        """Make what is kept worth the most. Returns per rule the HSMs that it can have at no loss."""
        while True:
            potential, rings = self._gaining_rings(worth)
            if not rings:
                return self._tight(potential, worth)
            for taker, hsm in rings:
                self._give(hsm, taker)

    def settle(self, tight: Sequence[int]) -> None:
        """Give each rule, in order, the first HSMs that it can have at no loss to anything before."""
        movable = self._all
        for rule in range(self._idle):
            left = self._served[rule].bit_count()
            candidates = tight[rule] & movable
            while left and candidates:
                hsm = _first(candidates)
                hopeless = self._settle_one(rule, hsm, tight, movable)
                candidates &= ~(hopeless | 1 << hsm)
                if not hopeless:
                    movable &= ~(1 << hsm)
                    left -= 1

    def _settle_one(self, rule: int, hsm: int, tight: Sequence[int], movable: int) -> int:
        """Give `rule` this HSM; else the mask of those, it among them, of which `rule` can have none either."""
        giver = self._owner[hsm]
        if giver == rule:
            return 0
        hopeless = self._shift(giver, rule, tight, movable & ~(1 << hsm))
        if hopeless is None:
            self._give(hsm, rule)
            return 0
        return hopeless

    def _grow(self, rule: int) -> bool:
        """Let `rule` have one HSM more that was idle before, or one for which others swap theirs."""
        if not self._open & self._matches[rule]:
            return False
        closed = self._shift(rule, self._idle, self._matches, self._open)
        self._open &= ~(closed or 0)
        return closed is None

    def _give(self, hsm: int, taker: int) -> None:
        bit = 1 << hsm
        self._served[self._owner[hsm]] &= ~bit
        self._served[taker] |= bit
        self._owner[hsm] = taker

    def _shift(self, taker: int, giver: int, allowed: Sequence[int], movable: int) -> int | None:
        """Let `taker` have one HSM more and `giver` one less, over others that swap theirs.

        Where none can: the HSMs of `taker` and of all that were asked. They lead to each other and not to `giver`.
        """
        came: dict[int, tuple[int, int]] = {}  # who gives -> (who takes, which HSM)
        queue = deque([taker])
        reached = self._served[taker]
        while queue:
            at = queue.popleft()
            fresh = allowed[at] & movable & ~reached
            if given := fresh & self._served[giver]:
                came[giver] = (at, _first(given))
                self._pass_on(came, taker, giver)
                return None
            while fresh:
                hsm = _first(fresh)
                owner = self._owner[hsm]
                came[owner] = (at, hsm)
                queue.append(owner)
                reached |= self._served[owner]
                fresh &= ~self._served[owner]
        return reached

    def _pass_on(self, came: Mapping[int, tuple[int, int]], taker: int, giver: int) -> None:
        at = giver
        while at != taker:
            at, hsm = came[at]
            self._give(hsm, at)

    def _gaining_rings(self, worth: Worth) -> tuple[list[int], list[tuple[int, int]]]:
        """Potentials where no ring of swaps gains anything; else rings that do, as (who takes, which HSM).

        A ring in the ways that raised the potentials gains always, and where one gains at all, one comes up.
        """
        potential = [0] * (self._idle + 1)
        if not worth:
            return potential, []
        came: dict[int, tuple[int, int]] = {}  # who takes -> (who gives, which HSM)
        rings: list[tuple[int, int]] = []
        while not rings and self._raise(potential, came, worth):
            rings = _rings(came)
        return potential, rings

    def _raise(self, potential: list[int], came: dict[int, tuple[int, int]], worth: Worth) -> bool:
        """One pass over all that could take an HSM; whether it raised a potential."""
        raised = False
        levels = self._levels(potential, worth)
        for rule in self._active():
            for more, could in self._by_worth(rule, worth):
                level, mask = next(((level, mask & could) for level, mask in levels if mask & could), (0, 0))
                if mask and level + more > potential[rule]:
                    hsm = _first(mask)
                    potential[rule] = level + more
                    came[rule] = (self._owner[hsm], hsm)
                    raised = True
        return raised

    def _levels(self, potential: Sequence[int], worth: Worth) -> list[tuple[int, int]]:
        """The HSMs by what giving them away leaves of their owner's potential, the most first."""
        levels: dict[int, int] = {}
        for owner in self._active():
            for less, could in self._by_worth(owner, worth):
                level = potential[owner] - less
                levels[level] = levels.get(level, 0) | could & self._served[owner]
        return sorted(levels.items(), reverse=True)

    def _tight(self, potential: Sequence[int], worth: Worth) -> list[int]:
        tight = [0] * (self._idle + 1)
        levels = dict(self._levels(potential, worth))
        for rule in self._active():
            for more, could in self._by_worth(rule, worth):
                tight[rule] |= levels.get(potential[rule] - more, 0) & could
        return tight

    def _active(self) -> Iterator[int]:
        """The rules that have HSMs, and idleness."""
        return (rule for rule, served in enumerate(self._served) if served or rule == self._idle)

    def _by_worth(self, rule: int, worth: Worth) -> Iterator[tuple[int, int]]:
        """The HSMs that a rule could have, by what each is worth to it."""
        rest = self._matches[rule]
        for value, mask in worth.get(rule, _NOTHING).items():
            yield value, mask & rest
            rest &= ~mask
        yield 0, rest


_NOTHING: Mapping[int, int] = {}


def _first(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _rings(came: Mapping[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """All rings in the ways back; they share nothing, because every rule has one way back."""
    rings: list[tuple[int, int]] = []
    seen: set[int] = set()
    for start in came:
        way: list[int] = []
        at = start
        while at in came and at not in seen:
            seen.add(at)
            way.append(at)
            at = came[at][0]
        if at in way:
            rings += [(rule, came[rule][1]) for rule in way[way.index(at) :]]
    return rings
