"""Portions of layers: what is written means these layers and no others, and an image has to have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import Unbuildable
from keyvisor_guest.containers.portion import EVERY_LAYER, Portion

RANGE = st.tuples(st.integers(0, 9), st.sampled_from(["", "-", "to"]), st.integers(0, 9))


def spelled(ranges):
    """The text of ranges, and the layers of ten that they mean."""
    texts, layers, highest = [], set(), 0
    for first, kind, more in ranges:
        last = {"": first, "-": 9, "to": first + more}[kind]
        texts.append(f"{first}-{last}" if kind == "to" else f"{first}{kind}")
        layers |= set(range(first, last + 1))
        highest = max(highest, first if kind == "-" else last)
    return ",".join(texts), layers, highest


@given(st.lists(RANGE, min_size=1, max_size=4), st.integers(1, 12))
def test_what_is_written_is_meant(ranges, count):
    text, layers, highest = spelled(ranges)
    portion = Portion.parse(text)
    assert {layer for layer in range(10) if portion.includes(layer)} == layers & set(range(10))
    if highest < count:
        portion.check(count)
    else:
        with pytest.raises(Unbuildable, match=f"layers 0 to {count - 1}"):
            portion.check(count)


@pytest.mark.parametrize(
    ("text", "layers", "encrypted"),
    [
        ("0-", 3, {0, 1, 2}),
        ("1-", 3, {1, 2}),
        ("0,2", 3, {0, 2}),
        ("0-1, 3-", 5, {0, 1, 3, 4}),
        ("2-2", 3, {2}),
    ],
)
def test_portions(text, layers, encrypted):
    portion = Portion.parse(text)
    portion.check(layers)
    assert {one for one in range(layers) if portion.includes(one)} == encrypted
    assert Portion.parse("0-") == EVERY_LAYER


@pytest.mark.parametrize("text", ["", "-", "x", "1,,2", "2-1", "-1", "1-2-3", "99999", "٣"])
def test_what_is_no_portion(text):
    with pytest.raises(Unbuildable):
        Portion.parse(text)


def test_an_image_in_which_nothing_is_encrypted_is_none():
    with pytest.raises(Unbuildable, match="no layer is to be encrypted"):
        Portion(()).check(3)
