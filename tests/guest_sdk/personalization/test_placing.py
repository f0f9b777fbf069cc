"""Files of secrets: all or none, each with its mode, never outside of the root."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

import pytest

from keyvisor_guest.errors import SdkError
from keyvisor_guest.personalization.placing import Placement, place


def placement(path: str, content: bytes = b"secret", mode: int = 0o600) -> Placement:
    return Placement(PurePosixPath(path), mode, content)


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_files_have_their_content_and_mode(tmp_path: Path) -> None:
    placed = place(tmp_path, [placement("a/b/c", b"one", 0o640), placement("d", b"two")])
    assert [path.read_bytes() for path in placed] == [b"one", b"two"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in placed] == [0o640, 0o600]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert everything(tmp_path) == {"a", "a/b", "a/b/c", "d"}


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"old")
    place(tmp_path, [placement("d", b"new")])
    assert (tmp_path / "d").read_bytes() == b"new"


def test_a_directory_in_the_place_of_a_file_places_nothing(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    with pytest.raises(SdkError, match="is a directory"):
        place(tmp_path, [placement("a"), placement("z")])
    assert everything(tmp_path) == {"z"}


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "tls").symlink_to(elsewhere)
    with pytest.raises(SdkError, match="symbolic link"):
        place(root, [placement("a"), placement("tls/key")])
    assert everything(elsewhere) == set()
    assert everything(root) == {"tls"}


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    root.mkdir()
    target.write_bytes(b"other")
    (root / "key").symlink_to(target)
    place(root, [placement("key")])
    assert target.read_bytes() == b"other"
    assert (root / "key").read_bytes() == b"secret"


def test_content_is_in_no_repr() -> None:
    assert "secret" not in repr(placement("a"))
