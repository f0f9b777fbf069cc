"""Ordinary images to measure with: as many MiB as are wanted in as many layers, half noise and half text, and some links.

The same seed makes the same image. Layers are tars that are not compressed, so that no step measures an inflater.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Final, cast

from keyvisor_guest.containers.oci.digests import Digest
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor, Manifest, manifest_bytes
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import CONFIG_TYPE
from keyvisor_guest.containers.oci.sources import SourceImage, from_layout

__all__ = ["FIRST_FILE", "source_image"]

FIRST_FILE: Final = (b"srv", b"0", b"text", b"0", b"file-0")  # in every image, in its lowest layer

_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
_MIB: Final = 1 << 20
_SHORT: Final = 100  # files in a directory
_WORDS: Final = [
    "the",
    "firmware",
    "gives",
    "a",
    "key",
    "to",
    "the",
    "guest",
    "that",
    "its",
    "policy",
    "names",
    "and",
    "to",
    "no",
    "other",
    "guest",
    "at",
    "all",
]


def source_image(path: Path, mib: int, layers: int, seed: int = 1) -> SourceImage:
    """A new layout with one image."""
    layout = OciLayout(path)
    layout.create()
    chance = random.Random(seed)  # noqa: S311 - contents of files, not keys
    text = " ".join(chance.choices(_WORDS, k=_MIB)).encode()
    stored = [_layer(layout, number, mib * _MIB // layers, chance, text) for number in range(layers)]
    digests: list[Digest] = [one.digest for one in stored]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    described = layout.blobs.put(json.dumps(config).encode())
    manifest = Manifest(Descriptor(CONFIG_TYPE, described.digest, described.size), tuple(stored))
    written = layout.blobs.put(manifest_bytes(manifest))
    return from_layout(layout, Descriptor(MANIFEST, written.digest, written.size))


def _layer(layout: OciLayout, number: int, size: int, chance: random.Random, text: bytes) -> Descriptor:
    with layout.blobs.writing() as blob:
        # A stream is only written to.
        with tarfile.open(fileobj=cast(IO[bytes], blob), mode="w|", bufsize=_MIB) as tar:
            for name, data in _files(number, size, chance, text):
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.mode = len(data), 1_700_000_000 + number, 0o644
                tar.addfile(member, BytesIO(data))
            link = tarfile.TarInfo(f"srv/{number}/current")
            link.type, link.linkname = tarfile.SYMTYPE, "text/0/file-0"
            tar.addfile(link)
        stored = blob.commit()
    return Descriptor(_TAR, stored.digest, stored.size)


def _files(number: int, size: int, chance: random.Random, text: bytes) -> Iterator[tuple[str, bytes]]:
    """Text of 4 to 96 KiB a file, then noise in files of 1 MiB; above the lowest layer a file of the one below changes."""
    if number:
        yield f"srv/{number - 1}/text/0/file-0" if number > 1 else "srv/0/text/0/file-1", text[:_SHORT]
    done = count = 0
    while done < size // 2:
        length = min(chance.randint(4 << 10, 96 << 10), size)
        start = chance.randrange(len(text) - length)
        yield f"srv/{number}/text/{count // _SHORT}/file-{count % _SHORT}", text[start : start + length]
        done += length
        count += 1
    count = 0
    while done < size:
        length = min(_MIB, size - done)
        yield f"srv/{number}/noise/{count}", chance.randbytes(length)
        done += length
        count += 1
