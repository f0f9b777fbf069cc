"""The last step of a build: the image gets its tag, and its key a file. A crash leaves no key of an image that is not there.

The key is on the disk, under a name that nobody looks for, before the layout's index is replaced; its own name comes
after that. So a crash in between leaves an image, and beside the key's place a hidden file that holds its key. The other
way round it could leave a key under its name that opens nothing that has a name.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from keyvisor_guest.containers.errors import Unbuildable
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout

__all__ = ["check_new", "publish"]


def check_new(path: Path) -> None:
    """Raises OSError where a key cannot get this name: asked before the long part of a build."""
    if os.path.lexists(path):
        raise _exists(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory: make it first", str(path.parent))


def publish(
    layout: OciLayout, image: Descriptor, tag: str, key_file: Path | None = None, release: bytes = b""
) -> None:
    """Tag the image, and write its release to a file that only its owner can read, never over another.

    Raises OSError, ImageRefused. Unbuildable where the key's place was taken meanwhile: it says where the key is then.
    """
    if key_file is None:
        layout.tag(image, tag)
        return
    check_new(key_file)
    staged = _stage(key_file, release)
    try:
        layout.tag(image, tag)
    except BaseException:
        staged.unlink()
        raise
    try:
        # A link, unlike a rename, does not replace what came there meanwhile.
        os.link(staged, key_file)
    except OSError as error:
        raise Unbuildable(
            f"`{key_file}` could not be made ({(error.strerror or 'unknown').lower()}): the image is there, and its key"
            f" is in `{staged}`: move it to a safe place"
        ) from error
    staged.unlink()


def _stage(path: Path, content: bytes) -> Path:
    """mkstemp makes it 0600."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".keyvisor-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST, "exists already, and a key is never written over another: give another name", str(path)
    )
