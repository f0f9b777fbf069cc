"""Releases: a volume key never comes without what it is good for, and nothing of it shows."""

import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers import jwe
from keyvisor_guest.containers.chain import ExactImage, MinimumVersion
from keyvisor_guest.containers.errors import ImageRefused, KeyRefused
from keyvisor_guest.containers.keys import VolumeKey, image_id
from keyvisor_guest.containers.oci.secure_image import parse_secure_manifest, rewrapped
from keyvisor_guest.containers.ocicrypt import unwrap_annotation, wrap_annotation
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.release import Release, parse_release, release_bytes

from .images import IMAGE, KEY, make

DEMANDS = [ExactImage(bytes(32)), MinimumVersion(7, image_id(b"payments-service"))]


@pytest.mark.parametrize("demand", DEMANDS)
def test_a_release_comes_back(demand):
    data = release_bytes(Release(VolumeKey(KEY), demand))
    release = parse_release(data)
    assert release.key.reveal() == KEY
    assert release.demand == demand
    assert KEY.hex() not in repr(release)


def test_what_is_no_release():
    good = json.loads(release_bytes(Release(VolumeKey(KEY), DEMANDS[1])))
    bad = [
        {"volumeKey": KEY.hex()},
        {**good, "imageRoot": "00" * 32},
        {**good, "minVersion": "7"},
        {**good, "minVersion": True},
        {**good, "more": 1},
        {**good, "volumeKey": KEY.hex()[2:]},
        {**good, "image": IMAGE.hex().upper()},
    ]
    for members in bad:
        data = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(KeyRefused) as caught:
            parse_release(data)
        assert KEY.hex()[2:] not in str(caught.value)
        assert caught.value.__cause__ is None


@given(st.binary(max_size=600))
def test_whatever_comes_is_refused(data):
    with pytest.raises(KeyRefused):
        parse_release(data)


def test_a_key_wrapped_for_others_later_opens_the_same_image(tmp_path):
    made = make(tmp_path)
    one, other = (rsa.generate_private_key(65537, 3072) for _ in range(2))
    release = release_bytes(Release(VolumeKey(KEY), ExactImage(made.built.root)))
    data = made.layout.blobs.path_of(made.built.manifest.digest).read_bytes()
    for recipient, stranger in ((one, other), (other, one)):
        data = rewrapped(data, {"jwe": wrap_annotation(release, [recipient.public_key()], os.urandom)})
        text = parse_secure_manifest(data).wrapped_keys["jwe"]
        opened = parse_release(unwrap_annotation(text, jwe.unwrap_with(recipient)))
        with pytest.raises(KeyRefused):
            unwrap_annotation(text, jwe.unwrap_with(stranger))
        digest = made.layout.blobs.put(data).digest
        with ImageReader.open(made.layout.blobs, digest, opened.key, opened.demand) as reader:
            assert reader.read_at(0, reader.size) == made.volume
    with pytest.raises(ValueError, match="no way to wrap"):
        rewrapped(data, {"rot13": "x"})


def test_a_stranger_who_wraps_a_key_of_its_own_is_found_by_the_root_that_the_owner_told(tmp_path):
    """Anybody can wrap for a public key: the release that counts is the firmware's, not the annotation's."""
    good = make(tmp_path / "good")
    evil = make(tmp_path / "evil", key=bytes(32), config=b"{}")
    with pytest.raises(ImageRefused):
        evil.open(ExactImage(good.built.root), key=bytes(32))
    with pytest.raises(ImageRefused):
        evil.open(ExactImage(good.built.root))
