"""From an ordinary image to a secure one, as a library: what it tells, what it refuses, and that it is all or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyvisor_guest.containers.building import BuildOptions, Step, build_image, image_id_of_name
from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import ContainerError, ImageRefused, Refusal, Unbuildable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.sources import SourceImage, from_layout
from keyvisor_guest.containers.oci.transfer import choose_manifest
from keyvisor_guest.containers.portion import Portion
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.writer import BuiltImage

from ..ordinary_image import layer, write_layout
from .images import IMAGE, KEY, Counted

LAYERS = [
    layer([("etc", None), *((f"etc/{number}", b"x" * number) for number in range(600))]),
    layer([("srv", None), ("srv/pay", b"p" * 700_000)]),
]


@pytest.fixture
def source(tmp_path: Path) -> SourceImage:
    layout = write_layout(tmp_path / "source", LAYERS)
    return from_layout(layout, choose_manifest(layout.blobs, layout.find())[0])


def build(source: SourceImage, tmp_path: Path, name: str = "out", progress=None, **options) -> BuiltImage:  # type: ignore[no-untyped-def]
    work = tmp_path / f"{name}-work"
    work.mkdir()
    chosen = BuildOptions(**{"version": 1, "random_bytes": Counted(), **options})
    more = {} if progress is None else {"progress": progress}
    return build_image(source, OciLayout(tmp_path / name), work, VolumeKey(KEY), IMAGE, chosen, **more)


def test_each_step_is_told_from_its_start_to_its_end(source: SourceImage, tmp_path: Path) -> None:
    told: list[tuple[Step, int, int, int]] = []
    build(source, tmp_path, progress=lambda *words: told.append(words))
    steps = list(dict.fromkeys((step, number) for step, number, _, _ in told))
    assert steps == [
        (Step.MEASURE, 0),
        (Step.MEASURE, 1),
        *((step, number) for number in (0, 1) for step in (Step.VOLUME, Step.SEAL)),
    ]
    for step, number in steps[2:]:
        words = [(done, total) for one, at, done, total in told if (one, at) == (step, number)]
        assert words == sorted(words)
        assert words[-1][0] == words[-1][1] > 0
    assert told[2] == (Step.MEASURE, 1, 2, 2)
    assert [done for step, at, done, _ in told if (step, at) == (Step.VOLUME, 0)] == [0, 256, 512, 601]


def test_what_was_built_is_the_source(source: SourceImage, tmp_path: Path) -> None:
    built = build(source, tmp_path)
    blobs = OciLayout(tmp_path / "out").blobs
    with ImageReader.open(blobs, built.manifest.digest, VolumeKey(KEY), ExactImage(built.root)) as reader:
        volume = VolumeReader(reader.read_at)
        assert volume.read(volume.find((b"etc", b"599"))) == b"x" * 599
    assert OciLayout(tmp_path / "out").images() == ()


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"entries": 600}, Refusal.LIMIT),
        ({"uncompressed": 1 << 20}, Refusal.LIMIT),
        ({"name": 2}, Refusal.LIMIT),
    ],
)
def test_limits_are_held_before_a_volume_is_made(
    source: SourceImage, tmp_path: Path, limits: dict[str, int], code: Refusal
) -> None:
    """And the twin: one more is let through, though all layers are read twice."""
    with pytest.raises(ImageRefused) as refused:
        build(source, tmp_path, limits=replace(DEFAULT_LIMITS, **limits))
    assert refused.value.code is code
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "out-work").iterdir()) == []
    enough = {"entries": 603, "uncompressed": 2 << 20, "name": 3}
    build(source, tmp_path, "twin", limits=replace(DEFAULT_LIMITS, **{name: enough[name] for name in limits}))


def test_a_source_that_changes_between_its_two_readings_is_not_built(
    source: SourceImage, tmp_path: Path
) -> None:
    changed = write_layout(tmp_path / "changed", [layer([("srv", None), ("srv/pay", b"q" * 700_000)])])
    other = from_layout(changed, changed.find()).layers[0]
    opened = 0

    def open_layer():  # type: ignore[no-untyped-def]
        nonlocal opened
        opened += 1
        return (other if opened > 1 else source.layers[1]).open()

    turning = replace(source, layers=(source.layers[0], replace(source.layers[1], open=open_layer)))
    with pytest.raises(ImageRefused) as refused:
        build(turning, tmp_path)
    assert refused.value.code is Refusal.DIGEST


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"portion": Portion.parse("2-")}, "layers 0 to 1"),
        ({"least_size": 2 << 40}, "ask for less"),
        ({"version": 1 << 64}, "a number from 0"),
    ],
)
def test_what_cannot_be_is_refused_before_the_long_part(
    source: SourceImage, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(Unbuildable, match=said) as refused:
        build(source, tmp_path, **options)
    assert isinstance(refused.value, ContainerError)
    assert list((tmp_path / "out-work").iterdir()) == []


def test_an_id_is_the_names_and_nobody_elses() -> None:
    assert image_id_of_name("payments") == image_id_of_name("payments")
    assert len({image_id_of_name(name) for name in ("payments", "Payments", "payments ", "payménts")}) == 4
    for name in ("", "\udcff", "a\n", "a" * 257):
        with pytest.raises(Unbuildable, match="printable text"):
            image_id_of_name(name)
