"""The guest's own gate: only what its user signed goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.personalization.sorting import Named, missing_tags, sort_out
from keyvisor_guest.wire.asrcb import parse

from .people import STRANGER, USER, public, request

MINE, OTHERS, NOBODYS = request("mine"), request("theirs", STRANGER), request("nobody's", None)
USER_KEY = public(USER)


def verdicts(*requests: bytes) -> list[tuple[bool, str]]:
    named = [Named(f"r{at}", data) for at, data in enumerate(requests)]
    return [(verdict.candidate is not None, verdict.reason) for verdict in sort_out(named, USER_KEY)]


def test_what_the_user_signed_is_kept_with_what_they_said() -> None:
    (verdict,) = sort_out([Named("r", MINE)], USER_KEY)
    assert verdict.candidate is not None
    assert (verdict.candidate.user_data, verdict.candidate.tag) == (b"mine", parse(MINE).tag)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (OTHERS, "the signature does not hold"),
        (NOBODYS, "no user data"),
        (b"", "not an add-secret request"),
        (MINE[:-1], "not an add-secret request"),
        (MINE[:0x218] + b"X" + MINE[0x219:], "the signature does not hold"),
    ],
)
def test_everything_else_is_dropped_with_its_reason(data: bytes, why: str) -> None:
    ((kept, reason),) = verdicts(data)
    assert not kept
    assert why in reason


def test_the_same_request_counts_once() -> None:
    assert verdicts(MINE, OTHERS, MINE) == [(True, ""), verdicts(OTHERS)[0], (False, "it is `r0` once more")]


def test_who_withholds_a_request_is_seen() -> None:
    sorted_ = sort_out([Named("r", MINE), Named("o", OTHERS)], USER_KEY)
    tags = [parse(MINE).tag, parse(OTHERS).tag, b"\0" * 16]
    assert missing_tags(sorted_, tags) == (tags[1], tags[2]), "one that is dropped has not come"


@given(st.integers(0, len(MINE) - 17), st.integers(1, 255))
def test_part3_T4_no_byte_that_is_signed_can_be_changed(at: int, flip: int) -> None:
    """The last 16 bytes are the tag, which the firmware checks."""
    changed = bytearray(MINE)
    changed[at] ^= flip
    assert verdicts(bytes(changed))[0][0] is False


@given(st.lists(st.binary(max_size=64)))
def test_part3_T14_bytes_of_any_kind_are_dropped_and_raise_nothing(requests: list[bytes]) -> None:
    assert not any(kept for kept, _ in verdicts(*requests))
