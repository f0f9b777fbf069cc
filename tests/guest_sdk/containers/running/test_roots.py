"""Directories that a container's root has to have, in a root that somebody else has filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyvisor_guest.containers.errors import Unservable
from keyvisor_guest.containers.running.roots import fuse_is_missing, make_directories


def test_they_are_made_where_they_are_missing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "kept").write_text("kept")
    make_directories(tmp_path, ["proc", "tmp", "run/keyvisor", "srv/a/b"])
    assert all((tmp_path / one).is_dir() for one in ("proc", "tmp", "run/keyvisor", "srv/a/b"))
    assert (tmp_path / "tmp" / "kept").read_text() == "kept"


@pytest.mark.parametrize("place", ["tmp", "run", "run/keyvisor"])
@pytest.mark.parametrize("trap", ["absolute", "relative", "dangling", "file"])
def test_a_link_or_a_file_of_the_image_in_their_place_is_refused(
    tmp_path: Path, place: str, trap: str
) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    at = root / place
    at.parent.mkdir(parents=True)
    if trap == "file":
        at.write_text("a file")
    else:
        targets = {"absolute": str(outside), "relative": "../../outside", "dangling": "/nowhere/at/all"}
        at.symlink_to(targets[trap])
    with pytest.raises(Unservable, match="build the image with a directory there"):
        make_directories(root, ["tmp", "run/keyvisor"])
    assert not list(outside.iterdir())


def test_without_the_device_there_is_no_fuse(tmp_path: Path) -> None:
    assert "cannot be opened" in (fuse_is_missing(tmp_path / "fuse") or "")
