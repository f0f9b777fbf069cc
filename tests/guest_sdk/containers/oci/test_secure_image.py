"""Manifest and config of a secure image: what goes in comes out, and nothing that others write counts as ours."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.documents import Descriptor, read_manifest
from keyvisor_guest.containers.oci.secure_image import (
    BLOCKS_TYPES,
    CONFIG_TYPE,
    IMAGE_ROOT,
    LAYER,
    MAP_TYPE,
    TAGS_TYPE,
    TREE_TYPE,
    WRAPPED_KEY,
    LayerBlobs,
    SecureManifest,
    is_secure,
    parse_secure_manifest,
    rewrapped,
    secure_config,
    secure_manifest,
)

from ..images import CONFIG


def layer(number, cipher):
    said = {LAYER: str(number)}
    tags = TREE_TYPE if cipher is Cipher.XTS else TAGS_TYPE
    kinds = (MAP_TYPE, tags, BLOCKS_TYPES[cipher])
    return LayerBlobs(*[Descriptor(kind, digest_of(f"{number}{kind}".encode()), 7, said) for kind in kinds])


NAMES = st.text(max_size=12).filter(lambda it: not it.startswith("io.keyvisor."))
SCHEMES = st.sampled_from(["jwe", "pkcs11", "provider.vault", "provider.a-b_C9"])
MANIFESTS = st.builds(
    SecureManifest,
    st.just(Descriptor(CONFIG_TYPE, digest_of(b"{}"), 2)),
    st.lists(st.sampled_from(list(Cipher)), min_size=1, max_size=4).map(
        lambda ciphers: tuple(layer(number, cipher) for number, cipher in enumerate(ciphers))
    ),
    st.binary(min_size=32, max_size=32),
    st.dictionaries(SCHEMES, st.text(max_size=12)),
    st.dictionaries(NAMES, st.text(max_size=12), max_size=3),
)


@given(MANIFESTS)
def test_a_manifest_comes_back(image):
    data = secure_manifest(image)
    assert parse_secure_manifest(data) == image
    assert is_secure(read_manifest(data))
    assert secure_manifest(parse_secure_manifest(data)) == data


@given(MANIFESTS, st.dictionaries(SCHEMES, st.text(max_size=12)))
def test_a_key_that_is_wrapped_anew_changes_nothing_else(image, keys):
    found = parse_secure_manifest(rewrapped(secure_manifest(image), keys))
    assert found.wrapped_keys == keys
    assert (found.config, found.layers, found.image_root, found.annotations) == (
        image.config,
        image.layers,
        image.image_root,
        image.annotations,
    )


IMAGE = SecureManifest(
    Descriptor(CONFIG_TYPE, digest_of(b"{}"), 2),
    (layer(0, Cipher.GCM), layer(1, Cipher.XTS)),
    bytes(32),
    {"jwe": "x"},
)


@pytest.mark.parametrize(
    "scheme", ["", "JWE", "pgp", "provider.", "provider.a/b", "provider." + "a" * 65, "jwe\n"]
)
def test_no_way_to_wrap(scheme):
    with pytest.raises(ValueError, match="no way to wrap"):
        rewrapped(secure_manifest(IMAGE), {scheme: "x"})


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda it: it["layers"].pop(), Refusal.CHAIN),
        (lambda it: it["layers"].reverse(), Refusal.CHAIN),
        (lambda it: it["layers"].insert(0, it["layers"].pop(3)), Refusal.CHAIN),
        (lambda it: it["layers"][4]["annotations"].update({LAYER: "0"}), Refusal.CHAIN),
        (lambda it: it["layers"][4]["annotations"].update({LAYER: "01"}), Refusal.CHAIN),
        (lambda it: it["layers"][2].update(mediaType=MAP_TYPE), Refusal.CHAIN),
        (lambda it: it["annotations"].update({IMAGE_ROOT: "0" * 63}), Refusal.MALFORMED),
        (lambda it: it["annotations"].update({IMAGE_ROOT: "A" * 64}), Refusal.MALFORMED),
        (lambda it: it["annotations"].pop(IMAGE_ROOT), Refusal.MALFORMED),
        (lambda it: it["config"].update(mediaType="text/plain"), Refusal.MALFORMED),
    ],
)
def test_what_is_no_secure_manifest(edit, code):
    manifest = json.loads(secure_manifest(IMAGE))
    edit(manifest)
    with pytest.raises(ImageRefused) as caught:
        parse_secure_manifest(json.dumps(manifest).encode())
    assert caught.value.code is code


def test_an_ordinary_image_is_told_what_to_do():
    manifest = json.loads(secure_manifest(IMAGE))
    for one in manifest["layers"]:
        one["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
    with pytest.raises(ImageRefused, match="keyvisor image build"):
        parse_secure_manifest(json.dumps(manifest).encode())


def test_layers_are_counted():
    parse_secure_manifest(secure_manifest(IMAGE), Limits(layers=2))
    with pytest.raises(ImageRefused) as caught:
        parse_secure_manifest(secure_manifest(IMAGE), Limits(layers=1))
    assert caught.value.code is Refusal.LIMIT


def test_our_annotations_are_nobody_elses():
    for name in (IMAGE_ROOT, WRAPPED_KEY + "jwe", "io.keyvisor.anything"):
        with pytest.raises(ValueError, match="the image's own"):
            secure_manifest(SecureManifest(IMAGE.config, IMAGE.layers, bytes(32), {}, {name: "x"}))


def test_the_config_is_the_sources_but_for_its_layers():
    config = json.loads(secure_config(CONFIG, IMAGE.layers))
    source = json.loads(CONFIG)
    blobs = [one.digest for layer in IMAGE.layers for one in (layer.map, layer.tags, layer.data)]
    assert config.pop("rootfs") == {"type": "layers", "diff_ids": blobs}
    source.pop("rootfs")
    assert config == source


def test_wrapped_keys_do_not_show():
    assert "secret" not in repr(SecureManifest(IMAGE.config, IMAGE.layers, bytes(32), {"jwe": "secret"}))
