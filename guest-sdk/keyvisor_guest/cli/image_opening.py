"""A secure image that a verb opens: found by its argument, verified with the key of its options, and the tree in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from keyvisor_guest.cli.image_key_options import KeyOptions
from keyvisor_guest.cli.image_places import find_secure
from keyvisor_guest.containers.errors import NotInImage
from keyvisor_guest.containers.ext4.reading import Node, VolumeReader
from keyvisor_guest.containers.names import shown
from keyvisor_guest.containers.reader import ImageReader

__all__ = ["PathArgument", "find_node", "opened", "path_of"]

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="The path in the image, from its root.")]


@contextmanager
def opened(keys: KeyOptions, image: str) -> Iterator[ImageReader]:
    """The image's reader: chain, config and root are verified, and are what the key was released for."""
    layout, descriptor, manifest = find_secure(image)
    release = keys.release(manifest)
    with ImageReader.open(layout.blobs, descriptor.digest, release.key, release.demand) as reader:
        yield reader


def path_of(text: str) -> tuple[bytes, ...]:
    """The parts of a path that was given as an argument."""
    return tuple(part for part in os.fsencode(text).split(b"/") if part)


def find_node(volume: VolumeReader, text: str, *, follow: bool = True) -> Node:
    """What a path leads to; symlinks are followed inside the image. Raises NotInImage."""
    path = path_of(text)
    try:
        return volume.find(path, follow=follow)
    except (FileNotFoundError, NotADirectoryError):
        raise NotInImage(
            f"there is no {shown(path)} in the image: `keyvisor image ls` shows what there is"
        ) from None
