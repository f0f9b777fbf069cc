"""Keys: another purpose, image, layer or salt has another key; a reproducible salt is of a plan and a content."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.keys import VolumeKey, image_id

VALUE = st.binary(min_size=32, max_size=32)
IMAGE = st.binary(min_size=16, max_size=16).map(image_id)
USES = st.tuples(
    VALUE, st.sampled_from(["meta", "image", "diff", "layer"]), IMAGE, st.integers(0, 1 << 20), VALUE
)


def key_for(use):
    value, purpose, image, layer, salt = use
    key = VolumeKey(value)
    match purpose:
        case "meta":
            return (value, purpose, image), key.meta_key(image)
        case "image":
            return (value, purpose, image), key.image_key(image)
        case "diff":
            return (value, purpose, image), key.diff_key(image)
        case _:
            return use, key.layer_key(image, layer, salt, 32)


@given(st.lists(USES, min_size=2, max_size=6))
def test_no_two_uses_have_one_key(uses):
    keys = [key_for(use) for use in uses]
    for (one, its), (other, others) in itertools.combinations(keys, 2):
        assert (one == other) == (its == others)


def test_neighbours_have_other_keys():
    """What a mistake in joining names and numbers would make equal."""
    key, salt = VolumeKey(bytes(32)), bytes(32)
    images = [image_id(b"meta" + bytes(12)), image_id(bytes(16)), image_id(bytes(12) + b"\0\0\0\1")]
    keys = [derive(image) for image in images for derive in (key.meta_key, key.image_key, key.diff_key)]
    keys += [key.layer_key(image, layer, salt, 32) for image in images for layer in (0, 1, 256, 1 << 24)]
    assert len(set(keys)) == len(keys)
    # The longer key of XTS is no continuation of its own first half.
    long = key.layer_key(images[0], 0, salt, 64)
    assert long[:32] != long[32:]


@given(VALUE, st.lists(st.tuples(st.binary(max_size=40), VALUE), min_size=2, max_size=5))
def test_a_reproducible_salt_is_of_a_key_a_plan_and_a_content(value, uses):
    key, other = VolumeKey(value), VolumeKey(bytes(one ^ 1 for one in value))
    salts = {use: key.reproducible_salt(*use) for use in uses}
    assert len(set(salts.values())) == len(salts)
    assert all(
        key.reproducible_salt(*use) == salt != other.reproducible_salt(*use) for use, salt in salts.items()
    )


def test_plan_and_content_are_not_run_together():
    key = VolumeKey(bytes(32))
    assert key.reproducible_salt(b"a", b"b" * 32) != key.reproducible_salt(b"ab", b"b" * 31)
