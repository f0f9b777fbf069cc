"""Attributes of an object, asked of the module on the broker's own behalf: whole, however long they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyvisor_firmware.broker.attributes import ValueClass, value_class
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.native import ULONG, Query

_ROOMS: Final = {ValueClass.BYTE: 1, ValueClass.ULONG: ULONG.size}
_ROOM: Final = 1024  # bytes; what is longer is asked for once more


def read_attributes(keys: KeyStore, session: int, real: int, types: Sequence[int]) -> dict[int, bytes]:
    """The values in native form, by type; what the object has not, or the module keeps to itself, is left out.

    `session` is the module's. Nested templates are left out. One is asked for at a time: a module may stop at the first
    that it does not tell.
    """
    flat = [type_ for type_ in types if value_class(type_) is not ValueClass.ATTRIBUTES]
    found = {type_: _read(keys, session, real, type_) for type_ in flat}
    return {type_: value for type_, value in found.items() if value is not None}


def _read(keys: KeyStore, session: int, real: int, type_: int) -> bytes | None:
    rv, _, value = _ask(keys, session, real, type_, _ROOMS.get(value_class(type_), _ROOM))
    if rv == CKR.BUFFER_TOO_SMALL:
        _, length, _ = _ask(keys, session, real, type_, 0)
        rv, _, value = _ask(keys, session, real, type_, length or 0)
    return value if rv == CKR.OK else None


def _ask(
    keys: KeyStore, session: int, real: int, type_: int, room: int
) -> tuple[int, int | None, bytes | None]:
    query = Query([(type_, room)])
    rv = keys.call["C_GetAttributeValue"](session, real, query.address, query.count)
    length, value = query.answer(0)
    if length == 0:
        value = b""
    assert not isinstance(value, tuple)  # noqa: S101 - no nested template is asked for
    return rv, length, value
