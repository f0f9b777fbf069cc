"""The JSON documents of images, as anybody may have written them: read, or refused with a reason, whatever they are."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.documents import (
    MANIFEST,
    Descriptor,
    Manifest,
    index_entries,
    load_list,
    load_object,
    manifest_bytes,
    read_manifest,
)

TEXT = st.text(max_size=12)
DESCRIPTORS = st.builds(
    Descriptor,
    TEXT,
    st.binary(max_size=4).map(digest_of),
    st.integers(0, 1 << 60),
    st.dictionaries(TEXT, TEXT, max_size=2),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.builds(
        Manifest, DESCRIPTORS, st.lists(DESCRIPTORS, max_size=4).map(tuple), st.dictionaries(TEXT, TEXT)
    )
)
def test_a_manifest_comes_back(manifest):
    data = manifest_bytes(manifest)
    assert read_manifest(data) == manifest
    assert json.loads(data)["mediaType"] == MANIFEST
    assert manifest_bytes(read_manifest(data)) == data


@given(st.lists(DESCRIPTORS, max_size=4))
def test_an_index_comes_back(entries):
    data = json.dumps({"schemaVersion": 2, "manifests": [one.members() for one in entries]}).encode()
    assert index_entries(data) == tuple(entries)


def places(value, path=()):
    """All places of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


@given(st.data(), JSON)
@settings(max_examples=200, deadline=None)
def test_any_value_anywhere_is_read_or_refused(data, other):
    """No other error: what a registry writes must not end a program."""
    manifest = Manifest(
        Descriptor("c", digest_of(b"c"), 1), (Descriptor("l", digest_of(b"l"), 1, {"a": "b"}),), {"x": "y"}
    )
    document = json.loads(manifest_bytes(manifest))
    path = data.draw(st.sampled_from(list(places(document))))
    if not path:
        document = other
    else:
        *before, last = path
        inside = document
        for name in before:
            inside = inside[name]
        inside[last] = other
    try:
        read_manifest(json.dumps(document).encode())
    except ImageRefused as error:
        said = str(error)
    else:
        said = ""
    assert said == "" or said.isprintable()


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data):
    for load in (load_object, load_list):
        try:
            load(data, "it")
        except ImageRefused as error:
            said = str(error)
        else:
            said = ""
        assert said == "" or said.startswith("it ")


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '[{"a":1,"a":2}]',
        '{"a":{"b":1,"b":1}}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        "[" * 100_000,
        "{}x",
        "\ufeff{}",
    ],
)
def test_what_is_no_document(text):
    for load in (load_object, load_list):
        with pytest.raises(ImageRefused, match="is not JSON, or has a member twice"):
            load(text.encode(), "the config")


def test_more_layers_than_any_image_has():
    one = Descriptor("l", digest_of(b""), 0)
    read_manifest(manifest_bytes(Manifest(one, (one,) * 1024)))
    with pytest.raises(ImageRefused, match="at most 1024"):
        read_manifest(manifest_bytes(Manifest(one, (one,) * 1025)))
