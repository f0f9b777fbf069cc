"""What travels between an application and the broker, written down a second time and by other means than the broker's.

From p11-kit's own table (0.26.4) and the description of the protocol; nothing of the broker is imported. The Python
type of a value decides how it travels: bool one byte, int u64, bytes with their length, a tuple of numbers as a list
of mechanisms, a list of attributes as a nested template, None as an attribute without a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

# name: (id, signature of the request, signature of the reply)
PROTOCOL: Final[dict[str, tuple[int, str, str]]] = {
    "C_Initialize": (1, "ayyay", ""),
    "C_Finalize": (2, "", ""),
    "C_GetInfo": (3, "", "vsusv"),
    "C_GetSlotList": (4, "yfu", "au"),
    "C_GetSlotInfo": (5, "u", "ssuvv"),
    "C_GetTokenInfo": (6, "u", "ssssuuuuuuuuuuuvvs"),
    "C_GetMechanismList": (7, "ufu", "au"),
    "C_GetMechanismInfo": (8, "uu", "uuu"),
    "C_InitToken": (9, "uayz", ""),
    "C_OpenSession": (10, "uu", "u"),
    "C_CloseSession": (11, "u", ""),
    "C_CloseAllSessions": (12, "u", ""),
    "C_GetSessionInfo": (13, "u", "uuuu"),
    "C_InitPIN": (14, "uay", ""),
    "C_SetPIN": (15, "uayay", ""),
    "C_GetOperationState": (16, "ufy", "ay"),
    "C_SetOperationState": (17, "uayuu", ""),
    "C_Login": (18, "uuay", ""),
    "C_Logout": (19, "u", ""),
    "C_CreateObject": (20, "uaA", "u"),
    "C_CopyObject": (21, "uuaA", "u"),
    "C_DestroyObject": (22, "uu", ""),
    "C_GetObjectSize": (23, "uu", "u"),
    "C_GetAttributeValue": (24, "uufA", "aAu"),
    "C_SetAttributeValue": (25, "uuaA", ""),
    "C_FindObjectsInit": (26, "uaA", ""),
    "C_FindObjects": (27, "ufu", "au"),
    "C_FindObjectsFinal": (28, "u", ""),
    "C_EncryptInit": (29, "uMu", ""),
    "C_Encrypt": (30, "uayfy", "ay"),
    "C_EncryptUpdate": (31, "uayfy", "ay"),
    "C_EncryptFinal": (32, "ufy", "ay"),
    "C_DecryptInit": (33, "uMu", ""),
    "C_Decrypt": (34, "uayfy", "ay"),
    "C_DecryptUpdate": (35, "uayfy", "ay"),
    "C_DecryptFinal": (36, "ufy", "ay"),
    "C_DigestInit": (37, "uM", ""),
    "C_Digest": (38, "uayfy", "ay"),
    "C_DigestUpdate": (39, "uay", ""),
    "C_DigestKey": (40, "uu", ""),
    "C_DigestFinal": (41, "ufy", "ay"),
    "C_SignInit": (42, "uMu", ""),
    "C_Sign": (43, "uayfy", "ay"),
    "C_SignUpdate": (44, "uay", ""),
    "C_SignFinal": (45, "ufy", "ay"),
    "C_SignRecoverInit": (46, "uMu", ""),
    "C_SignRecover": (47, "uayfy", "ay"),
    "C_VerifyInit": (48, "uMu", ""),
    "C_Verify": (49, "uayay", ""),
    "C_VerifyUpdate": (50, "uay", ""),
    "C_VerifyFinal": (51, "uay", ""),
    "C_VerifyRecoverInit": (52, "uMu", ""),
    "C_VerifyRecover": (53, "uayfy", "ay"),
    "C_DigestEncryptUpdate": (54, "uayfy", "ay"),
    "C_DecryptDigestUpdate": (55, "uayfy", "ay"),
    "C_SignEncryptUpdate": (56, "uayfy", "ay"),
    "C_DecryptVerifyUpdate": (57, "uayfy", "ay"),
    "C_GenerateKey": (58, "uMaA", "u"),
    "C_GenerateKeyPair": (59, "uMaAaA", "uu"),
    "C_WrapKey": (60, "uMuufy", "ay"),
    "C_UnwrapKey": (61, "uMuayaA", "u"),
    "C_DeriveKey": (62, "uMuaA", "u"),
    "C_SeedRandom": (63, "uay", ""),
    "C_GenerateRandom": (64, "ufy", "ay"),
    "C_WaitForSlotEvent": (65, "u", "u"),
    "C_LoginUser": (66, "uuayay", ""),
    "C_SessionCancel": (67, "uu", ""),
    "C_MessageEncryptInit": (68, "uMu", ""),
    "C_EncryptMessage": (69, "uayayayfy", "ay"),
    "C_EncryptMessageBegin": (70, "uayay", ""),
    "C_EncryptMessageNext": (71, "uayayfyu", "ay"),
    "C_MessageEncryptFinal": (72, "u", ""),
    "C_MessageDecryptInit": (73, "uMu", ""),
    "C_DecryptMessage": (74, "uayayayfy", "ay"),
    "C_DecryptMessageBegin": (75, "uayay", ""),
    "C_DecryptMessageNext": (76, "uayayfyu", "ay"),
    "C_MessageDecryptFinal": (77, "u", ""),
    "C_MessageSignInit": (78, "uMu", ""),
    "C_SignMessage": (79, "uayayfy", "ay"),
    "C_SignMessageBegin": (80, "uay", ""),
    "C_SignMessageNext": (81, "uayayyfy", "ay"),
    "C_MessageSignFinal": (82, "u", ""),
    "C_MessageVerifyInit": (83, "uMu", ""),
    "C_VerifyMessage": (84, "uayayay", ""),
    "C_VerifyMessageBegin": (85, "uay", ""),
    "C_VerifyMessageNext": (86, "uayayay", ""),
    "C_MessageVerifyFinal": (87, "u", ""),
    "C_InitToken2": (88, "uays", ""),
    "C_DeriveKey2": (89, "uMuaA", "uPu"),
}

NULL: Final = 0xFFFFFFFF
HANDSHAKE: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"

Value = bool | int | bytes | tuple[int, ...] | list[Any] | None
Attributes = Sequence[tuple[int, Value]]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """`type` and, in wire form, its parameter: None for a type that has none. `present` is for clients from 0.25.6 on."""

    type: int
    parameter: bytes | None = None
    bare: bool = False  # nothing follows the type, as clients from 0.25.6 on write it


def split(signature: str) -> list[str]:
    """`uMayfy` -> u, M, ay, fy: `a` and `f` take the next letter along."""
    letters: Iterator[str] = iter(signature)
    return [letter + next(letters) if letter in "af" else letter for letter in letters]


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def sized(data: bytes | None) -> bytes:
    return u32(NULL) if data is None else u32(len(data)) + data


def attribute(type_: int, value: Value) -> bytes:
    """One attribute of `aA`."""
    if value is None:
        return u32(type_) + b"\0"
    if isinstance(value, bool):
        length, coded = 1, bytes((value,))
    elif isinstance(value, int):
        length, coded = 8, u64(value)
    elif isinstance(value, bytes):
        length, coded = len(value), sized(value)
    elif isinstance(value, tuple):
        length, coded = 8 * len(value), u32(len(value)) + b"".join(map(u64, value))
    else:
        length, coded = 24 * len(value), attributes(value)
    return u32(type_) + b"\1" + u32(length) + coded


def attributes(template: Attributes) -> bytes:
    return u32(len(template)) + b"".join(attribute(*one) for one in template)


def mechanism(value: Mechanism | None) -> bytes:
    if value is None:
        return u32(NULL)
    if value.bare:
        return u32(value.type)
    return u32(value.type) + (u32(NULL) if value.parameter is None else value.parameter)


def wanted(query: Sequence[tuple[int, Any]]) -> bytes:
    """`fA`: a list as room is that for a nested template, as clients from 0.25.4 on write it."""
    coded = u32(len(query))
    for type_, room in query:
        nested = isinstance(room, list)
        coded += u32(type_) + (u32(24 * len(room)) + wanted(room) if nested else u32(room))
    return coded


def _element(kind: str, value: Any) -> bytes:
    match kind:
        case "y":
            return bytes((value,))
        case "u":
            return u64(value)
        case "z" | "s":
            return sized(value)
        case "ay":
            return b"\0" + u32(0) if value is None else b"\1" + sized(value)
        case "fy" | "fu":
            return u32(value)
        case "aA":
            return attributes(value)
        case "fA":
            return wanted(value)
        case "M":
            return mechanism(value)
    raise AssertionError(f"no request has a `{kind}`")


def body(name: str, *values: Any) -> bytes:
    """The body of a request."""
    id_, request, _ = PROTOCOL[name]
    coded = [_element(kind, value) for kind, value in zip(split(request), values, strict=True)]
    return u32(id_) + sized(request.encode()) + b"".join(coded)


def frame(code: int, content: bytes, options: bytes = b"client") -> bytes:
    """A request as the client sends it: its name is in the options."""
    return struct.pack(">III", code, len(options), len(content)) + options + content


# --- replies


class Reader:
    """Takes a reply apart; what is left over is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, length: int) -> bytes:
        assert length <= len(self._data), "the reply is too short"
        taken, self._data = self._data[:length], self._data[length:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes | None:
        length = self.number(4)
        return None if length == NULL else self.take(length)

    def end(self) -> None:
        assert not self._data, f"{len(self._data)} bytes are left behind the reply"


# How values of these types come back; every other type comes as bytes. Numbers as in the PKCS#11 headers.
# fmt: off
_ONE_BYTE: Final = frozenset((
    0x1, 0x2, 0x86, *range(0x103, 0x10D), 0x162, 0x163, 0x164, 0x165, 0x170, 0x171, 0x200, 0x202, 0x210, 0x301, 0x302,
    0x405,
))
_NUMBER: Final = frozenset((
    0x0, 0x80, 0x87, 0x88, 0x100, 0x121, 0x133, 0x134, 0x160, 0x161, 0x166, 0x201, 0x300, 0x400, 0x401, 0x402, 0x403,
    0x404, 0x406, 0x500,
))
# fmt: on
_MECHANISMS: Final = frozenset((0x40000600,))
_TEMPLATES: Final = frozenset((0x40000211, 0x40000212, 0x40000213))


@dataclass(frozen=True, slots=True)
class Got:
    """One attribute of a reply; `length` None where it is marked as not there."""

    type: int
    length: int | None
    value: Any


def _read_attribute(reader: Reader) -> Got:
    type_, valid = reader.number(4), reader.number(1)
    if not valid:
        return Got(type_, None, None)
    length = reader.number(4)
    if type_ in _ONE_BYTE:
        return Got(type_, length, bool(reader.number(1)))
    if type_ in _NUMBER:
        return Got(type_, length, reader.number(8))
    if type_ in _MECHANISMS:
        return Got(type_, length, tuple(reader.number(8) for _ in range(reader.number(4))))
    if type_ in _TEMPLATES:
        return Got(type_, length, [_read_attribute(reader) for _ in range(reader.number(4))])
    return Got(type_, length, reader.sized())


@dataclass(frozen=True, slots=True)
class Needs:
    """A byte or number array that did not fit: so much room is needed."""

    size: int


def _read(kind: str, reader: Reader) -> Any:
    match kind:
        case "u":
            return reader.number(8)
        case "v":
            return reader.number(1), reader.number(1)
        case "s":
            return reader.sized()
        case "ay":
            return reader.sized() if reader.number(1) else Needs(reader.number(4))
        case "au":
            if reader.number(1):
                return [reader.number(8) for _ in range(reader.number(4))]
            return Needs(reader.number(4))
        case "aA":
            return [_read_attribute(reader) for _ in range(reader.number(4))]
        case "P":
            assert reader.number(1) == 0, "no parameter of these tests is updated"
            return None
    raise AssertionError(f"no reply has a `{kind}`")


class CallFailed(Exception):
    """The reply carries a CK_RV other than CKR_OK."""

    def __init__(self, rv: int) -> None:
        super().__init__(f"{rv:#x}")
        self.rv = rv


def read_reply(name: str, content: bytes) -> Any:
    """What a reply says: None, one value, or a tuple of them. Raises CallFailed."""
    id_, _, expected = PROTOCOL[name]
    reader = Reader(content)
    answered = reader.number(4)
    signature = (reader.sized() or b"").decode()
    if answered == 0:
        assert signature == "u"
        rv = reader.number(8)
        reader.end()
        assert rv != 0, "an error reply carries CKR_OK"
        raise CallFailed(rv)
    assert (answered, signature) == (id_, expected)
    values = tuple(_read(kind, reader) for kind in split(expected))
    reader.end()
    return values[0] if len(values) == 1 else values or None
