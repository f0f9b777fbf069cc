"""What was wrapped in a key partition: `wrapped.keys` in its directory, so that it comes back as what it was.

Each record stands for one blob, by a keyed fingerprint, and is authenticated by itself; the key comes from the
partition's PIN. A record that was tampered with, or torn by a crash, is none: its blob then counts as one from
elsewhere, to which the safest rules apply. Records are only ever added; several gates may share the file.
"""

from __future__ import annotations

import hmac
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.guard.roles import Role
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.partitions import exclusive

NAME: Final = "wrapped.keys"
MOST: Final = 65536  # records, 5.5 MiB
_CONTENT: Final = struct.Struct(">32sQQQ")  # fingerprint, class, key type, role and flags
_TAG: Final = 32
SIZE: Final = _CONTENT.size + _TAG  # bytes of a record
_SENSITIVE, _WITH_TRUSTED = 4, 8  # beside the role's two bits


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """What a key was when it was wrapped. The role is never UNDECIDED."""

    class_: int
    key_type: int
    role: Role
    sensitive: bool
    wrap_with_trusted: bool

    def merged(self, other: WrappedKey) -> WrappedKey:
        """What both say of the same blob: as strict as the stricter, and of no role if they differ there."""
        return WrappedKey(
            self.class_,
            self.key_type,
            self.role if self.role is other.role else Role.NEITHER,
            self.sensitive or other.sensitive,
            self.wrap_with_trusted or other.wrap_with_trusted,
        )


class WrappedKeys:
    """The records of one partition. Any number of threads and processes may use them at once."""

    def __init__(self, directory: Path, key: bytes, most: int = MOST) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._key = key
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[bytes, WrappedKey] = {}
        self._read = 0  # bytes of the file, whole records

    def add(self, mechanism: int, blob: bytes, was: WrappedKey) -> None:
        """Keep what `blob` holds; on disk when this returns. Raises Refused where there is no room, or no disk."""
        fingerprint = self._fingerprint(mechanism, blob)
        try:
            with self._lock, exclusive(self._directory):
                self._catch_up()
                known = self._known.get(fingerprint)
                now = was if known is None else known.merged(was)
                if now == known:
                    return
                if self._read // SIZE >= self._most:
                    raise Refused(
                        CKR.DEVICE_MEMORY,
                        f"{self._most} wrapped keys are on record, which is all there is room for; wrap with"
                        " CKM_AES_KEY_WRAP, which needs one record for each key, or use another association secret",
                    )
                self._append(self._pack(fingerprint, now))
                self._known[fingerprint] = now
        except OSError as error:
            reason = (
                f"the record of wrapped keys cannot be written ({error.strerror}); look after the host's disk"
            )
            raise Refused(CKR.DEVICE_ERROR, reason) from None

    def find(self, mechanism: int, blob: bytes) -> WrappedKey | None:
        """What `blob` holds, if it was wrapped here by this mechanism. Raises Refused where the file cannot be read."""
        if not self._path.exists():  # then nothing has left yet: it does so behind its record
            return None
        try:
            with self._lock, exclusive(self._directory):
                self._catch_up()
                return self._known.get(self._fingerprint(mechanism, blob))
        except OSError as error:
            reason = (
                f"the record of wrapped keys cannot be read ({error.strerror}); look after the host's disk"
            )
            raise Refused(CKR.DEVICE_ERROR, reason) from None

    def _catch_up(self) -> None:
        """Read what was added since, by whichever gate."""
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._read:  # somebody put an older file back
                    self._known, self._read = {}, 0
                file.seek(self._read)
                data = file.read(min(size, self._most * SIZE) - self._read)
        except FileNotFoundError:
            self._known, self._read = {}, 0
            return
        for at in range(0, len(data) - SIZE + 1, SIZE):
            self._take(data[at : at + SIZE])
            self._read += SIZE

    def _take(self, record: bytes) -> None:
        content, tag = record[: _CONTENT.size], record[_CONTENT.size :]
        if not hmac.compare_digest(tag, self._tag(content)):
            return
        fingerprint, class_, key_type, bits = _CONTENT.unpack(content)
        was = WrappedKey(
            class_, key_type, Role(bits & 3), bool(bits & _SENSITIVE), bool(bits & _WITH_TRUSTED)
        )
        known = self._known.get(fingerprint)
        self._known[fingerprint] = was if known is None else known.merged(was)

    def _append(self, record: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(self._read)  # what a crash left of a record
            file.seek(self._read)
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        if not self._read:
            self._sync_directory()
        self._read += SIZE

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _pack(self, fingerprint: bytes, was: WrappedKey) -> bytes:
        bits = was.role.value | was.sensitive * _SENSITIVE | was.wrap_with_trusted * _WITH_TRUSTED
        content = _CONTENT.pack(fingerprint, was.class_, was.key_type, bits)
        return content + self._tag(content)

    def _tag(self, content: bytes) -> bytes:
        return hmac.digest(self._key, b"record\0" + content, "sha256")

    def _fingerprint(self, mechanism: int, blob: bytes) -> bytes:
        return hmac.digest(self._key, b"blob\0" + mechanism.to_bytes(8, "big") + blob, "sha256")
