"""Cryptoki's C structures in memory, for LP64 machines (offsets: pkcs11-rpc.md, 4.5).

Every class here owns the memory it lays out and gives the address to pass to the module; it must stay
referenced until the call has returned. This is the one place where addresses are computed.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ULONG = struct.Struct("=Q")
_ATTRIBUTE = struct.Struct("=QQQ")  # type, pValue, ulValueLen
_MECHANISM = struct.Struct("=QQQ")  # type, pParameter, ulParameterLen
UNAVAILABLE = (1 << 64) - 1

if struct.calcsize("P") != 8 or struct.calcsize("L") != 8:  # pragma: no cover
    raise ImportError("keyvisor's Cryptoki binding knows LP64 machines only")


class _Buffer(ctypes.Structure):
    """Py_buffer, as far as it is read here; the rest is the interpreter's."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 256))


def address_of(buffer: memoryview) -> int:
    """Where the bytes of a buffer are, one that may only be read among them. They stay there while it exists."""
    view = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), 0)
    address = view.buf or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return address


def address_of_function(function: Any) -> int:
    """Where a C function is; 0 for one of Python's."""
    if not isinstance(function, ctypes._CFuncPtr):  # type: ignore[attr-defined]  # it has no public name
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class Memory:
    """`size` zeroed bytes with a fixed address."""

    __slots__ = ("_buffer", "address", "size")

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(max(size, 1))
        self.address = ctypes.addressof(self._buffer)
        self.size = size

    def write(self, offset: int, data: bytes) -> None:
        """Copy `data` to `offset`. Raises ValueError past the end: nothing is ever written outside."""
        if offset < 0 or offset + len(data) > self.size:
            raise ValueError("write outside of a Cryptoki structure")
        ctypes.memmove(self.address + offset, data, len(data))

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Copy `length` bytes from `offset` (to the end if None). Raises ValueError past the end."""
        length = self.size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError("read outside of a Cryptoki structure")
        return ctypes.string_at(self.address + offset, length)


class Ulongs(Memory):
    """An array of CK_ULONG."""

    __slots__ = ()

    def __init__(self, count: int, first: int = 0) -> None:
        super().__init__(8 * count)
        if first:
            self.write(0, ULONG.pack(first))

    def __getitem__(self, index: int) -> int:
        value: int = ULONG.unpack(self.read(8 * index, 8))[0]
        return value

    def values(self, count: int) -> tuple[int, ...]:
        """The first `count` values."""
        return struct.unpack(f"={count}Q", self.read(0, 8 * count))


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute in native form. `value` is bytes, None for a NULL pointer, or a tuple for a nested template."""

    type: int
    value: bytes | tuple[Attribute, ...] | None


class Template:
    """An array of CK_ATTRIBUTE with values, nested templates included."""

    __slots__ = ("_array", "_kept", "address", "count")

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        self.count = len(attributes)
        self._kept: list[object] = []
        self._array = Memory(_ATTRIBUTE.size * self.count)
        self.address = self._array.address if attributes else 0
        for index, attribute in enumerate(attributes):
            address, length = self._place(attribute.value)
            self._array.write(index * _ATTRIBUTE.size, _ATTRIBUTE.pack(attribute.type, address, length))

    def _place(self, value: bytes | tuple[Attribute, ...] | None) -> tuple[int, int]:
        if value is None:
            return 0, 0
        if isinstance(value, tuple):
            nested = Template(value)
            self._kept.append(nested)
            return nested.address, _ATTRIBUTE.size * nested.count
        memory = Memory(len(value))
        memory.write(0, value)
        self._kept.append(memory)
        return memory.address, len(value)


# One attribute to be read: its type, and the caller's room in bytes or, for a nested template, in attributes.
Asked = tuple[int, "int | tuple[Asked, ...]"]


@dataclass(frozen=True, slots=True)
class Found:
    """One attribute that was read. `length` is None where the module said -1; `value` None where there was no room."""

    type: int
    length: int | None
    value: bytes | tuple[Found, ...] | None


class Query:
    """An array of CK_ATTRIBUTE to be filled by C_GetAttributeValue, nested templates included."""

    __slots__ = ("_array", "_rooms", "address", "count")

    def __init__(self, wanted: Sequence[Asked]) -> None:
        self.count = len(wanted)
        self._array = Memory(_ATTRIBUTE.size * self.count)
        self.address = self._array.address if wanted else 0
        self._rooms = [_room(room) for _, room in wanted]
        for index, ((type_, _), room) in enumerate(zip(wanted, self._rooms, strict=True)):
            address, length = (0, 0) if room is None else (room.address, room.size)
            self._array.write(index * _ATTRIBUTE.size, _ATTRIBUTE.pack(type_, address, length))

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return self._array.size

    def answer(self, index: int) -> tuple[int | None, bytes | tuple[Found, ...] | None]:
        """(length, value), as in Found."""
        found = self._found(index)
        return found.length, found.value

    def answers(self) -> tuple[Found, ...]:
        """All that was asked for, in its order."""
        return tuple([self._found(index) for index in range(self.count)])

    def _found(self, index: int) -> Found:
        # The type is read back as well: asked about a nested template without values, a module fills its types in.
        type_, _, length = _ATTRIBUTE.unpack(self._array.read(index * _ATTRIBUTE.size, _ATTRIBUTE.size))
        if length == UNAVAILABLE:
            return Found(type_, None, None)
        room = self._rooms[index]
        if room is None or length > room.size:
            return Found(type_, length, None)
        if isinstance(room, Query):
            return Found(type_, length, tuple(room._found(at) for at in range(length // _ATTRIBUTE.size)))
        return Found(type_, length, room.read(0, length))


def _room(room: int | tuple[Asked, ...]) -> Memory | Query | None:
    if isinstance(room, tuple):
        return Query(room)
    return Memory(room) if room else None


@dataclass(frozen=True, slots=True)
class Pointer:
    """Bytes that a parameter structure points to. `data` None is a NULL pointer (then its length is 0)."""

    data: bytes | None


class Mechanism:
    """A CK_MECHANISM. `parameter` is None, flat bytes, or a sequence of CK_ULONG values, flat bytes and pointers.

    `parameter_address` is where the parameter is, `pointed` where the bytes are that it points to, in their order.
    """

    __slots__ = ("_kept", "address", "parameter_address", "pointed", "type")

    def __init__(self, type_: int, parameter: bytes | Sequence[int | bytes | Pointer] | None) -> None:
        self.type = type_
        self._kept: list[Memory] = []
        self.pointed: list[int] = []
        flat = parameter if parameter is None or isinstance(parameter, bytes) else self._layout(parameter)
        self.parameter_address = self._place(flat)
        memory = Memory(_MECHANISM.size)
        memory.write(0, _MECHANISM.pack(type_, self.parameter_address, len(flat or b"")))
        self._kept.append(memory)
        self.address = memory.address

    def _layout(self, fields: Sequence[int | bytes | Pointer]) -> bytes:
        parts = []
        for field in fields:
            if isinstance(field, Pointer):
                self.pointed.append(self._place(field.data))
                parts.append(ULONG.pack(self.pointed[-1]))
            elif isinstance(field, int):
                parts.append(ULONG.pack(field))
            else:
                parts.append(field)
        return b"".join(parts)

    def _place(self, data: bytes | None) -> int:
        if not data:
            return 0
        memory = Memory(len(data))
        memory.write(0, data)
        self._kept.append(memory)
        return memory.address
