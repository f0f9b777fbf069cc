"""A small domain for tests by brute force: few constants, and of each cell between them one HSM.

Rules and `never` drawn here name only these constants, so what holds for each HSM of `EVERY` holds for all.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from hypothesis import strategies as st

from keyvisor_policy import Hsm, Interval, Pattern, Policy, Rule, Secret, secret_id
from keyvisor_policy.never import Description, Is, Never

ONE, TWO, OTHER = b"\x01" * 16, b"\x02" * 16, b"\x0f" * 16
SERIAL = "A" * 16
SECRETS = tuple(Secret(secret_id(name), name) for name in "ab")

EVERY = tuple(
    Hsm("00.0001", mode, generation, serial, mkvp, firmware, api, frozenset(names))
    for mode, mkvp, serial, generation, firmware, api, names in itertools.product(
        ("ep11", "accel"),
        (None, ONE, TWO, OTHER),
        (SERIAL, "B" * 16),
        (5, 6, 7),
        ((0, 0), (1, 0), (1, 1)),
        (0, 1, 2),
        ((), ("x",), ("y",), ("x", "y")),
    )
)

hsms = st.sampled_from(EVERY)
modes = st.sampled_from(["ep11", "ep11", "accel"])
generations = st.sampled_from([Interval(6, None), Interval(None, 6), Interval(6, 6)])
versions = st.sampled_from([Interval((1, 0), None), Interval(None, (1, 0)), Interval((1, 0), (1, 0))])
numbers = st.sampled_from([Interval(1, None), Interval(None, 1), Interval(1, 1)])
names = st.frozensets(st.sampled_from("xy"))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def either(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.builds(Is, strategy, st.booleans())


keys = st.sampled_from([ONE, TWO])
serials = st.just(SERIAL)
patterns = st.builds(
    Pattern, modes, maybe(keys), maybe(serials), maybe(generations), maybe(versions), maybe(numbers), names
)
descriptions = st.builds(
    Description,
    maybe(modes),
    either(keys),
    either(serials),
    either(generations),
    either(versions),
    either(numbers),
    names,
    names,
)
nevers = st.builds(Never, descriptions, maybe(st.sampled_from(SECRETS)))


@st.composite
def policies(draw: st.DrawFn, most: int = 5) -> Policy:
    """Rules with a count of mostly one or all, and some `never`."""
    rules = [
        Rule(
            f"rule {number}",
            pattern,
            draw(st.sampled_from(SECRETS)) if pattern.mode == "ep11" else None,
            draw(st.sampled_from([1, 1, None, 2])),
            number + 1,
        )
        for number, pattern in enumerate(draw(st.lists(patterns, max_size=most)))
    ]
    return Policy(tuple(rules), "p.yaml", b"", never=tuple(draw(st.lists(nevers, max_size=3))))


@st.composite
def inventories(draw: st.DrawFn) -> list[Hsm]:
    """A few HSMs, each on a card of its own."""
    drawn = draw(st.lists(hsms, max_size=5))
    return [dataclasses.replace(hsm, apqn=f"{number:02x}.0001") for number, hsm in enumerate(drawn)]
