"""A mount namespace of this process's own: what is mounted in it nobody else sees, and it is gone when the process is.

Linux only, through four system calls. Where the process is not root it becomes root of a user namespace of its own, which
stands for the user that it was, and for nobody else. Knows nothing of containers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path
from typing import Final

from keyvisor_guest.containers.errors import Unservable

__all__ = ["enter", "mount_fuse", "mount_overlay", "mount_tmpfs", "unmount"]

_NEWNS, _NEWUSER = 0x20000, 0x10000000
_RDONLY, _NOSUID, _NODEV, _PRIVATE, _REC = 1, 2, 4, 1 << 18, 1 << 14
_DETACH: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Into a namespace of this process's own. It has to have one thread. Raises Unservable where the system forbids it."""
    try:
        if os.geteuid() != 0 or not _unshared(_NEWNS):
            _enter_user_namespace()
        _call(_libc.mount(None, b"/", None, _PRIVATE | _REC, None))
    except OSError as error:
        raise Unservable(
            f"no mounts of this process's own ({_reason(error)}): let its user make namespaces"
            " (`sysctl user.max_user_namespaces`, `kernel.unprivileged_userns_clone`), as containers need them"
        ) from error


def _unshared(flags: int) -> bool:
    return int(_libc.unshare(flags)) == 0


def _enter_user_namespace() -> None:
    """Root of it is the user that this process has been, whoever that is: root of a container may be a user without power."""
    uid, gid = os.geteuid(), os.getegid()
    _call(_libc.unshare(_NEWNS | _NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def mount_tmpfs(place: Path) -> None:
    """A file system in memory; kept from swapping where the kernel can do that. Raises Unservable."""
    for options in (b"mode=0700,noswap", b"mode=0700"):
        with contextlib.suppress(OSError):
            _call(_libc.mount(b"keyvisor", os.fsencode(place), b"tmpfs", _NOSUID | _NODEV, options))
            return
    raise Unservable(f"no file system in memory can be mounted on `{place}`: let this user mount tmpfs")


def mount_overlay(lower: Path, upper: Path, work: Path, place: Path) -> None:
    """`upper` over `lower`, which stays as it is. Raises Unservable."""
    options = f"lowerdir={_option(lower)},upperdir={_option(upper)},workdir={_option(work)}"
    tried: list[OSError] = []
    for more in ("", ",userxattr"):  # within a user namespace only the second
        try:
            _call(_libc.mount(b"keyvisor", os.fsencode(place), b"overlay", _NODEV, (options + more).encode()))
        except OSError as error:
            tried.append(error)
        else:
            return
    raise Unservable(
        f"no overlay for what a container writes ({_reason(tried[-1])}): `--files extract` needs none"
    )


def mount_fuse(device: int, place: Path) -> None:
    """The file system of whoever answers on the open FUSE device, to read. Raises Unservable."""
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions"
    flags = _RDONLY | _NOSUID | _NODEV
    try:
        _call(_libc.mount(b"keyvisor", os.fsencode(place), b"fuse", flags, options.encode()))
    except OSError as error:
        raise Unservable(
            f"FUSE cannot be mounted here ({_reason(error)}): `--files extract` goes without"
        ) from error


def unmount(place: Path) -> None:
    """Take away what is mounted there, as soon as nobody uses it any more; nothing where there is none."""
    _libc.umount2(os.fsencode(place), _DETACH)


def _option(path: Path) -> str:
    """Commas divide options, and colons lower directories."""
    return re.sub(r"([\\,:])", r"\\\1", str(path))


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
