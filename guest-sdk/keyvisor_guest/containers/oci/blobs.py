"""Blobs by their digests: written once, under a name that they have only when they are whole, read at any place.

`BlobDirectory` keeps them as an OCI layout does, in `blobs/sha256/HEX`. Knows no document and no image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.oci.digests import Digest, digest_of, parse_digest, spell

__all__ = [
    "BlobDirectory",
    "BlobFile",
    "BlobSource",
    "BlobWriting",
    "Stored",
    "copy_blob",
    "read_document",
    "verify_blob",
]

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is there: its digest and its size in bytes."""

    digest: Digest
    size: int


class BlobSource(Protocol):
    """Where blobs can be read from."""

    def open(self, digest: Digest) -> BlobFile:
        """The blob, not yet held against its digest. Raises ImageRefused where there is none."""
        ...


class BlobFile:
    """An open blob. Reads are of any thread; a file that becomes shorter meanwhile gives fewer bytes."""

    __slots__ = ("_descriptor", "size")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size: Final = os.fstat(descriptor).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on: fewer only where the file ends."""
        parts: list[bytes] = []
        while length and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class BlobWriting:
    """A blob that is being written. It is there only after `commit`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def commit(self, expected: Digest | None = None) -> Stored:
        """Give the blob its name. Raises ImageRefused where its digest is not the expected one."""
        digest = spell(self._hash.digest())
        if expected is not None and digest != expected:
            raise ImageRefused(f"a blob came as {digest}, not as {expected}: pull it again", Refusal.DIGEST)
        self._file.flush()
        self._path.replace(self._path.with_name(digest.partition(":")[2]))
        return Stored(digest, self.size)


class BlobDirectory:
    """The blobs below `root`, which may be read by others and is written by one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self._directory: Final = root / "blobs" / "sha256"

    def path_of(self, digest: Digest) -> Path:
        """Where the blob is, or would be. Raises ImageRefused for what is no digest."""
        return self._directory / parse_digest(digest).partition(":")[2]

    def has(self, digest: Digest) -> bool:
        """Whether a file has the blob's name."""
        return self.path_of(digest).is_file()

    def open(self, digest: Digest) -> BlobFile:
        """The blob, not yet held against its digest. Raises ImageRefused where there is none, or a link instead."""
        try:
            descriptor = os.open(self.path_of(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ImageRefused(
                f"the blob {digest} is not there ({error.strerror}): pull the image again", Refusal.MISSING
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ImageRefused(f"the blob {digest} is no file: pull the image again", Refusal.MISSING)
        return BlobFile(descriptor)

    @contextlib.contextmanager
    def writing(self) -> Iterator[BlobWriting]:
        """A new blob. What is not committed is gone when the block ends."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self._directory)
        try:
            os.fchmod(descriptor, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                yield BlobWriting(Path(name), file)
        finally:
            Path(name).unlink(missing_ok=True)

    def put(self, data: bytes) -> Stored:
        """Store a small blob."""
        with self.writing() as blob:
            blob.write(data)
            return blob.commit()


def read_document(source: BlobSource, digest: Digest, limit: int, size: int | None = None) -> bytes:
    """A small blob as a whole, held against its digest, `limit` and, where it is given, its size. Raises ImageRefused."""
    with source.open(digest) as blob:
        if blob.size > limit:
            raise ImageRefused(
                f"the blob {digest} has {blob.size} bytes, at most {limit} are read", Refusal.LIMIT
            )
        data = blob.read_at(0, limit + 1)
    if size is not None and len(data) != size:
        raise ImageRefused(
            f"the blob {digest} has {len(data)} bytes, not {size}: pull the image again", Refusal.SIZE
        )
    if digest_of(data) != digest:
        raise _another_blob(digest)
    return data


def copy_blob(source: BlobSource, into: BlobDirectory, digest: Digest) -> Stored:
    """A blob of any size into another directory, held against its digest. Raises ImageRefused; then it has no name there."""
    with source.open(digest) as blob, into.writing() as copy:
        offset = 0
        while chunk := blob.read_at(offset, _CHUNK):
            copy.write(chunk)
            offset += len(chunk)
        return copy.commit(digest)


def verify_blob(source: BlobSource, digest: Digest) -> None:
    """Hold a blob of any size against its digest. Raises ImageRefused."""
    read = hashlib.sha256()
    with source.open(digest) as blob:
        offset = 0
        while chunk := blob.read_at(offset, _CHUNK):
            read.update(chunk)
            offset += len(chunk)
    if spell(read.digest()) != digest:
        raise _another_blob(digest)


def _another_blob(digest: Digest) -> ImageRefused:
    return ImageRefused(f"the blob {digest} was changed: pull the image again", Refusal.DIGEST)
