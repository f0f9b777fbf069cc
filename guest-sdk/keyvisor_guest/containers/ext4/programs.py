"""The programs of e2fsprogs that make and check a volume. Each runs by itself, with nothing of the caller's environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.ext4.inodes import INODE_SIZE
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["check", "make"]

# Each feature by name: what a distribution's mke2fs.conf says must not change an image. No journal (read-only), no
# directory index (its hash order would move names), no reserve for growing.
_FEATURES = "none,ext_attr,extent,filetype,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"


def make(path: Path, uuid: UUID, blocks: int, inodes: int) -> None:
    """An empty volume of `blocks` blocks of 4096 bytes, the same bytes each time. Raises VolumeUnusable."""
    options = [
        "-b",
        str(BLOCK),
        "-I",
        str(INODE_SIZE),
        "-N",
        str(inodes),
        "-m",
        "0",
        "-G",
        "16",
        "-O",
        _FEATURES,
    ]
    identity = ["-U", str(uuid), "-L", "", "-M", "", "-o", "Linux", "-e", "remount-ro"]
    extended = f"hash_seed={uuid},root_owner=0:0,nodiscard,lazy_itable_init=0"
    said = _run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        *options,
        *identity,
        "-E",
        extended,
        str(path.absolute()),
        str(blocks),
    )
    if said is not None:
        raise VolumeUnusable(f"mke2fs made no volume ({said}): give it another size, or room on the disk")


def check(path: Path) -> None:
    """Raises VolumeUnusable where e2fsck finds anything at all to mend."""
    said = _run("e2fsck", "-f", "-n", str(path.absolute()))
    if said is not None:
        raise VolumeUnusable(f"e2fsck finds the volume damaged ({said}): build the image again")


def _run(name: str, *arguments: str) -> str | None:
    """None when it ended well; else what it said, in one line."""
    # Programs of e2fsprogs stand where an ordinary user's PATH does not always lead.
    found = shutil.which(
        name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    )
    if found is None:
        raise VolumeUnusable(f"no {name} for the volume: run `apt-get install e2fsprogs`")
    environment = {
        "E2FSPROGS_FAKE_TIME": "1",
        "MKE2FS_CONFIG": os.devnull,
        "E2FSCK_CONFIG": os.devnull,
        "LC_ALL": "C",
    }
    done = subprocess.run(
        [found, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode == 0:
        return None
    said = " ".join((done.stdout + done.stderr).decode("utf-8", "backslashreplace").split())
    return said[-300:] or f"exit code {done.returncode}"
