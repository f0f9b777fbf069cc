"""Damage of any kind anywhere in what is stored never gives another volume: the image is refused, or it is as it was built.

The damage is a host's: it has all files, and may give blobs new names and put these into the documents; it has no key.
"""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers import blocks as blocks_module
from keyvisor_guest.containers.chain import ExactImage, MinimumVersion
from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor
from keyvisor_guest.containers.reader import ImageReader

from .images import IMAGE, KEY, make

KINDS = {"gcm": (Cipher.GCM, "0-"), "mixed": (Cipher.GCM, "2"), "xts": (Cipher.XTS, "0-")}
REFUSED = "refused"


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    cipher, portion = KINDS[request.param]
    return make(tmp_path_factory.mktemp("damaged") / "image", cipher=cipher, portion=portion)


def used(made, demand):
    """The volume and the config that a reader gets through the layout's tag, or that it is refused."""
    try:
        layout = made.layout
        with ImageReader.open(layout.blobs, layout.find("latest").digest, VolumeKey(KEY), demand) as reader:
            volume = reader.read_at(0, reader.size)
            return volume, json.loads(reader.config)
    except ImageRefused:
        return REFUSED


def files(made):
    return sorted(one for one in made.layout.path.rglob("*") if one.is_file())


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 1 << 20), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 20), st.none()),
    st.tuples(st.just("add"), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=5000)),
    st.tuples(st.just("exchange"), st.integers(0, 1 << 20), st.none()),
    st.tuples(st.just("move"), st.integers(0, 1 << 20), st.integers(1, 16)),
)


def damaged(data, damage, others):
    kind, at, more = damage
    data = data or b"\0"  # a tree over one block has no byte
    match kind:
        case "flip":
            at %= len(data)
            return data[:at] + bytes([data[at] ^ more]) + data[at + 1 :]
        case "cut":
            return data[: at % len(data)]
        case "add":
            at %= len(data) + 1
            return data[:at] + more + data[at:]
        case "exchange":
            return others[at % len(others)]
        case "move":  # 16 bytes, a tag's length, from elsewhere
            source, target = at % len(data), at // 7 % len(data)
            return (data[:target] + data[source : source + 16] + data[target + 16 :])[: len(data)]


def check_that_nothing_else_comes_out(made, damages, demand):
    everything = {path: path.read_bytes() for path in files(made)}
    good = used(made, demand)
    assert good[0] == made.volume
    try:
        for which, damage in damages:
            path = list(everything)[which % len(everything)]
            path.write_bytes(damaged(path.read_bytes(), damage, list(everything.values())))
        assert used(made, demand) in (REFUSED, good)
    finally:
        for path, data in everything.items():
            path.write_bytes(data)
    assert used(made, demand) == good


DEMANDS = pytest.mark.parametrize("exact", [True, False])


@DEMANDS
@given(damages=st.lists(st.tuples(st.integers(0, 100), DAMAGE), min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_damage_in_place(made, exact, damages):
    demand = ExactImage(made.built.root) if exact else MinimumVersion(3, IMAGE)
    check_that_nothing_else_comes_out(made, damages, demand)


@given(layer=st.integers(0, 2), which=st.integers(0, 3), damage=DAMAGE, rename_upwards=st.booleans())
@settings(max_examples=80, deadline=None)
def test_damage_with_all_names_made_right(made, layer, which, damage, rename_upwards):
    """A blob is changed and stored under its new digest, which the layer's map and the manifest then name."""
    layout = made.layout
    before = {path: path.read_bytes() for path in files(made)}
    good = used(made, MinimumVersion(3, IMAGE))
    manifest = json.loads(layout.blobs.path_of(made.built.manifest.digest).read_bytes())
    descriptors = [manifest["config"], *manifest["layers"][3 * layer : 3 * layer + 3]]
    target = descriptors[which]
    old = layout.blobs.path_of(target["digest"]).read_bytes()
    new = damaged(old, damage, list(before.values()))
    try:
        target |= {"digest": layout.blobs.put(new).digest, "size": len(new)}
        if which > 1 and rename_upwards:
            _name_in_map(made, descriptors[1], "tags" if which == 2 else "data", new)
        stored = layout.blobs.put(json.dumps(manifest).encode())
        layout.tag(Descriptor(MANIFEST, stored.digest, stored.size))
        result = used(made, MinimumVersion(3, IMAGE))
        assert result == (good if new == old else REFUSED)
    finally:
        for path in set(files(made)) - set(before):
            os.unlink(path)
        for path, data in before.items():
            path.write_bytes(data)


def _name_in_map(made, descriptor, member, blob):
    layer_map = json.loads(made.layout.blobs.path_of(descriptor["digest"]).read_bytes())
    layer_map[member]["digest"] = digest_of(blob)
    written = json.dumps(layer_map, sort_keys=True, separators=(",", ":")).encode()
    descriptor |= {"digest": made.layout.blobs.put(written).digest, "size": len(written)}


def test_the_property_notices_a_reader_that_does_not_check_its_blocks(tmp_path, monkeypatch):
    """The broken twin: tags of clear blocks are not held against anything."""
    made = make(tmp_path / "image", portion="2")
    at = files(made).index(made.layout.blobs.path_of(made.built.secure.layers[0].data.digest))
    flip = [(at, ("flip", 100, 1))]
    check_that_nothing_else_comes_out(made, flip, ExactImage(made.built.root))
    monkeypatch.setattr(blocks_module, "macs_equal", lambda *_: True)
    with pytest.raises(AssertionError):
        check_that_nothing_else_comes_out(made, flip, ExactImage(made.built.root))
