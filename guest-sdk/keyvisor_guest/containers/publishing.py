"""The last step of a build: the image gets its tag, and its key a file. A crash leaves no key of an image that is not there.

The key is on the disk, under a name that nobody looks for, before the layout's index is replaced; its own name comes
after that. So a crash in between leaves an image, and beside the key's place a hidden file that holds its key. The other
way round it could leave a key under its name that opens nothing that has a name.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from keyvisor_guest.containers.errors import Unbuildable
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import read_document
from keyvisor_guest.containers.oci.documents import Descriptor, read_manifest
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.staged_files import stage

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
    _store(layout, image)
    if key_file is None:
        _tag(layout, image, tag)
        return
    check_new(key_file)
    staged = stage(key_file, release)
    try:
        _tag(layout, image, tag)
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
    _sync(key_file.parent)


def _store(layout: OciLayout, image: Descriptor) -> None:
    """Have all blobs of the image on the disk: what names them must not outlive them when the machine goes down."""
    manifest = read_manifest(read_document(layout.blobs, image.digest, DEFAULT_LIMITS.document))
    paths = [layout.blobs.path_of(one.digest) for one in (image, manifest.config, *manifest.layers)]
    for path in (*paths, paths[0].parent):
        _sync(path)


def _tag(layout: OciLayout, image: Descriptor, tag: str) -> None:
    layout.tag(image, tag)
    _sync(layout.path / "index.json")
    _sync(layout.path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST, "exists already, and a key is never written over another: give another name", str(path)
    )
