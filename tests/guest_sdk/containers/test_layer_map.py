"""Layer maps: one spelling each, and everything else refused with a reason, whatever it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.keys import ImageId
from keyvisor_guest.containers.layer_map import Cipher, LayerMap, LayerPlan, parse_map, sign_map
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.thin import rows_for

META_KEY = bytes(32)


def a_map(cipher=Cipher.GCM, extents=((0, 4), (10, 30)), zero=((50, 2),), **changed):
    plan = LayerPlan(3, ImageId(b"payments-service"), 0, 64, cipher, extents, zero, bytes(32))
    fields = {
        "salt": bytes(range(32)),
        "data": digest_of(b"data"),
        "tags": digest_of(b"tags"),
        "tags_size": 544,
        "root": bytes(32) if cipher is Cipher.XTS else None,
        "plain_diff_id": "hmac-sha256:" + "0" * 64,
        "thin": rows_for(extents, zero, 0),
    }
    return LayerMap(plan, **(fields | changed))


def spell(members):
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("cipher", Cipher)
def test_a_map_comes_back(cipher):
    written = a_map(cipher)
    data = sign_map(written, META_KEY)
    signed = parse_map(data)
    assert signed.map == written
    signed.verify(META_KEY)
    with pytest.raises(ImageRefused) as caught:
        signed.verify(b"\x01" * 32)
    assert caught.value.code is Refusal.MAP_MAC


def test_golden_bytes():
    """The format of stored maps: who changes it makes another media type."""
    zeros = "0" * 64
    assert json.loads(sign_map(a_map(), META_KEY)) == {
        "blockSize": 4096,
        "cipher": "aes-256-gcm",
        "data": {"blocks": 34, "digest": digest_of(b"data")},
        "extents": [[0, 4], [10, 30]],
        "image": b"payments-service".hex(),
        "layer": 0,
        "mac": "d533ae77616bcd941903fda719ad4e63cb69a83ac91e1eb1d49a05a2d1fb60e1",
        "plain_diff_id": f"hmac-sha256:{zeros}",
        "prev": zeros,
        "salt": bytes(range(32)).hex(),
        "tags": {"digest": digest_of(b"tags"), "size": 544},
        "thin": {"first": 0, "rows": [[0, 0, 4]], "unmapped": []},
        "version": 3,
        "volumeBlocks": 64,
        "zero": [[50, 2]],
    }


def all_paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from all_paths(one, (*path, name))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from all_paths(one, (*path, index))


def with_change(members, path, value):
    if not path:
        return value
    changed = json.loads(json.dumps(members))
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


ODD = st.sampled_from(
    [None, True, False, -1, 0, 1, 1 << 40, 1 << 65, 1.5, "", "x", "00", [], {}, [[]], [1, 2]]
)


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
@given(data=st.data())
def test_a_changed_map_is_refused_by_parser_or_mac(cipher, data):
    good = sign_map(a_map(cipher), META_KEY)
    members = json.loads(good)
    path = data.draw(st.sampled_from(list(all_paths(members))))
    changed = spell(with_change(members, path, data.draw(ODD)))
    if changed == good:
        return
    with pytest.raises(ImageRefused) as caught:
        parse_map(changed).verify(META_KEY)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_flipped_bytes_of_a_map_are_refused(data):
    good = sign_map(a_map(), META_KEY)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageRefused):
        parse_map(bytes(bad)).verify(META_KEY)


def test_a_member_more_or_less_is_refused():
    members = json.loads(sign_map(a_map(Cipher.XTS), META_KEY))
    for name in members:
        with pytest.raises(ImageRefused):
            parse_map(spell({key: one for key, one in members.items() if key != name}))
    for bad in ({**members, "more": 1}, {**members, "data": {**members["data"], "more": 1}}):
        with pytest.raises(ImageRefused, match="unknown"):
            parse_map(spell(bad))
    with pytest.raises(ImageRefused):  # a root without a tree
        parse_map(spell({**members, "cipher": "aes-256-gcm"}))


@pytest.mark.parametrize(
    "change",
    [
        {"extents": ((4, 1), (0, 1))},
        {"extents": ((0, 4), (3, 1))},
        {"extents": ((0, 0),)},
        {"extents": ((60, 5),)},
        {"extents": ((50, 1),)},
        {"zero": ((63, 2),)},
    ],
)
def test_runs_that_cannot_be(change):
    written = a_map(**change)
    with pytest.raises(ImageRefused):
        parse_map(sign_map(written, META_KEY))


def test_limits():
    data = sign_map(a_map(), META_KEY)
    with pytest.raises(ImageRefused) as caught:
        parse_map(data, Limits(map_json=len(data) - 1))
    assert caught.value.code is Refusal.LIMIT
    with pytest.raises(ImageRefused) as caught:
        parse_map(data, Limits(layers=0))
    assert caught.value.code is Refusal.LIMIT
