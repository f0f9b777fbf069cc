"""What is measured of containers are whole images: built, opened and read as their owner made them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from bench.cipher_speeds import OPENSSL, OPENSSL_AEAD, cipher_speeds, copied, parsed
from bench.containers import image_figures
from bench.image_steps import STEPS, built, read
from bench.made_images import FIRST_FILE, source_image

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.tar_layers import Kind, LayerReader

from .samples import CIPHERS


def test_a_made_image_has_its_size_and_its_files(tmp_path: Path) -> None:
    source = source_image(tmp_path / "image", 6, 3)
    assert len(source.layers) == 3
    sizes, names = [], []
    for layer in source.layers:
        with layer.open() as blob:
            reader = LayerReader(blob, Budget())
            entries = list(reader)
        assert reader.diff_id() == layer.diff_id
        sizes.append(sum(entry.size for entry in entries))
        names.append({entry.path for entry in entries if entry.kind is Kind.FILE})
    assert all(2 << 20 <= size < 2.2 * (1 << 20) for size in sizes)
    assert FIRST_FILE in names[0]
    assert all(lower & upper for lower, upper in itertools.pairwise(names))  # something changes


def test_the_same_seed_makes_the_same_image(tmp_path: Path) -> None:
    one, two, other = (source_image(tmp_path / str(n), 1, 2, seed=n // 2).layers for n in (2, 3, 4))
    assert [layer.diff_id for layer in one] == [layer.diff_id for layer in two]
    assert [layer.diff_id for layer in one] != [layer.diff_id for layer in other]


def test_all_of_it_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    figures = image_figures(tmp_path, 2, 2, 2)
    assert set(figures["seconds"]) == set(STEPS)
    assert all(taken > 0 for taken in figures["seconds"].values())
    assert 0 < figures["opened"] < figures["stored"] == figures["data"] // 4096
    assert figures["tags"] == 16 * figures["stored"]
    assert figures["tars"] >= 2 << 20
    assert figures["cp"] > 0
    assert (len(figures["open"]), len(figures["read"])) == (2, 1)
    assert min(figures["first file"]) > min(figures["open"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_what_was_built(tmp_path: Path) -> None:
    layout, image, figures = built(source_image(tmp_path / "source", 1, 2), tmp_path)
    assert next(layer.data.size for layer in image.secure.layers) > 1 << 19
    assert figures["data"] == sum(layer.data.size for layer in image.secure.layers)
    assert not list(tmp_path.glob("state-*"))
    path = layout.blobs.path_of(image.secure.layers[0].data.digest)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(
        Exception, match="pull the image again"
    ):  # the reader verifies, and is measured doing it
        read(layout, image, 1)


def test_speeds_are_of_every_cipher(tmp_path: Path) -> None:
    speeds = cipher_speeds(1, 0.01)
    assert list(speeds) == [OPENSSL, OPENSSL_AEAD, *CIPHERS, "sha256"]
    assert all(len(rounds) == 1 and rounds[0] > 1 for rounds in speeds.values())
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert copied(tmp_path / "file", tmp_path / "copy") > 0
    assert not (tmp_path / "copy").exists()


def test_what_openssl_says() -> None:
    said = "version: 3.0.19\ntype           4096 bytes\nAES-256-GCM    2467364.86k\n"
    assert parsed(said) == pytest.approx(2467.36486)
    with pytest.raises(ValueError, match="no speed"):
        parsed("Error: unknown algorithm")
