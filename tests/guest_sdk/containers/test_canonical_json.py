"""Canonical JSON: one spelling for each value, and everything else refused with a reason, whatever it is."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvisor_guest.containers import canonical_json
from keyvisor_guest.containers.canonical_json import NotCanonical

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, canonical_json.MAX_NUMBER) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_spelled_is_read(value):
    assert canonical_json.decode(canonical_json.encode(value)) == value


@given(VALUES, st.data())
def test_another_spelling_of_the_same_value_is_refused(value, data):
    good = canonical_json.encode(value)
    at = data.draw(st.integers(0, len(good)))
    bad = good[:at] + data.draw(st.sampled_from([b"\n", b"\t", b"\r"])) + good[at:]
    with pytest.raises(NotCanonical):
        canonical_json.decode(bad)


@pytest.mark.parametrize(
    "text",
    [
        '{"b":1,"a":2}',
        '{"a":1,"a":1}',
        '{"a":1,"a":2}',
        "1.0",
        "1e3",
        "-1",
        "-0",
        "01",
        "18446744073709551616",
        "9" * 100_000,
        "NaN",
        "Infinity",
        '"\\u0041"',
        '"ü"',
        '"\\/"',
        "{'a':1}",
        "[1,]",
        "[1]x",
        "\ufeff1",
        "",
        "[" * 17 + "]" * 17,
        "[" * 1_000_000,
        '{"a":' * 100_000,
        "tru",
    ],
)
def test_what_is_not_canonical(text):
    with pytest.raises(NotCanonical):
        canonical_json.decode(text.encode())


@given(st.binary(max_size=60))
@example(b"\xff\xfe")
def test_whatever_comes_is_read_or_refused(data):
    try:
        value = canonical_json.decode(data)
    except NotCanonical:
        return
    assert canonical_json.encode(value) == data


@pytest.mark.parametrize("value", [1.5, -1, 1 << 64, {1: 2}, b"bytes", {"a": {1}}])
def test_what_has_no_spelling(value):
    with pytest.raises(NotCanonical):
        canonical_json.encode(value)
