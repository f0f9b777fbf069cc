"""What a hostile tar tries (secure-containers, 5), from the archive's bytes to the volume: refused, and the volume is sound.

Each attack stands in an archive behind a good file; beside it stands the harmless entry that is nearest to it, which is taken.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from uuid import UUID

import pytest

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.ext4.programs import check
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.tar_layers import LayerReader

from .archives import archive, member, names, reader

MIB = 1 << 20
LINK, SYMLINK, DIRECTORY = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE
ATTACKS = {
    "upwards": ([member("../../etc/cron.d/x", b"x")], "leads upwards", [member("etc/cron.d/x", b"x")]),
    "upwards inside": ([member("a/../../x", b"x")], "leads upwards", [member("a/.x", b"x")]),
    "hard link upwards": (
        [member("h", flag=LINK, linkname="../good")],
        "leads upwards",
        [member("h", flag=LINK, linkname="./good")],
    ),
    "hard link to nothing": (
        [member("h", flag=LINK, linkname="etc/shadow")],
        "which is not there",
        [member("h", flag=LINK, linkname="/good")],
    ),
    "hard link to a directory": (
        [member("d", flag=DIRECTORY), member("h", flag=LINK, linkname="d")],
        "which is a directory",
        [member("d", flag=DIRECTORY), member("h", flag=SYMLINK, linkname="d")],
    ),
    "whiteout of the directory": ([member("d/.wh..", b"")], "names nothing", [member("d/.wh.x", b"")]),
    "whiteout of the parent": ([member("d/.wh...", b"")], "names nothing", [member("d/.wh....", b"")]),
    "a long name": (
        [member("n" * 256, b"x")],
        "a part of more than 255 bytes",
        [member("n" * 255, b"x")],
    ),
    "a loop of symlinks": (
        [member("a", flag=SYMLINK, linkname="b"), member("b", flag=SYMLINK, linkname="a"), member("a/x")],
        "remove the loop",
        [member("a", flag=SYMLINK, linkname="b"), member("b", flag=SYMLINK, linkname="c"), member("a/x")],
    ),
}


def applied(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A volume of 64 MiB with a good file and these members. It is checked whatever comes of them."""
    volume = Volume.create(path, UUID(int=1), 64 * MIB // 4096, 1024)
    blob = archive(member("good", b"good"), *members)
    try:
        volume.apply(0, LayerReader(io.BytesIO(blob), Budget()))
    finally:
        check(path)
        assert reader(path).read(reader(path).find((b"good",))) == b"good"
    return path


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_and_the_volume_is_sound(tmp_path: Path, name: str) -> None:
    attack, reason, harmless = ATTACKS[name]
    with pytest.raises(ImageRefused, match=reason) as refused:
        applied(tmp_path / "attacked", attack)
    assert "\n" not in str(refused.value)
    applied(tmp_path / "harmless", harmless)


def test_80_mib_into_64(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="does not fit the volume") as refused:
        applied(tmp_path / "attacked", [member("big", os.urandom(80 * MIB))])
    assert refused.value.code is Refusal.LIMIT
    applied(tmp_path / "harmless", [member("big", bytes(80 * MIB - 1) + b"x")])  # nearly all of it is a hole


@pytest.mark.parametrize(
    "members",
    [
        [member("/tmp/outside", b"x")],
        [member("out", flag=SYMLINK, linkname="{here}"), member("out/outside", b"x")],
        [member("out", flag=SYMLINK, linkname="../../../../../..{here}"), member("out/outside", b"x")],
        [member("out", flag=SYMLINK, linkname="{here}"), member("out/.wh.victim")],
        [member("out", flag=SYMLINK, linkname="{here}/victim"), member("in", flag=LINK, linkname="out")],
    ],
    ids=["absolute", "symlink", "symlink upwards", "whiteout", "hard link"],
)
def test_nothing_leads_out_of_the_volume(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "victim").write_text("mine")
    before = sorted(Path("/tmp").glob("outside"))
    there = [
        (info.replace(linkname=info.linkname.replace("{here}", str(here)), deep=False), data)
        for info, data in members
    ]
    volume = applied(tmp_path / "volume", there)
    assert [one.name for one in here.iterdir()] == ["victim"]
    assert (here / "victim").read_text() == "mine"
    assert sorted(Path("/tmp").glob("outside")) == before
    inside = [name for name in names(volume) if name.endswith(b"outside")]
    assert len(inside) == any(info.name.endswith("outside") for info, _ in members)
