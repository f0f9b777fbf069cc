"""Templates in templates, both ways, with the real module (pkcs11-rpc, 4.2 and 4.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.attributes import read_query
from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import DEFAULTS
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import CRYPTO, Guest, slot_of
from .encoder import Got, Mechanism, u32, wanted
from .peer import Peer

SLOT = slot_of(CRYPTO)
INNER = [(CKA.ENCRYPT, True), (CKA.KEY_TYPE, 0x1F), (CKA.LABEL, b"inner")]
WRAP, UNWRAP = int(CKA.WRAP_TEMPLATE), int(CKA.UNWRAP_TEMPLATE)


@pytest.fixture(params=[1, 2])
def newer(request: pytest.FixtureRequest, shared: Guest) -> Iterator[Peer]:
    """A client that may know nested templates."""
    with Peer(shared.keeper.door, request.param) as peer:
        yield peer


def wrapping_key(peer: Peer, session: int) -> int:
    """A key that says what may be wrapped with it."""
    made = Mechanism(CKM.AES_KEY_GEN, bare=peer.version == 2)
    template = [(CKA.VALUE_LEN, 32), (CKA.WRAP, True), (CKA.WRAP_TEMPLATE, INNER)]
    key = peer.call("C_GenerateKey", session, made, template)
    assert isinstance(key, int)
    return key


def test_rule_4_2_a_nested_template_is_stored_and_read_back_in_two_steps(newer: Peer) -> None:
    session = newer.session(SLOT, login=True)
    key = wrapping_key(newer, session)
    answers, rv = newer.call("C_GetAttributeValue", session, key, [(WRAP, 0), (CKA.KEY_TYPE, 8)])
    assert rv == CKR.OK
    assert answers == [Got(WRAP, 24 * 3, []), Got(CKA.KEY_TYPE, 8, 0x1F)]
    [sized], rv = newer.call("C_GetAttributeValue", session, key, [(WRAP, [(0, 0)] * 3)])
    assert rv == CKR.OK
    assert {(one.type, one.length) for one in sized.value} == {
        (CKA.ENCRYPT, 1),
        (CKA.KEY_TYPE, 8),
        (CKA.LABEL, 5),
    }
    rooms = [(one.type, one.length) for one in sized.value]
    [read], rv = newer.call("C_GetAttributeValue", session, key, [(WRAP, rooms)])
    assert rv == CKR.OK
    assert (read.type, read.length) == (WRAP, 72)
    assert {(one.type, one.value) for one in read.value} == {(type_, value) for type_, value in INNER}


def test_rule_4_2_too_few_attributes_are_too_little_room(newer: Peer) -> None:
    session = newer.session(SLOT, login=True)
    key = wrapping_key(newer, session)
    answers, rv = newer.call("C_GetAttributeValue", session, key, [(WRAP, [(0, 0)]), (CKA.KEY_TYPE, 8)])
    assert rv != CKR.OK
    assert [got.type for got in answers] == [WRAP, CKA.KEY_TYPE]
    assert newer.attribute(session, key, CKA.KEY_TYPE) == 0x1F


@pytest.mark.parametrize("version", [0, 1, 2])
def test_rule_4_2_who_has_room_and_writes_no_list_is_told_that_there_is_none(
    version: int, shared: Guest
) -> None:
    """0.24 and 0.25.0 to 0.25.3 would take such a reply for a broken one: the other attributes come through."""
    with Peer(shared.keeper.door, version) as peer:
        session = peer.session(SLOT, login=True)
        key = wrapping_key(peer, session)
        answers, rv = peer.call("C_GetAttributeValue", session, key, [(WRAP, 72), (CKA.KEY_TYPE, 8)])
        assert rv == CKR.ATTRIBUTE_TYPE_INVALID
        assert answers == [Got(WRAP, None, None), Got(CKA.KEY_TYPE, 8, 0x1F)]


def test_rule_4_2_a_client_of_0_24_is_told_no_size_either(shared: Guest) -> None:
    with Peer(shared.keeper.door, 0) as peer:
        session = peer.session(SLOT, login=True)
        key = wrapping_key(peer, session)
        answers, rv = peer.call("C_GetAttributeValue", session, key, [(WRAP, 0), (UNWRAP, 0)])
        assert rv == CKR.ATTRIBUTE_TYPE_INVALID
        assert answers == [Got(WRAP, None, None), Got(UNWRAP, None, None)]


# --- parsing


def test_the_length_tells_whether_lists_follow() -> None:
    flat = u32(2) + u32(WRAP) + u32(48) + u32(CKA.LABEL) + u32(9)
    assert read_query(Cursor(flat)) == ((WRAP, None), (CKA.LABEL, 9))
    nested = wanted([(WRAP, [(CKA.LABEL, 5), (UNWRAP, [(CKA.ID, 3)])]), (CKA.LABEL, 9)])
    assert read_query(Cursor(nested)) == ((WRAP, ((CKA.LABEL, 5), (UNWRAP, ((CKA.ID, 3),)))), (CKA.LABEL, 9))
    empty = u32(1) + u32(WRAP) + u32(24) + u32(0)
    assert read_query(Cursor(empty)) == ((WRAP, ()),)
    assert read_query(Cursor(flat), nesting=False) == ((WRAP, None), (CKA.LABEL, 9))


def test_a_query_nests_to_a_bound() -> None:
    level = u32(1) + u32(WRAP) + u32(24)
    with pytest.raises(ProtocolError, match="deeper than"):
        read_query(Cursor(level * 100_000))
    assert read_query(Cursor(level * DEFAULTS.nesting + u32(0)))


def test_attributes_of_nested_queries_count_against_the_same_bound() -> None:
    wide = u32(9) + (u32(WRAP) + u32(24) + u32(60) + struct.pack(">II", 3, 0) * 60) * 9
    with pytest.raises(ProtocolError, match="more than"):
        read_query(Cursor(wide))


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_a_query_or_no_protocol(data: bytes, nesting: bool) -> None:
    for count in range(4):
        cursor = Cursor(u32(count) + data)
        try:
            read_query(cursor, nesting)
            cursor.end()
        except ProtocolError:
            pass
