"""Control points over few attributes with few constants, and templates that meet every cell of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from random import Random

from hypothesis import strategies as st

from keyvisor_policy.control_points import Between, Condition, ControlPoint, Is, Like, Match, Template, Value
from keyvisor_policy.pkcs11.names import ATTRIBUTES, KEY_TYPES, OBJECT_CLASSES

CLASS, KEY_TYPE = ATTRIBUTES["CKA_CLASS"], ATTRIBUTES["CKA_KEY_TYPE"]
LABEL, SENSITIVE = ATTRIBUTES["CKA_LABEL"], ATTRIBUTES["CKA_SENSITIVE"]
BITS, MODULUS = ATTRIBUTES["CKA_MODULUS_BITS"], ATTRIBUTES["CKA_MODULUS"]

_numbers = st.integers(0, 5)
_MATCHES: dict[int, st.SearchStrategy[Match]] = {
    SENSITIVE: st.booleans().map(Is),
    BITS: st.one_of(
        _numbers.map(Is),
        st.tuples(_numbers, _numbers).map(lambda ends: Between(*sorted(ends))),
        _numbers.map(lambda number: Between(None, number)),
        _numbers.map(lambda number: Between(number, None)),
    ),
    MODULUS: st.sampled_from([b"\x05", b"\0\x05", b"\x10", b""]).map(Is),
    LABEL: st.one_of(
        st.sampled_from([b"", b"a", b"ab", b"b*", b"\xff", "ü".encode(), b"aa", b"x"]).map(Is),
        st.sampled_from(["*", "a*", "*b", "a?", "?b", "*a*", "??", "b**a", "?", "a*b*"]).map(Like),
    ),
    CLASS: st.sampled_from(sorted(OBJECT_CLASSES.values())[:5]).map(Is),
    KEY_TYPE: st.sampled_from([KEY_TYPES[f"CKK_{name}"] for name in ("RSA", "EC", "AES")]).map(Is),
}


def conditions(attribute: int) -> st.SearchStrategy[Condition]:
    return st.builds(
        Condition,
        st.just(attribute),
        st.just("condition"),
        st.lists(_MATCHES[attribute], min_size=1, max_size=2).map(tuple),
        st.booleans(),
    )


_several = st.lists(st.sampled_from(sorted(_MATCHES)).flatmap(conditions), max_size=3).map(tuple)


def points(*rules: str) -> st.SearchStrategy[ControlPoint]:
    """Points for any HSM, or for those that are held through one of these rules. A profile's that allow are as any that do."""
    return st.builds(
        ControlPoint,
        st.sampled_from("abc"),
        st.sampled_from(["deny", "deny", "allow"]),
        st.frozensets(
            st.sampled_from(["C_SignInit", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey"]), max_size=2
        ),
        st.frozensets(st.sampled_from([0x1, 0x1080]), max_size=1),
        _several,
        st.lists(st.sampled_from([SENSITIVE, BITS, LABEL]).flatmap(conditions), max_size=1).map(tuple),
        st.sampled_from([None, None, *rules]),
        st.sampled_from([None, None, "profile"]),
    )


def point_lists(*rules: str) -> st.SearchStrategy[list[ControlPoint]]:
    return st.lists(points(*rules), max_size=4)


_TEXTS = ["".join(letters) for size in range(5) for letters in itertools.product("abx*", repeat=size)]
_VALUES: dict[int, list[Value]] = {
    SENSITIVE: [True, False],
    BITS: [*range(8), (1 << 64) - 1],
    MODULUS: [
        b"",
        b"\0",
        b"\x01",
        b"\x02",
        b"\x04",
        b"\x05",
        b"\0\x05",
        b"\x06",
        b"\x10",
        b"\x20",
        b"\x7f",
        b"\xff\xff",
    ],
    LABEL: [*(text.encode() for text in _TEXTS), b"\xff", "ü".encode()],
    CLASS: [*range(9)],
    KEY_TYPE: [0, 1, 2, 3, 0x10, 0x1F],
}


def possible(attribute: int) -> list[Value | None]:
    """Values that meet every cell of any conditions from here on; None is not there."""
    return [None, *_VALUES[attribute]]


def combinations(attributes: set[int]) -> int:
    """How many templates there are."""
    return math.prod(len(possible(one)) for one in attributes)


def one_of(attributes: set[int], random: Random) -> Template:
    """One template."""
    values = {one: random.choice(possible(one)) for one in sorted(attributes)}
    return {one: value for one, value in values.items() if value is not None}


def templates(attributes: set[int]) -> Iterator[Template]:
    """Every combination of them."""
    listed = sorted(attributes)
    for values in itertools.product(*(possible(one) for one in listed)):
        yield {one: value for one, value in zip(listed, values, strict=True) if value is not None}
