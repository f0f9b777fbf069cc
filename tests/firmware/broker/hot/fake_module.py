"""A module that keeps no secret and always does the same: what it writes follows from what it is given and what came before.

It honours size queries and rooms that are too small, fails now and then, and keeps no pointer. `seen` has each call
with its numbers, and the bytes where it was given a pointer to some.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from ..in_process import Calls, NoModule

_ATTRIBUTE: Final = struct.Struct("=QQQ")
_UNAVAILABLE: Final = (1 << 64) - 1
_FAILURES: Final = (CKR.GENERAL_ERROR, CKR.OPERATION_NOT_INITIALIZED, CKR.DATA_LEN_RANGE)
_ONE_BYTE: Final = frozenset((CKA.TOKEN, CKA.PRIVATE, CKA.SENSITIVE, CKA.ENCRYPT, CKA.SIGN))
_NUMBERS: Final = frozenset((CKA.CLASS, CKA.KEY_TYPE, CKA.VALUE_LEN))
# Parameters with pointers to bytes that a client chose; of other structures the length alone is told.
_FLAT: Final = frozenset((CKM.AES_CBC, CKM.AES_CBC_PAD, CKM.AES_CTR, CKM.DES3_CBC, CKM.SHA256_HMAC_GENERAL))

Seen = tuple[str, tuple[Any, ...]]


class FakeModule:
    """The functions, by name, and what they were given."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._count = 0
        self._handles = 100
        self._objects: dict[int, dict[int, bytes]] = {}
        self._begun: dict[int, list[int]] = {}  # what searches have still to name, by session
        self.functions: dict[str, Callable[..., int]] = {
            name: partial(how, self, name)
            for how, names in _HOW.items()
            for name in (f"C_{one}" for one in names.split())
        }

    def note(self, name: str, *given: Any) -> None:
        self._count += 1
        self.seen.append((name, given))

    def failure(self) -> int:
        """CKR_OK, or another CK_RV for one call in nine."""
        drawn = hashlib.sha256(b"%d" % self._count).digest()
        return int(_FAILURES[drawn[1] % 3]) if drawn[0] % 9 == 0 else 0

    # --- sessions

    def opens(self, name: str, slot: int, flags: int, _a: int, _n: int, handle: int) -> int:
        self.note(name, slot, flags)
        _write(handle, self.next())
        return 0

    def next(self) -> int:
        self._handles += 1
        return self._handles

    def closes(self, name: str, session: int) -> int:
        self.note(name, session)
        return 0

    # --- operations

    def begins(self, name: str, session: int, mechanism: int, key: int = 0) -> int:
        self.note(name, session, _mechanism(mechanism), key)
        return self.failure()

    def transforms(self, name: str, session: int, data: int, length: int, out: int, room: int) -> int:
        """What comes out has a length that follows from what goes in."""
        given = _read(data, length)
        self.note(name, session, given, out != 0, _number(room))
        return self.failure() or _leave(_made(name, given or b"", (length * 7 + 3) % 61), out, room)

    def yields(self, name: str, session: int, out: int, room: int) -> int:
        self.note(name, session, out != 0, _number(room))
        return self.failure() or _leave(_made(name, b"", 24), out, room)

    def takes(self, name: str, session: int, data: int, length: int) -> int:
        self.note(name, session, _read(data, length))
        return self.failure()

    def compares(self, name: str, session: int, data: int, length: int, more: int, more_length: int) -> int:
        self.note(name, session, _read(data, length), _read(more, more_length))
        return self.failure() or (0 if length % 2 else int(CKR.SIGNATURE_INVALID))

    def draws(self, name: str, session: int, out: int, length: int) -> int:
        self.note(name, session, out != 0, length)
        if not (rv := self.failure()):
            ctypes.memmove(out, _made(name, b"%d" % self._count, length), length)
        return rv

    def wraps(
        self, name: str, session: int, mechanism: int, one: int, other: int, out: int, room: int
    ) -> int:
        self.note(name, session, _mechanism(mechanism), one, other, out != 0, _number(room))
        return self.failure() or _leave(_made(name, b"", 40), out, room)

    # --- objects

    def creates(self, name: str, session: int, template: int, count: int, handle: int) -> int:
        return self._make(name, session, (template, count), handle)

    def copies(self, name: str, session: int, original: int, template: int, count: int, handle: int) -> int:
        return self._make(name, session, (template, count), handle, original)

    def generates(
        self, name: str, session: int, mechanism: int, template: int, count: int, handle: int
    ) -> int:
        return self._make(name, session, (template, count), handle, _mechanism(mechanism))

    def generates_pair(self, name: str, session: int, mechanism: int, *rest: int) -> int:
        public, public_count, private, private_count, first, second = rest
        rv = self._make(name, session, (public, public_count), first, _mechanism(mechanism))
        return rv or self._make(name, session, (private, private_count), second)

    def unwraps(self, name: str, session: int, mechanism: int, key: int, *rest: int) -> int:
        data, length, template, count, handle = rest
        given = _mechanism(mechanism), key, _read(data, length)
        return self._make(name, session, (template, count), handle, *given)

    def derives(self, name: str, session: int, mechanism: int, base: int, *rest: int) -> int:
        template, count, handle = rest
        return self._make(name, session, (template, count), handle, _mechanism(mechanism), base)

    def _make(self, name: str, session: int, template: tuple[int, int], handle: int, *given: Any) -> int:
        attributes = _attributes(*template)
        self.note(name, session, tuple(attributes), *given)
        if rv := self.failure():
            return rv
        values = {type_: _read(at, length) or b"" for type_, at, length in _raw(*template)}
        number = self.next()
        self._objects[number] = {CKA.TOKEN: b"\0", CKA.PRIVATE: b"\0", **values}
        _write(handle, number)
        return 0

    def destroys(self, name: str, session: int, number: int) -> int:
        self.note(name, session, number)
        return 0 if self._objects.pop(number, None) is not None else int(CKR.OBJECT_HANDLE_INVALID)

    def sets(self, name: str, session: int, number: int, template: int, count: int) -> int:
        self.note(name, session, number, tuple(_attributes(template, count)))
        if number not in self._objects:
            return int(CKR.OBJECT_HANDLE_INVALID)
        changed = {type_: _read(at, length) or b"" for type_, at, length in _raw(template, count)}
        self._objects[number] |= {type_: value for type_, value in changed.items() if type_ not in _ONE_BYTE}
        return 0

    def measures(self, name: str, session: int, number: int, size: int) -> int:
        self.note(name, session, number)
        _write(size, 5 * number)
        return self.failure()

    def tells(self, name: str, session: int, number: int, array: int, count: int) -> int:
        """C_GetAttributeValue: some attributes are not there, some have another length than their class."""
        asked = _raw(array, count)
        self.note(name, session, number, tuple((type_, at != 0, room) for type_, at, room in asked))
        if number not in self._objects:
            return int(CKR.OBJECT_HANDLE_INVALID)
        return max((self._tell(number, array + 24 * i, *one) for i, one in enumerate(asked)), default=0)

    def _tell(self, number: int, place: int, type_: int, at: int, room: int) -> int:
        value = self._objects[number].get(type_) or _value(type_)
        if value is None:
            _write(place + 16, _UNAVAILABLE)
            return int(CKR.ATTRIBUTE_TYPE_INVALID)
        if at and room < len(value):
            _write(place + 16, _UNAVAILABLE if type_ % 2 else len(value))  # modules differ
            return int(CKR.BUFFER_TOO_SMALL)
        _write(place + 16, len(value))
        if at:
            ctypes.memmove(at, value, len(value))
        return 0

    def searches(self, name: str, session: int, template: int, count: int) -> int:
        self.note(name, session, tuple(_attributes(template, count)))
        self._begun[session] = sorted(self._objects)
        return self.failure()

    def finds(self, name: str, session: int, out: int, most: int, count: int) -> int:
        self.note(name, session, most)
        left = self._begun.get(session, [])
        found, self._begun[session] = left[:most], left[most:]
        for index, number in enumerate(found):
            _write(out + 8 * index, number)
        _write(count, len(found))
        return 0

    def ends(self, name: str, session: int, *_given: int) -> int:
        self.note(name, session)
        return 0


_HOW: Final[dict[Callable[..., int], str]] = {
    FakeModule.opens: "OpenSession",
    FakeModule.closes: "CloseSession",
    FakeModule.begins: "EncryptInit DecryptInit DigestInit SignInit VerifyInit SignRecoverInit VerifyRecoverInit",
    FakeModule.transforms: "Encrypt EncryptUpdate Decrypt DecryptUpdate Digest Sign SignRecover VerifyRecover"
    " DigestEncryptUpdate DecryptDigestUpdate SignEncryptUpdate DecryptVerifyUpdate",
    FakeModule.yields: "EncryptFinal DecryptFinal DigestFinal SignFinal GetOperationState",
    FakeModule.takes: "DigestUpdate SignUpdate VerifyUpdate VerifyFinal SeedRandom",
    FakeModule.compares: "Verify",
    FakeModule.draws: "GenerateRandom",
    FakeModule.wraps: "WrapKey",
    FakeModule.creates: "CreateObject",
    FakeModule.copies: "CopyObject",
    FakeModule.generates: "GenerateKey",
    FakeModule.generates_pair: "GenerateKeyPair",
    FakeModule.unwraps: "UnwrapKey",
    FakeModule.derives: "DeriveKey",
    FakeModule.destroys: "DestroyObject",
    FakeModule.sets: "SetAttributeValue",
    FakeModule.measures: "GetObjectSize",
    FakeModule.tells: "GetAttributeValue",
    FakeModule.searches: "FindObjectsInit",
    FakeModule.finds: "FindObjects",
    FakeModule.ends: "FindObjectsFinal SetOperationState DigestKey",
}


def fake_store(module: FakeModule, directory: Path) -> KeyStore:
    """A store in front of the module; PINs are kept in the directory."""
    store = KeyStore(NoModule(directory))  # type: ignore[arg-type]  # stands in for a partition
    store.call = Calls(module.functions)
    return store


# --- memory


def _read(address: int, length: int) -> bytes | None:
    assert address or not length, "a NULL pointer with a length"
    return ctypes.string_at(address, length) if address else None


def _number(address: int) -> int:
    return ctypes.c_ulong.from_address(address).value


def _write(address: int, value: int) -> None:
    ctypes.c_ulong.from_address(address).value = value


def _raw(template: int, count: int) -> list[tuple[int, int, int]]:
    return list(_ATTRIBUTE.iter_unpack(_read(template, _ATTRIBUTE.size * count) or b""))


def _attributes(template: int, count: int) -> list[tuple[int, bytes | None]]:
    """Types and values; of a nested template, whose value has pointers, its length."""
    nested = (CKA.WRAP_TEMPLATE, CKA.UNWRAP_TEMPLATE, CKA.DERIVE_TEMPLATE)
    return [
        (type_, b"%d" % length if type_ in nested else _read(at, length))
        for type_, at, length in _raw(template, count)
    ]


def _mechanism(address: int) -> tuple[Any, ...] | None:
    """The type, the parameter's length, its bytes and those that it points to."""
    if not address:
        return None
    type_, at, length = _ATTRIBUTE.unpack(ctypes.string_at(address, _ATTRIBUTE.size))
    if type_ in _FLAT:
        return type_, length, _read(at, length)
    if type_ == CKM.AES_GCM and at:
        iv, iv_length, bits, aad, aad_length, tag = struct.unpack("=6Q", ctypes.string_at(at, 48))
        return type_, length, _read(iv, iv_length), bits, _read(aad, aad_length), tag
    return type_, length


# --- what is written


def _made(name: str, given: bytes, length: int) -> bytes:
    return hashlib.shake_128(name.encode() + given).digest(length)


def _leave(value: bytes, out: int, room: int) -> int:
    given = _number(room)
    _write(room, len(value))
    if out and given < len(value):
        return int(CKR.BUFFER_TOO_SMALL)
    if out:
        ctypes.memmove(out, value, len(value))
    return 0


_WORKS_ON_DATA: Final = {
    **dict.fromkeys((CKA.DECRYPT, CKA.MODIFIABLE, CKA.LOCAL, CKA.EXTRACTABLE), b"\1"),
    **dict.fromkeys((CKA.WRAP, CKA.UNWRAP, CKA.TRUSTED, CKA.WRAP_WITH_TRUSTED), b"\0"),
}


def _value(type_: int) -> bytes | None:
    if type_ in _WORKS_ON_DATA:
        return _WORKS_ON_DATA[CKA(type_)]
    drawn = hashlib.sha256(b"%d" % type_).digest()
    if type_ in _ONE_BYTE:
        return drawn[:1]
    if type_ in _NUMBERS:
        return drawn[: 8 if type_ != CKA.VALUE_LEN else 4]
    return None if drawn[0] % 4 == 0 else drawn[: drawn[1] % 33]
