"""The last step of a build, broken off at each place where it can be: no key of an image that is not there, none lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keyvisor_guest.containers.errors import Unbuildable
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor, Manifest, manifest_bytes
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
    config, blob = (layout.blobs.put(data) for data in (b"{}", b"a layer"))
    manifest = Manifest(
        Descriptor("a/config", config.digest, config.size), (Descriptor("a/layer", blob.digest, blob.size),)
    )
    stored = layout.blobs.put(manifest_bytes(manifest))
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


CALLS = [*(("fsync", number) for number in range(8)), ("tag", 0), ("link", 0)]


@pytest.mark.parametrize(("name", "number"), CALLS)
def test_a_crash_leaves_no_key_without_its_image(
    layout: OciLayout,
    image: Descriptor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
) -> None:
    """At each call that the disk hears of. What a program would do afterwards, `unlink`, is taken away as well."""
    honest, calls = os.fsync, 0

    def crash(*arguments: object, **_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > number:
            raise Crash
        honest(*arguments)  # type: ignore[arg-type]

    def gone(*_: object, **__: object) -> None:
        raise Crash

    monkeypatch.setattr(layout if name == "tag" else os, name, crash)
    monkeypatch.setattr(Path, "unlink", gone)
    with pytest.raises(Crash):
        publish(layout, image, "v1", tmp_path / "key", RELEASE)
    if (tmp_path / "key").exists():
        assert layout.find("v1").digest == image.digest
    if layout.images():
        kept = {one.read_bytes() for one in tmp_path.iterdir() if one.is_file()}
        assert kept == {RELEASE}


def test_all_that_is_named_is_on_the_disk_before_it_is(
    layout: OciLayout, image: Descriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blobs before the index, the staged key too; the index before the key's name."""
    told: list[str] = []
    sync, tag, link = os.fsync, layout.tag, os.link

    def synced(descriptor: int) -> None:
        told.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-")[0])
        sync(descriptor)

    def tagged(*arguments: object) -> None:
        told.append("TAG")
        tag(*arguments)  # type: ignore[arg-type]

    def linked(*arguments: object) -> None:
        told.append("KEY")
        link(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(layout, "tag", tagged)
    monkeypatch.setattr(os, "link", linked)
    blobs = {one.name for one in (layout.path / "blobs/sha256").iterdir()}
    publish(layout, image, "v1", tmp_path / "key", RELEASE)
    assert set(told[:3]) == blobs
    assert told[3:] == ["sha256", ".keyvisor", "TAG", "index.json", "layout", "KEY", tmp_path.name]


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
