"""The PINs of a key partition on disk: `application.json` in the partition's own directory.

Whoever opens the partition finds them: after a restart, and through a spare HSM. The file is replaced whole, by one
process at a time. It holds hashes only. One that is damaged lets nobody in; none at all is a token without PINs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.pins import (
    DIGEST_SIZE,
    LABEL_SIZE,
    MAX_TRIES,
    SALT_SIZE,
    Pin,
    PinHash,
    TokenPins,
    WrongPin,
)
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.partitions import exclusive

NAME: Final = "application.json"
_VERSION: Final = 1  # of the form, the hash with its parameters included
_MAX_SIZE: Final = 4096  # bytes


class PinFile:
    """The record of one partition. Any number of threads and processes may use it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / NAME

    def read(self) -> TokenPins:
        """The record as it is now. Raises Refused if the file is damaged or cannot be read."""
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_SIZE + 1)
        except FileNotFoundError:
            return self._none_set()
        except OSError as error:
            raise _refused(f"the file of the token's PINs cannot be read: {error.strerror}") from None
        return parse(data)

    def change(self, step: Callable[[TokenPins], TokenPins]) -> TokenPins:
        """Take one step from the record as it is to the one that `step` gives, which is on disk when this returns.

        A wrong PIN is on disk, counted, before it is told. The right one is written too: if only wrong ones had to
        be, a full disk would tell which is which and count nothing. Raises what `step` does, and Refused.
        """
        try:
            with exclusive(self._directory):
                try:
                    after = step(self.read())
                except WrongPin as wrong:
                    self._write(wrong.counted)
                    raise
                self._write(after)
                return after
        except OSError as error:
            raise _refused(f"the file of the token's PINs cannot be written: {error.strerror}") from None

    def _none_set(self) -> TokenPins:
        """No file is no PIN, but only where the partition is."""
        if not self._directory.is_dir():
            raise _refused("the partition's directory is gone; put it back from a copy")
        return TokenPins()

    def _write(self, record: TokenPins) -> None:
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)  # a process that died left it
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(dump(record))
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def dump(record: TokenPins) -> bytes:
    """The record as JSON; bytes are in hexadecimal."""
    label = None if record.label is None else record.label.hex()
    form = {"version": _VERSION, "label": label, "so": _form(record.so), "user": _form(record.user)}
    return json.dumps(form, indent=2).encode() + b"\n"


def parse(data: bytes) -> TokenPins:
    """The record in `data`. Raises Refused for everything that `dump` would not have written."""
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
        form = json.loads(data[:_MAX_SIZE].decode("ascii"))
        label = None if form["label"] is None else bytes.fromhex(form["label"])
        record = TokenPins(label, _pin(form["so"]), _pin(form["user"]))
        if form["version"] == _VERSION and _is_sound(record) and dump(record) == data:
            return record
    raise _refused("the file of the token's PINs is damaged; put it back from a copy")


def _form(pin: Pin | None) -> dict[str, Any] | None:
    if pin is None:
        return None
    return {"salt": pin.hash.salt.hex(), "digest": pin.hash.digest.hex(), "wrong": pin.wrong}


def _pin(form: dict[str, Any] | None) -> Pin | None:
    if form is None:
        return None
    return Pin(PinHash(bytes.fromhex(form["salt"]), bytes.fromhex(form["digest"])), form["wrong"])


def _is_sound(record: TokenPins) -> bool:
    label = record.label is None or len(record.label) == LABEL_SIZE
    pins = [pin for pin in (record.so, record.user) if pin is not None]
    return label and (record.label is None) == (record.so is None) and all(map(_is_sound_pin, pins))


def _is_sound_pin(pin: Pin) -> bool:
    sizes = len(pin.hash.salt) == SALT_SIZE and len(pin.hash.digest) == DIGEST_SIZE
    return sizes and type(pin.wrong) is int and 0 <= pin.wrong <= MAX_TRIES


def _refused(reason: str) -> Refused:
    return Refused(CKR.DEVICE_ERROR, reason)
