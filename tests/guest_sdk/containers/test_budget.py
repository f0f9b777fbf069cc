"""What all layers of an image have taken together, against a sum."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import Limits


def first_refused(taken, take):
    for number, one in enumerate(taken):
        try:
            take(one)
        except ImageRefused as error:
            return number if error.code is Refusal.LIMIT else error
    return None


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(0, 200))
def test_bytes_are_counted_up_to_the_limit(pieces, limit):
    beyond = [number for number, whole in enumerate(accumulate(pieces)) if whole > limit]
    assert first_refused(pieces, Budget(Limits(uncompressed=limit)).take_bytes) == (beyond or [None])[0]


@given(st.integers(0, 20), st.integers(0, 20))
def test_entries_are_counted_up_to_the_limit(count, limit):
    budget = Budget(Limits(entries=limit))
    assert first_refused(range(count), lambda _: budget.take_entry()) == (limit if count > limit else None)


def test_who_was_refused_stays_refused():
    budget = Budget(Limits(uncompressed=10, entries=0))
    for take in (lambda: budget.take_bytes(11), lambda: budget.take_bytes(0), budget.take_entry):
        with pytest.raises(ImageRefused, match="allow more if the image is trusted"):
            take()
