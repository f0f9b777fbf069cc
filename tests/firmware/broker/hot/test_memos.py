"""What is remembered of a request ends with whatever it was decided by; both paths say so, and nothing reaches the module.

Each test first makes the hot loop answer the request, so that there is something to remember.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import pytest

from keyvisor_firmware.broker.calls import BY_ID
from keyvisor_firmware.broker.codec import read_id
from keyvisor_firmware.broker.hot.memos import Memos
from keyvisor_firmware.broker.hot.tables import MEMO_CALLS
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from ..encoder import body, sized
from ..in_process import SLOT_ID
from .pair import Pair

ASSOCIATED, BOUND, UNBOUND = HsmState.ASSOCIATED, HsmState.BOUND, HsmState.UNBOUND
INITS: Final = sorted(name for name in MEMO_CALLS if name.endswith("Init"))
WITH_KEY: Final = sorted(set(INITS) - {"C_DigestInit"})
USES_NO_KEY: Final = {
    "C_OpenSession",
    "C_CloseSession",
    "C_GetAttributeValue",
}  # the last asks whose an object is


def _unbound(pair: Pair) -> None:
    pair.revoke()


def _bound_again(pair: Pair) -> None:
    pair.grant(UNBOUND)
    pair.grant(BOUND)


def _associated_again(pair: Pair) -> None:
    pair.grant(UNBOUND)
    pair.grant(ASSOCIATED)


def _associated_with_another_secret(pair: Pair) -> None:
    pair.grant(UNBOUND)
    pair.other_keys()
    pair.grant(ASSOCIATED)


TAKEN_AWAY: Final = {
    "unbound": _unbound,
    "bound again": _bound_again,
    "associated again": _associated_again,
    "associated with another secret": _associated_with_another_secret,
}


@pytest.fixture
def session(pair: Pair) -> int:
    return pair.session()


@pytest.fixture
def key(pair: Pair, session: int) -> int:
    return pair.made(session, private=True)


def refused(pair: Pair, content: bytes, rv: CKR) -> None:
    """The loop leaves the request to Python, which refuses it; the module does not get to see it."""
    made, before = pair.compiled.bench.calls.made, len(pair.by_loop)
    made.clear()
    reply = pair.exchange(content)
    assert isinstance(reply, bytes)
    assert (reply[:4], int.from_bytes(reply[-8:], "big")) == (bytes(4), rv)
    assert len(pair.by_loop) == before
    assert set(made) <= USES_NO_KEY - {BY_ID[read_id(content)].name}


# --- an HSM that is taken away


@pytest.mark.parametrize("how", TAKEN_AWAY)
@pytest.mark.parametrize("name", sorted(MEMO_CALLS))
def test_part2_T8_what_is_remembered_ends_with_the_binding(
    name: str, how: str, pair: Pair, session: int, key: int
) -> None:
    content = pair.request(name, session, key)
    pair.hot(content)
    TAKEN_AWAY[how](pair)
    refused(pair, content, CKR.SESSION_HANDLE_INVALID)
    refused(pair, content, CKR.SESSION_HANDLE_INVALID)


@pytest.mark.parametrize("how", TAKEN_AWAY)
def test_part2_T8_a_revocation_between_init_and_sign(how: str, pair: Pair, session: int, key: int) -> None:
    sign = pair.request("C_Sign", session)
    pair.hot(pair.request("C_SignInit", session, key))
    pair.hot(sign)
    pair.hot(pair.request("C_SignInit", session, key))
    TAKEN_AWAY[how](pair)
    refused(pair, sign, CKR.SESSION_HANDLE_INVALID)


def test_part2_T8_a_data_call_between_two_revocations(pair: Pair, session: int, key: int) -> None:
    for _ in range(3):
        sign = pair.request("C_SignUpdate", session)
        pair.hot(pair.request("C_SignInit", session, key))
        pair.hot(sign)
        pair.revoke()
        refused(pair, sign, CKR.SESSION_HANDLE_INVALID)
        pair.grant(ASSOCIATED)
        refused(pair, sign, CKR.SESSION_HANDLE_INVALID)
        session = pair.session()
        key = pair.made(session)


@pytest.mark.parametrize("how", ["associated again", "associated with another secret"])
@pytest.mark.parametrize("name", [*WITH_KEY, "C_GetAttributeValue"])
def test_a_key_of_before_is_unknown_to_a_session_of_now(
    name: str, how: str, pair: Pair, session: int, key: int
) -> None:
    pair.hot(pair.request(name, session, key))
    TAKEN_AWAY[how](pair)
    fresh = pair.session()
    rv = CKR.OBJECT_HANDLE_INVALID if name == "C_GetAttributeValue" else CKR.KEY_HANDLE_INVALID
    refused(pair, pair.request(name, fresh, key), rv)
    number = pair.made(fresh)
    pair.hot(pair.request(name, fresh, number))


@pytest.mark.parametrize("name", ["C_DigestInit", "C_GetSessionInfo"])
def test_what_was_remembered_while_bound_is_asked_anew_once_associated(
    name: str, pairs: Callable[..., Pair]
) -> None:
    pair = pairs()
    pair.grant(BOUND)
    session = pair.session(login=False)
    content = pair.request(name, session)
    pair.hot(content)
    pair.associate_bound()
    before = pair.by_python.count(name)
    pair.exchange(content)
    assert pair.by_python.count(name) == before + 1
    pair.hot(content)


# --- logins


@pytest.mark.parametrize("name", WITH_KEY)
def test_after_a_logout_a_private_key_is_unknown(name: str, pair: Pair, session: int, key: int) -> None:
    content = pair.request(name, session, key)
    pair.hot(content)
    pair.call("C_Logout", session)
    refused(pair, content, CKR.KEY_HANDLE_INVALID)
    pair.call("C_Login", session, 1, None)
    refused(pair, content, CKR.KEY_HANDLE_INVALID)


def test_after_a_logout_a_private_object_tells_nothing(pair: Pair, session: int, key: int) -> None:
    content = pair.request("C_GetAttributeValue", session, key)
    pair.hot(content)
    pair.call("C_Logout", session)
    refused(pair, content, CKR.OBJECT_HANDLE_INVALID)


def test_a_logout_through_another_session_counts(pair: Pair, session: int, key: int) -> None:
    content = pair.request("C_SignInit", session, key)
    other = pair.session(login=False)
    pair.hot(content)
    pair.call("C_Logout", other)
    refused(pair, content, CKR.KEY_HANDLE_INVALID)


def test_the_end_of_the_last_session_is_a_logout(pair: Pair, session: int, key: int) -> None:
    pair.hot(pair.request("C_SignInit", session, key))
    pair.call("C_CloseSession", session)
    fresh = pair.session(login=False)
    refused(pair, pair.request("C_SignInit", fresh, key), CKR.KEY_HANDLE_INVALID)


def test_a_session_tells_who_is_logged_in_now(pair: Pair) -> None:
    session = pair.session(login=False)
    content = body("C_GetSessionInfo", session)

    def told() -> int:
        return int.from_bytes(pair.hot(content)[-24:-16], "big")

    pair.call("C_GenerateRandom", session, 8)
    for _ in range(3):
        assert told() == 2
        pair.call("C_Login", session, 1, None)
        assert told() == 3
        pair.call("C_Logout", session)


def test_after_another_login_it_is_asked_anew(pair: Pair, session: int) -> None:
    """Whoever logs in may see other objects."""
    pair.call("C_Logout", session)
    public = pair.made(session)
    content = pair.request("C_SignInit", session, public)
    pair.hot(content)
    before = pair.by_python.count("C_SignInit")
    pair.call("C_Login", session, 1, None)
    pair.exchange(content)
    assert pair.by_python.count("C_SignInit") == before + 1
    pair.hot(content)


# --- objects


@pytest.mark.parametrize("name", [*WITH_KEY, "C_GetAttributeValue"])
def test_after_the_object_was_destroyed(name: str, pair: Pair, session: int, key: int) -> None:
    content = pair.request(name, session, key)
    pair.hot(content)
    assert pair.call("C_DestroyObject", session, key) is None
    refused(
        pair, content, CKR.OBJECT_HANDLE_INVALID if name == "C_GetAttributeValue" else CKR.KEY_HANDLE_INVALID
    )


def test_after_another_object_was_destroyed_it_is_asked_anew(pair: Pair, session: int, key: int) -> None:
    other = pair.made(session)
    content = pair.request("C_SignInit", session, key)
    pair.hot(content)
    assert pair.call("C_DestroyObject", session, other) is None
    before = pair.by_python.count("C_SignInit")
    pair.exchange(content)
    assert pair.by_python.count("C_SignInit") == before + 1


def test_what_another_application_destroyed_is_the_modules_to_refuse(pair: Pair, session: int) -> None:
    """A memo passes on the module's number of the object, as Python does."""
    theirs = pair.session(which=1)
    template = [(CKA.TOKEN, True), (CKA.PRIVATE, False)]
    while not isinstance(number := pair.call("C_CreateObject", theirs, template, which=1), int):
        pass
    found: list[int] = []
    while not found:
        pair.call("C_FindObjectsInit", session, [])
        found = pair.call("C_FindObjects", session, 10)
    content = pair.request("C_GetAttributeValue", session, found[0])
    pair.hot(content)
    assert pair.call("C_DestroyObject", theirs, number, which=1) is None
    pair.hot(content)
    assert pair.call("C_GetAttributeValue", session, found[0], [(CKA.LABEL, 64), (CKA.CLASS, 8)]).rv == (
        CKR.OBJECT_HANDLE_INVALID
    )


def test_after_an_attribute_was_set_the_module_is_asked(pair: Pair, session: int, key: int) -> None:
    begin, read = pair.request("C_SignInit", session, key), pair.request("C_GetAttributeValue", session, key)
    pair.hot(begin)
    pair.hot(read)
    assert pair.call("C_SetAttributeValue", session, key, [(CKA.LABEL, b"renamed")]) is None
    calls = pair.compiled.bench.calls.made
    calls.clear()
    assert b"renamed" in pair.hot(read)
    pair.hot(begin)
    assert {"C_GetAttributeValue", "C_SignInit"} <= set(calls)


def test_no_value_stays_behind_in_a_memo(pair: Pair, session: int, key: int) -> None:
    assert pair.call("C_SetAttributeValue", session, key, [(CKA.LABEL, b"of a key")]) is None
    assert b"of a key" in pair.hot(pair.request("C_GetAttributeValue", session, key))
    memos: Any = pair.compiled.applications[0].connection.handles.session(session).memos
    ((memo, _),) = memos._known.values()
    _, query, *_ = memo._kept
    assert query._rooms[0].read() == bytes(64)


# --- sessions


@pytest.mark.parametrize("name", sorted(MEMO_CALLS))
def test_after_the_session_was_closed_and_another_opened(
    name: str, pair: Pair, session: int, key: int
) -> None:
    pair.session(login=False)  # keeps the login
    pair.call("C_CloseSession", session)
    session = pair.session(login=False)
    key = pair.made(session)
    content = pair.request(name, session, key)
    pair.hot(content)
    pair.call("C_CloseSession", session)
    fresh = pair.session(login=False)
    refused(pair, content, CKR.SESSION_HANDLE_INVALID)
    number = pair.made(fresh)
    before = pair.by_python.count(name)
    pair.exchange(pair.request(name, fresh, number))
    assert pair.by_python.count(name) == before + 1


@pytest.mark.parametrize("name", sorted(MEMO_CALLS))
def test_a_memo_of_one_session_never_serves_another(name: str, pair: Pair, session: int, key: int) -> None:
    other = pair.session(login=False)
    pair.call("C_GenerateRandom", other, 8)  # it is open in the module
    pair.hot(pair.request(name, session, key))
    before = pair.by_python.count(name)
    pair.exchange(pair.request(name, other, key))
    assert pair.by_python.count(name) == before + 1


@pytest.mark.parametrize("name", [*WITH_KEY, "C_GetAttributeValue"])
def test_a_memo_of_one_application_never_serves_another(
    name: str, pair: Pair, session: int, key: int
) -> None:
    """The same bytes: the other one's first session has the same number."""
    assert pair.session(which=1) == session
    content = pair.request(name, session, key)
    pair.hot(content)
    theirs = pair.compiled.applications[1].by_loop
    reply = pair.exchange(content, 1)
    rv = CKR.OBJECT_HANDLE_INVALID if name == "C_GetAttributeValue" else CKR.KEY_HANDLE_INVALID
    assert isinstance(reply, bytes)
    assert int.from_bytes(reply[-8:], "big") == rv
    assert theirs == []


def test_a_session_on_another_hsm_is_another(pair: Pair, session: int, key: int) -> None:
    for side in pair.sides:
        spare = side.bench.add_slot(0x50011, 1)
        side.bench.grant(ASSOCIATED, spare)
        side.applications[0].connection.slots.update(side.bench.slots)
    elsewhere = pair.call("C_OpenSession", 0x50011, 6)
    pair.call("C_Login", elsewhere, 1, None)
    pair.hot(pair.request("C_SignInit", session, key))
    refused(pair, pair.request("C_SignInit", elsewhere, key), CKR.KEY_HANDLE_INVALID)
    assert pair.call("C_GetSessionInfo", elsewhere)[0] == 0x50011
    assert pair.call("C_GetSessionInfo", session)[0] == SLOT_ID


# --- the table of memos


def test_many_memos_of_one_session(pair: Pair, session: int, key: int) -> None:
    contents = [
        body("C_GetAttributeValue", session, key, [(0x80000000 | number, 8)]) for number in range(200)
    ]
    for content in contents:
        pair.exchange(content)
    before = len(pair.by_python)
    for content in contents:
        pair.exchange(content)
    assert pair.by_python[before:] == []


def test_past_the_most_memos_they_start_anew(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.grant(ASSOCIATED)
    session = pair.session()
    key = pair.made(session)
    memos: Any = pair.compiled.applications[0].connection.handles.session(session).memos
    counts = []
    for number in range(1100):
        pair.compiled.exchange(0, body("C_GetAttributeValue", session, key, [(0x80000000 | number, 8)]))
        counts.append(len(memos._known))
    assert max(counts) == 1024
    assert counts[-1] == 1100 - 1024
    pair.compiled.module.seen.clear()
    pair.python.module._count = pair.compiled.module._count  # the other side was not asked
    pair.hot(pair.request("C_SignInit", session, key))


def test_memos_of_before_a_change_are_let_go(pair: Pair, session: int, key: int) -> None:
    memos: Any = pair.compiled.applications[0].connection.handles.session(session).memos
    for number in range(40):
        pair.hot(body("C_GetAttributeValue", session, key, [(CKA.LABEL, 100 + number)]))
    assert len(memos._known) == 40
    other = pair.made(session)
    while pair.call("C_DestroyObject", session, other) is not None:
        pass
    pair.hot(pair.request("C_SignInit", session, key))
    assert len(memos._known) == 1


def test_a_memo_is_made_once_for_all_ivs(pair: Pair, session: int, key: int) -> None:
    memos: Any = pair.compiled.applications[0].connection.handles.session(session).memos
    for number in range(30):
        iv = sized(number.to_bytes(16, "big"))
        pair.call("C_EncryptInit", session, pair.mechanism(CKM.AES_CBC, iv), key)
    assert len(memos._known) == 1


def test_a_memo_is_not_made_of_what_failed(pair: Pair, session: int, key: int) -> None:
    memos: Any = pair.compiled.applications[0].connection.handles.session(session).memos
    pair.call("C_SignInit", session, pair.mechanism(CKM.AES_ECB), key + 77)
    pair.call("C_GetAttributeValue", session, key + 77, [(CKA.LABEL, 8)])
    assert memos._known == {}


def test_a_memo_is_not_made_of_what_changed_meanwhile(pair: Pair, session: int, key: int) -> None:
    """A destroyed object, a login: whatever happens while the module works counts against what was decided before."""
    content = pair.request("C_GetAttributeValue", session, key)
    boards = {id(side.bench): side.applications[0].connection.handles.board for side in pair.sides}
    pair.inside("C_GetAttributeValue", lambda bench: boards[id(bench)].change())
    for _ in range(3):
        pair.exchange(content)
    assert "C_GetAttributeValue" not in pair.by_loop
    pair.inside("C_GetAttributeValue", None)
    pair.hot(content)


def test_a_new_table_is_empty() -> None:
    assert list(itertools.chain(Memos()._known, Memos()._table)) == []
