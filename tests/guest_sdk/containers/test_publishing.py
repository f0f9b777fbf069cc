"""The last step of a build, broken off at each place where it can be: no key of an image that is not there, none lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keyvisor_guest.containers.errors import Unbuildable
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.publishing import publish

RELEASE = b"the release: 32 bytes in hex, and what it is for"


class Crash(BaseException):
    """The process ends here: nothing that would tidy up runs."""


@pytest.fixture
def layout(tmp_path: Path) -> OciLayout:
    made = OciLayout(tmp_path / "layout")
    made.create()
    return made


@pytest.fixture
def image(layout: OciLayout) -> Descriptor:
    stored = layout.blobs.put(b"{}")
    return Descriptor(MANIFEST, stored.digest, stored.size)


def test_image_and_key_are_there(layout: OciLayout, image: Descriptor, tmp_path: Path) -> None:
    publish(layout, image, "v1", tmp_path / "key", RELEASE)
    assert layout.find("v1").digest == image.digest
    assert (tmp_path / "key").read_bytes() == RELEASE
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["key", "layout"]


def test_a_key_is_never_written_over(layout: OciLayout, image: Descriptor, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"an older one")
    with pytest.raises(FileExistsError, match="never written over"):
        publish(layout, image, "v1", tmp_path / "key", RELEASE)
    assert (tmp_path / "key").read_bytes() == b"an older one"
    assert layout.images() == ()


@pytest.mark.parametrize("call", ["os.fsync", "layout.tag", "os.link"])
def test_a_crash_leaves_no_key_without_its_image(
    layout: OciLayout, image: Descriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever a program would have done afterwards: `unlink` is taken away as well."""

    def crash(*_: object, **__: object) -> None:
        raise Crash

    where, _, name = call.partition(".")
    monkeypatch.setattr(os if where == "os" else layout, name, crash, raising=True)
    monkeypatch.setattr(os, "unlink", crash)
    monkeypatch.setattr(Path, "unlink", crash)
    with pytest.raises(Crash):
        publish(layout, image, "v1", tmp_path / "key", RELEASE)
    assert not (tmp_path / "key").exists()
    if layout.images():
        kept = [one for one in tmp_path.iterdir() if one.is_file()]
        assert [one.read_bytes() for one in kept] == [RELEASE]


def test_an_index_that_cannot_be_written_leaves_no_key(
    layout: OciLayout, image: Descriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "tag", full)
    with pytest.raises(OSError, match="No space"):
        publish(layout, image, "v1", tmp_path / "key", RELEASE)
    assert os.listdir(tmp_path) == ["layout"]


def test_a_place_that_was_taken_meanwhile_costs_no_key(
    layout: OciLayout, image: Descriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = layout.tag

    def slow(*arguments: object) -> None:
        honest(*arguments)  # type: ignore[arg-type]
        (tmp_path / "key").write_bytes(b"somebody else's")

    monkeypatch.setattr(layout, "tag", slow)
    with pytest.raises(Unbuildable, match="file exists") as refused:
        publish(layout, image, "v1", tmp_path / "key", RELEASE)
    assert (tmp_path / "key").read_bytes() == b"somebody else's"
    kept = next(one for one in tmp_path.iterdir() if one.name.startswith(".keyvisor-"))
    assert str(kept) in str(refused.value)
    assert kept.read_bytes() == RELEASE
