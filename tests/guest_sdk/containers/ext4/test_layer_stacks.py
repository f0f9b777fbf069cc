"""Random stacks of layers: each volume is sound, and is what a model in dictionaries says (T1)."""

from __future__ import annotations

import copy
import hashlib
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.ext4.programs import check
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.tar_layers import Entry, Kind

from ..archives import ACL, reader
from .shadow_tree import Impossible, ShadowTree, described, described_volume

Layer = list[tuple[Entry, bytes]]

UUID_ = UUID(int=3)
HIDING = (Kind.WHITEOUT, Kind.OPAQUE)
some_names = st.sampled_from([b"a", b"a", b"b", b"b", b"c", b"\xff "])
some_paths = st.lists(some_names, min_size=1, max_size=3).map(tuple)
some_targets = st.sampled_from(
    [
        b"a",
        b"b/c",
        b"../c",
        b"/a/b",
        b"./a/../b",
        b"../../..",
        b"nowhere",
        b"/",
        b"t" * 59,
        b"t" * 60,
        b"t/" * 60,
    ]
)
some_data = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"x" * 4096, bytes(9000), b"y" * 4097, bytes(8192) + b"z", b"w" * 12288 + bytes(70_000) + b"v"]
    ),
)
some_xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"user.bb", b"trusted.c", b"security.capability"]),
    st.binary(max_size=400),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))
some_acls = st.sampled_from([(), ((b"system.posix_acl_access", ACL),)])


@st.composite
def some_entry(draw: st.DrawFn, kinds: tuple[Kind, ...] = tuple(Kind)) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from(kinds))
    data = draw(some_data) if kind is Kind.FILE else b""
    entry = Entry(
        path=draw(
            some_paths if kind not in (Kind.OPAQUE, Kind.DIRECTORY) else st.one_of(some_paths, st.just(()))
        ),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.sampled_from([0, 1000, 65_536, 2**32 - 2])),
        gid=draw(st.sampled_from([0, 2000, 2**31])),
        mtime=draw(st.integers(-(2**31) * 10**9, 2**33 * 10**9)),
        size=len(data),
        link=draw(some_targets) if kind is Kind.SYMLINK else b"",
        target=draw(some_paths) if kind is Kind.HARD_LINK else (),
        device=draw(st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)))
        if "device" in kind.value
        else (0, 0),
        xattrs=draw(some_xattrs) + draw(some_acls) if kind in (Kind.FILE, Kind.DIRECTORY) else (),
    )
    return entry, data


some_layers = st.lists(st.lists(some_entry(), max_size=14), min_size=1, max_size=4)


def fresh(layer: Layer) -> list[Entry]:
    """The entries with their data not read yet."""
    return [replace(entry, data=iter([data] if data else [])) for entry, data in layer]


def hiding_first(layer: Layer) -> Layer:
    return sorted(layer, key=lambda found: found[0].kind not in HIDING)


def build(path: Path, layers: list[Layer]) -> bool:
    """Applies the layers; False where one was refused, and with it the rest."""
    volume = Volume.create(path, UUID_, 4096, 1024)
    for number, layer in enumerate(layers):
        try:
            volume.apply(number, fresh(layer))
        except ImageRefused:
            check(path)
            return False
        check(path)
    return True


def imagine(layers: list[Layer]) -> tuple[ShadowTree, bool]:
    tree = ShadowTree()
    for layer in layers:
        try:
            for entry, data in layer:
                tree.hide(entry) if entry.kind in HIDING else tree.add(entry, data)
        except Impossible:
            return tree, False
    return tree, True


def possible_part(layers: list[Layer]) -> tuple[list[Layer], ShadowTree]:
    """The layers without the entries that the model finds impossible where they stand."""
    tree, kept = ShadowTree(), []
    for layer in layers:
        kept.append(list[tuple[Entry, bytes]]())
        for entry, data in layer:
            before = copy.deepcopy(tree)
            try:
                tree.hide(entry) if entry.kind in HIDING else tree.add(entry, data)
            except Impossible:
                tree = before
            else:
                kept[-1].append((entry, data))
    return kept, tree


@given(st.lists(st.lists(some_entry(), min_size=4, max_size=20), min_size=1, max_size=4))
@settings(max_examples=120, deadline=None)
def test_a_volume_is_what_the_model_says(layers: list[Layer]) -> None:
    possible, tree = possible_part([hiding_first(layer) for layer in layers])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "volume")
        assert build(path, possible)
        assert described_volume(reader(path)) == described(tree)


@given(some_layers)
@settings(max_examples=60, deadline=None)
def test_what_the_model_finds_impossible_is_refused(layers: list[Layer]) -> None:
    """And nothing else is."""
    layers = [hiding_first(layer) for layer in layers]
    _, possible = imagine(layers)
    with tempfile.TemporaryDirectory() as directory:
        assert build(Path(directory, "volume"), layers) == possible


plain_kinds = (Kind.FILE, Kind.DIRECTORY, Kind.FIFO, Kind.WHITEOUT, Kind.OPAQUE, Kind.WHITEOUT, Kind.OPAQUE)
plain_layers = st.lists(st.lists(some_entry(plain_kinds), max_size=10), min_size=2, max_size=3)


@given(plain_layers, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_whiteouts_mean_the_same_wherever_they_stand(layers: list[Layer], shuffled: random.Random) -> None:
    """The specification asks for them first, and has them mean lower layers wherever they are."""
    mixed = []
    for layer in layers:
        others = [found for found in layer if found[0].kind not in HIDING]
        for hiding in (found for found in layer if found[0].kind in HIDING):
            others.insert(shuffled.randint(0, len(others)), hiding)
        mixed.append(others)
    tree, possible = imagine([hiding_first(layer) for layer in layers])
    assume(possible)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "volume")
        assume(build(path, mixed))  # a file in the way of a directory is refused before its whiteout is seen
        assert described_volume(reader(path)) == described(tree)


@given(some_layers)
@settings(max_examples=30, deadline=None)
@example([[(Entry((b"a",), Kind.FILE), b"")]])
def test_a_second_build_is_the_same_to_the_byte(layers: list[Layer]) -> None:
    """T13."""
    with tempfile.TemporaryDirectory() as directory:
        one, two = Path(directory, "one"), Path(directory, "two")
        assert build(one, layers) == build(two, layers)
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in (one, two)]
    assert digests[0] == digests[1]
