"""The same image unpacked by umoci, which is not ours, and made a volume by us: two equal trees (T1)."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from uuid import UUID

import pytest

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.ext4.programs import check
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.tar_layers import LayerReader

from ..archives import archive, member, reader
from .shadow_tree import Description, described_volume
from .unpacked import described_directory, unpack, write_layout

pytestmark = [
    pytest.mark.skipif(
        shutil.which("umoci") is None, reason="no umoci to unpack with: `apt-get install umoci`"
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="umoci keeps owners and makes devices as root only"),
]

CAPABILITY = "\x01\x00\x00\x02\x00\x04\x00\x00" + "\x00" * 12
D, L, H, C, B, P = (
    tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
)  # fmt: skip

# umoci leaves the time of its own work where it deletes in a directory that the layer has no entry for, and where a
# directory has no entry at all.
TIMES_OF_UNPACKING = (b"/data", b"/data/sub")


def layers() -> list[bytes]:
    noise = hashlib.shake_128(b"noise").digest(300_000)
    lowest = archive(
        member("./", flag=D, mode=0o755, mtime=10),
        member("usr", flag=D, mode=0o755, mtime=11),
        member("usr/bin", flag=D, mode=0o755, mtime=12),
        member("usr/bin/app", noise, mode=0o755, mtime=13, uid=1000, gid=2000),
        member("usr/bin/su", b"x", mode=0o4755, mtime=14),
        member("bin", flag=L, linkname="usr/bin", mtime=15),
        member("etc", flag=D, mode=0o750, mtime=16),
        member("etc/a b", b"space", mtime=17),
        member("etc/quote'\"", b"q", mtime=17),
        member("etc/\u00fc", b"u", mtime=2**31 + 17),
        member("data", flag=D, mode=0o1775, gid=50, mtime=18),
        member("data/one", b"1" * 5000, mtime=19),
        member("data/sub/deep", b"2", mtime=19),
        member("hidden", flag=D, mode=0o2755, gid=50, mtime=20),
        member("hidden/x", b"x", mtime=20),
        member("was-a-directory", flag=D, mode=0o755, mtime=21),
        member("was-a-directory/f", b"f", mtime=21),
        member("was-a-file", b"f", mtime=22),
        member("was-a-link", flag=L, linkname="data", mtime=22),
    )
    middle = archive(
        member("bin/tool", b"through the symlink", mode=0o755, mtime=30),
        member("data/.wh.one", mtime=30),
        member("hidden/.wh..wh..opq", mtime=30),
        member("hidden/new", b"n", mtime=31),
        member("was-a-directory", b"now a file", mtime=32),
        member("was-a-file", flag=D, mode=0o700, mtime=33),
        member("was-a-file/inside", b"i", mtime=33),
        member("was-a-link", flag=D, mode=0o711, mtime=34),
        member("hard", flag=H, linkname="usr/bin/app", mode=0o755, mtime=13, uid=1000, gid=2000),
        member("sparse", bytes(2_000_000) + b"end", mtime=35),
        member("null", flag=C, devmajor=1, devminor=3, mode=0o666, mtime=36),
        member("disk", flag=B, devmajor=259, devminor=300, mode=0o660, mtime=36),
        member("pipe", flag=P, mode=0o600, mtime=37),
        member(
            "xattrs",
            b"x",
            mtime=38,
            pax_headers={"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.user.empty": ""},
        ),
        member(
            "capable",
            b"c",
            mode=0o755,
            mtime=39,
            pax_headers={"SCHILY.xattr.security.capability": CAPABILITY},
        ),
    )
    highest = archive(
        member(".wh.pipe"), member("etc/a b", b"changed", mtime=40), member("etc/.wh.\u00fc", mtime=40)
    )
    return [lowest, middle, highest]


def test_the_tree_is_umocis(tmp_path: Path) -> None:
    tars = layers()
    write_layout(tmp_path / "layout", tars)
    rootfs = unpack(tmp_path / "layout", tmp_path / "bundle")
    volume = Volume.create(tmp_path / "volume", UUID(int=1), 16_384, 8192)
    before: Description = {}
    for number, tar in enumerate(tars):
        before = described_volume(reader(tmp_path / "volume"))
        volume.apply(number, LayerReader(io.BytesIO(gzip.compress(tar)), Budget()))
        check(tmp_path / "volume")
    ours = described_volume(reader(tmp_path / "volume"))
    theirs = described_directory(rootfs)
    for path in TIMES_OF_UNPACKING:
        assert theirs[path][2] != ours[path][2]
        theirs[path] = (*theirs[path][:2], ours[path][2], *theirs[path][3:])
    assert sorted(ours) == sorted(theirs) != sorted(before)
    for path, found in ours.items():
        assert (path, found) == (path, theirs[path])
