"""The chain as a trusted set: out of all maps that one owner ever signed, only one image's, whole and in order, gets through."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.chain import Chain, ExactImage, InsecureAnyImage, MinimumVersion
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.keys import ImageId, VolumeKey
from keyvisor_guest.containers.layer_map import (
    NO_LAYER_BELOW,
    Cipher,
    LayerMap,
    LayerPlan,
    image_root,
    sign_map,
)
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.thin import rows_for

KEY = VolumeKey(bytes(range(32)))
IMAGE, OTHER_IMAGE = ImageId(b"payments-service"), ImageId(b"reporting-jobs..")
CONFIG = hashlib.sha256(b"{}").digest()
ANY = InsecureAnyImage()


def signed(layer, prev, *, image=IMAGE, version=3, blocks=64, pool=0, build=0, key=KEY):
    """One layer's map: a block of its own, and a salt that tells builds apart."""
    plan = LayerPlan(version, image, layer, blocks, Cipher.GCM, ((16 * (layer % 4), 1),), (), prev)
    return sign_map(
        LayerMap(
            plan,
            bytes([build]) * 32,
            digest_of(b"data"),
            digest_of(b"tags"),
            16,
            None,
            "hmac-sha256:" + "0" * 64,
            rows_for(plan.extents, (), pool),
        ),
        key.meta_key(image),
    )


def image_of(layers, **same):
    maps, last = [], NO_LAYER_BELOW
    for layer in range(layers):
        maps.append(signed(layer, last, pool=layer, **same))
        last = hashlib.sha256(maps[-1]).digest()
    return maps


def root_of(maps, image=IMAGE, version=3):
    return image_root(KEY.image_key(image), hashlib.sha256(maps[-1]).digest(), CONFIG, version)


def taken(maps, root, demand=ANY, key=KEY):
    chain = Chain(key)
    for one in maps:
        chain.add(one)
    return chain.close(CONFIG, root, demand)


GOOD = image_of(4)
SIGNED = [
    *GOOD,
    *image_of(4, build=1),
    *image_of(4, version=4),
    *image_of(3, image=OTHER_IMAGE),
    *image_of(2, blocks=128),
]


def test_an_image_is_taken():
    assert taken(GOOD, root_of(GOOD)) == root_of(GOOD)


@given(st.lists(st.sampled_from(SIGNED), max_size=6))
def test_of_all_that_was_ever_signed_only_the_whole_image_is_taken(maps):
    if maps == GOOD:
        assert taken(maps, root_of(GOOD)) == root_of(GOOD)
    else:
        with pytest.raises(ImageRefused) as caught:
            taken(maps, root_of(GOOD))
        assert caught.value.code in (Refusal.CHAIN, Refusal.IMAGE_ROOT)


@pytest.mark.parametrize(
    "maps", list(itertools.permutations(GOOD)), ids=lambda it: "".join(str(GOOD.index(one)) for one in it)
)
def test_every_other_order_is_refused(maps):
    if list(maps) == GOOD:
        taken(maps, root_of(GOOD))
        return
    with pytest.raises(ImageRefused) as caught:
        taken(maps, root_of(GOOD))
    assert caught.value.code is Refusal.CHAIN


@pytest.mark.parametrize(
    "change",
    [{"image": OTHER_IMAGE}, {"version": 4}, {"blocks": 128}, {"pool": 7}, {"layer": 2}, {"prev": bytes(32)}],
    ids=lambda it: next(iter(it)),
)
def test_a_map_that_its_owner_signed_for_elsewhere(change):
    """Each has a good MAC: it is its place that is wrong."""
    chain = Chain(KEY)
    chain.add(GOOD[0])
    fields = {"layer": 1, "prev": hashlib.sha256(GOOD[0]).digest(), "pool": 1} | change
    with pytest.raises(ImageRefused) as caught:
        chain.add(signed(fields.pop("layer"), fields.pop("prev"), **fields))
    assert caught.value.code is Refusal.CHAIN
    assert [one.plan.layer for one in chain.maps] == [0]
    chain.add(GOOD[1])  # what was refused left nothing behind


def test_another_key_opens_nothing():
    with pytest.raises(ImageRefused) as caught:
        taken(GOOD, root_of(GOOD), key=VolumeKey(bytes(32)))
    assert caught.value.code is Refusal.MAP_MAC


def test_config_version_and_root_are_one():
    for config, root in ((bytes(32), root_of(GOOD)), (CONFIG, bytes(32)), (CONFIG, root_of(GOOD, version=4))):
        chain = Chain(KEY)
        for one in GOOD:
            chain.add(one)
        with pytest.raises(ImageRefused) as caught:
            chain.close(config, root, ANY)
        assert caught.value.code is Refusal.IMAGE_ROOT


@given(st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_a_demand_is_for_an_image_and_a_version(version, least, same):
    maps = image_of(2, version=version)
    root = root_of(maps, version=version)
    demand = MinimumVersion(least, IMAGE if same else OTHER_IMAGE)
    if same and version >= least:
        assert taken(maps, root, demand) == root
        return
    with pytest.raises(ImageRefused) as caught:
        taken(maps, root, demand)
    assert caught.value.code is (Refusal.TOO_OLD if same else Refusal.OTHER_IMAGE)


def test_an_exact_demand_is_for_one_build():
    rebuilt = image_of(4, build=1)
    taken(rebuilt, root_of(rebuilt), ExactImage(root_of(rebuilt)))
    with pytest.raises(ImageRefused) as caught:
        taken(rebuilt, root_of(rebuilt), ExactImage(root_of(GOOD)))
    assert caught.value.code is Refusal.OTHER_IMAGE


def test_no_layer_and_too_many():
    with pytest.raises(ImageRefused) as caught:
        Chain(KEY).close(CONFIG, root_of(GOOD), ANY)
    assert caught.value.code is Refusal.CHAIN
    chain = Chain(KEY, Limits(layers=2))
    for one in GOOD[:2]:
        chain.add(one)
    with pytest.raises(ImageRefused) as caught:
        chain.add(GOOD[2])
    assert caught.value.code is Refusal.LIMIT
