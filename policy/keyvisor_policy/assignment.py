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
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

Worth = Mapping[tuple[int, int], int]
"""What (rule, HSM) is worth keeping; 0 where it is not there."""


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
    return tuple(board.served(rule) for rule in range(len(matches)))


def members(mask: int) -> Iterator[int]:
    """The HSMs of a mask, in order of preference."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class _Board:
    """Who owns each HSM. The last rule is idleness: it can have every HSM and is worth nothing."""

    def __init__(self, matches: Sequence[int], hsms: int) -> None:
        self._all = (1 << hsms) - 1
        self._idle = len(matches)
        self._matches = [*matches, self._all]
        self._owner = [self._idle] * hsms

    def served(self, rule: int) -> int:
        return sum(1 << hsm for hsm, owner in enumerate(self._owner) if owner == rule)

    def meet(self, rule: int, count: int) -> None:
        """Give `rule` its `count` HSMs, or none at all. No other rule has fewer afterwards."""
        if self._matches[rule].bit_count() < count:
            return
        before = self._owner.copy()
        for _ in range(count):
            if not self._shift(rule, self._idle, self._matches, self._all):
                self._owner = before
                return

    def fill(self, rule: int, count: int) -> None:
        """Give `rule` as many HSMs, up to `count`, as can be without taking one from a rule that has no other."""
        while self.served(rule).bit_count() < count:
            if not self._shift(rule, self._idle, self._matches, self._all):
                return

    def keep(self, worth: Worth) -> list[int]:
        """Make what is kept worth the most. Returns per rule the HSMs that it can have at no loss."""
        while True:
            potential, rings = self._gaining_rings(worth)
            if not rings:
                return self._tight(potential, worth)
            for taker, hsm in rings:
                self._owner[hsm] = taker

    def settle(self, tight: Sequence[int]) -> None:
        """Give each rule, in order, the first HSMs that it can have at no loss to anything before."""
        movable = self._all
        for rule in range(self._idle):
            left = self.served(rule).bit_count()
            for hsm in members(tight[rule] & movable) if left else ():
                if self._settle_one(rule, hsm, tight, movable):
                    movable &= ~(1 << hsm)
                    left -= 1
                if not left:
                    break

    def _settle_one(self, rule: int, hsm: int, tight: Sequence[int], movable: int) -> bool:
        giver = self._owner[hsm]
        if giver == rule:
            return True
        if not self._shift(giver, rule, tight, movable & ~(1 << hsm)):
            return False
        self._owner[hsm] = rule
        return True

    def _shift(self, taker: int, giver: int, allowed: Sequence[int], movable: int) -> bool:
        """Let `taker` have one HSM more and `giver` one less, over others that swap theirs; False where none can."""
        came: dict[int, tuple[int, int]] = {}  # who gives -> (who takes, which HSM)
        queue = deque([taker])
        while queue:
            at = queue.popleft()
            fresh = allowed[at] & movable
            movable &= ~fresh
            for hsm in members(fresh):
                owner = self._owner[hsm]
                if owner in came or owner == taker:
                    continue
                came[owner] = (at, hsm)
                if owner == giver:
                    self._pass_on(came, taker, giver)
                    return True
                queue.append(owner)
        return False

    def _pass_on(self, came: Mapping[int, tuple[int, int]], taker: int, giver: int) -> None:
        at = giver
        while at != taker:
            at, hsm = came[at]
            self._owner[hsm] = at

    def _gaining_rings(self, worth: Worth) -> tuple[list[int], list[tuple[int, int]]]:
        """Potentials where no ring of swaps gains anything; else rings that do, as (who takes, which HSM).

        A ring in the ways that raised the potentials gains always, and where one gains at all, one comes up.
        """
        active = sorted({*self._owner, self._idle})
        potential = [0] * (self._idle + 1)
        if not worth:
            return potential, []
        came: dict[int, tuple[int, int]] = {}  # who takes -> (who gives, which HSM)
        rings: list[tuple[int, int]] = []
        while not rings and self._raise(potential, came, active, worth):
            rings = _rings(came)
        return potential, rings

    def _raise(
        self, potential: list[int], came: dict[int, tuple[int, int]], active: Sequence[int], worth: Worth
    ) -> bool:
        """One pass over all pairs; whether it raised a potential."""
        raised = False
        for hsm, owner in enumerate(self._owner):
            cost = worth.get((owner, hsm), 0)
            for rule in active:
                if not self._matches[rule] >> hsm & 1:
                    continue
                reached = potential[owner] - cost + worth.get((rule, hsm), 0)
                if reached > potential[rule]:
                    potential[rule] = reached
                    came[rule] = (owner, hsm)
                    raised = True
        return raised

    def _tight(self, potential: Sequence[int], worth: Worth) -> list[int]:
        tight = [0] * (self._idle + 1)
        for hsm, owner in enumerate(self._owner):
            level = potential[owner] - worth.get((owner, hsm), 0)
            for rule in {*self._owner, self._idle}:
                if self._matches[rule] >> hsm & 1 and level + worth.get((rule, hsm), 0) == potential[rule]:
                    tight[rule] |= 1 << hsm
        return tight


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
