"""Both paths answer the same bytes alike, and ask the same of the module: sequences that are written down.

Arbitrary ones are in tests/fuzz/test_paths.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from keyvisor_firmware.broker.calls import BY_NAME
from keyvisor_firmware.broker.hot.tables import Shape, shape_of
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from ..encoder import NULL, CallFailed, Mechanism, Needs, body, sized, u64
from ..in_process import Bench
from .pair import Pair

ASSOCIATED, BOUND = HsmState.ASSOCIATED, HsmState.BOUND
HOT: Final = [call for call in BY_NAME.values() if shape_of(call) is not Shape.COLD_CALL]
ROOMS: Final = (64, 0, NULL, 1, DEFAULTS.output, DEFAULTS.output + 1)
DATA: Final = (bytes(16), None, b"", bytes(range(255)))
IVS: Final = (bytes(16), bytes(range(16)), b"\xff" * 16)


@pytest.fixture
def session(pair: Pair) -> int:
    return pair.session()


@pytest.fixture
def key(pair: Pair, session: int) -> int:
    return pair.made(session)


@pytest.mark.parametrize("call", HOT, ids=lambda call: call.name)
def test_a_call_that_was_let_through_is_the_loops(call: Any, pair: Pair, session: int, key: int) -> None:
    content = body(call.name, session, *pair.arguments(call.name, key))
    for _ in range(20):
        pair.hot(content)
    assert pair.by_loop.count(call.name) >= 20


@pytest.mark.parametrize("operation", ["Encrypt", "Decrypt", "Digest", "Sign", "Verify"])
@pytest.mark.parametrize("how", ["", "Update", "Final"])
def test_data_and_rooms_of_every_kind(operation: str, how: str, pair: Pair, session: int) -> None:
    name = f"C_{operation}{how}"
    content = body(name, session, *pair.arguments(name, 0))
    pair.hot(content)
    shape, before = shape_of(BY_NAME[name]), len(pair.by_loop)
    rooms = ROOMS if shape in (Shape.IN_OUT, Shape.OUT) else (None,)
    for data in DATA if shape is not Shape.OUT else (None,):
        for room in rooms:
            for more in DATA if shape is Shape.IN_IN else (None,):
                values = {
                    Shape.IN_OUT: (data, room),
                    Shape.OUT: (room,),
                    Shape.IN: (data,),
                    Shape.IN_IN: (data, more),
                }[shape]
                pair.call(name, session, *values)
    assert len(pair.by_loop) - before >= 4
    assert name not in pair.by_python


def test_an_array_that_is_not_there_has_a_length_or_all_ones(pair: Pair, session: int) -> None:
    """Three ways to say nothing (section 4.4): the length behind an absent array is skipped whatever it is."""
    prefix = body("C_DigestUpdate", session, b"")[:-5]
    pair.hot(body("C_DigestUpdate", session, b"data"))
    for nothing in (
        b"\0" + bytes(4),
        b"\0\0\0\0\7",
        b"\0\xff\xff\xff\xff",
        b"\1\xff\xff\xff\xff",
        b"\2\0\0\0\1x",
    ):
        before = len(pair.by_loop)
        pair.exchange(prefix + nothing)
        assert len(pair.by_loop) == before + 1


@pytest.mark.parametrize("call", HOT, ids=lambda call: call.name)
def test_what_is_not_whole_is_refused_alike(call: Any, pair: Pair, session: int, key: int) -> None:
    content = body(call.name, session, *pair.arguments(call.name, key))
    pair.hot(content)
    for wrong in (*(content[:cut] for cut in range(4, len(content))), content + b"\0", content + bytes(300)):
        pair.exchange(wrong)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x80 if place % 2 else 1
        pair.exchange(bytes(changed))


@pytest.mark.parametrize("size", [0, 1, 32, DEFAULTS.output, DEFAULTS.output + 1, NULL, NULL - 1])
def test_random_bytes_of_every_size(size: int, pair: Pair, session: int) -> None:
    pair.hot(body("C_GenerateRandom", session, 8))
    for _ in range(3):
        pair.call("C_GenerateRandom", session, size)


# --- what is remembered


def parameters(iv: bytes) -> dict[str, tuple[int, bytes]]:
    return {
        "CBC": (CKM.AES_CBC, sized(iv)),
        "CTR": (CKM.AES_CTR, u64(64) + sized(iv)),
        "GCM": (CKM.AES_GCM, sized(iv[:12]) + u64(96) + sized(b"more") + u64(128)),
        "GCM, long IV": (CKM.AES_GCM, sized(iv * 4) + u64(512) + sized(b"") + u64(128)),
        "GCM, no AAD": (CKM.AES_GCM, sized(iv) + u64(128) + sized(None) + u64(96)),
        "DES3": (CKM.DES3_CBC, sized(iv[:8])),
    }


@pytest.mark.parametrize("mechanism", parameters(b""))
@pytest.mark.parametrize("name", ["C_EncryptInit", "C_DecryptInit"])
def test_another_iv_is_the_same_request(
    name: str, mechanism: str, pair: Pair, session: int, key: int
) -> None:
    """The module gets the IV of this request and not the one before."""

    def begin(iv: bytes) -> bytes:
        return body(name, session, pair.mechanism(*parameters(iv)[mechanism]), key)

    pair.hot(begin(IVS[0]))
    before = len(pair.by_loop)
    for iv in IVS * 2:
        pair.exchange(begin(iv))
    assert len(pair.by_loop) == before + 2 * len(IVS)


def test_nothing_but_the_iv_may_differ(pair: Pair, session: int, key: int) -> None:
    other = pair.made(session)
    pair.hot(body("C_EncryptInit", session, pair.mechanism(*parameters(IVS[0])["GCM"]), key))
    before = len(pair.by_loop)
    for parameter in (
        sized(bytes(12)) + u64(96) + sized(b"less") + u64(128),
        sized(bytes(12)) + u64(88) + sized(b"more") + u64(128),
        sized(bytes(12)) + u64(96) + sized(b"more") + u64(120),
        sized(bytes(11)) + u64(96) + sized(b"more!") + u64(128),
    ):
        pair.call("C_EncryptInit", session, pair.mechanism(CKM.AES_GCM, parameter), key)
    pair.call("C_EncryptInit", session, pair.mechanism(*parameters(IVS[0])["GCM"]), other)
    pair.call("C_DecryptInit", session, pair.mechanism(*parameters(IVS[0])["GCM"]), key)
    assert len(pair.by_loop) == before


@pytest.mark.parametrize("room", [0, 1, 4, 8, 500, DEFAULTS.attribute_output + 1, NULL])
def test_attributes_of_every_class_and_room(room: int, pair: Pair, session: int, key: int) -> None:
    types = [CKA.LABEL, CKA.CLASS, CKA.SENSITIVE, CKA.TOKEN, CKA.VALUE_LEN, CKA.START_DATE, CKA.ID, CKA.VALUE]
    types += [0x80000000 | number for number in range(12)]
    content = body("C_GetAttributeValue", session, key, [(type_, room) for type_ in types])
    for _ in range(3):
        pair.hot(content)
    for type_ in types:
        pair.hot(body("C_GetAttributeValue", session, key, [(type_, room)]))


def test_a_nested_template_is_never_the_loops(pair: Pair, session: int, key: int) -> None:
    for wanted in ([], [(CKA.WRAP_TEMPLATE, 0)], [(CKA.ALLOWED_MECHANISMS, 64)]):
        before = len(pair.by_loop)
        for _ in range(3):
            pair.call("C_GetAttributeValue", session, key, wanted)
        assert len(pair.by_loop) == before


def test_a_value_that_is_read_again_is_the_modules_of_now(pair: Pair, session: int, key: int) -> None:
    content = body("C_GetAttributeValue", session, key, [(CKA.LABEL, 64)])
    for label in (b"one", b"another, and longer", b""):
        assert pair.call("C_SetAttributeValue", session, key, [(CKA.LABEL, label)]) is None
        said = pair.hot(content)
        assert label in said
    assert b"longer" not in pair.hot(content)


def test_a_null_mechanism_is_never_remembered(pair: Pair, session: int, key: int) -> None:
    """It ends what was begun: Python keeps count of that."""
    begin = body("C_SignInit", session, pair.mechanism(CKM.AES_ECB), key)
    for _ in range(3):
        pair.hot(begin)
        pair.call("C_SignInit", session, None, key)
    assert pair.by_loop.count("C_SignInit") == 3


def test_what_began_ends_alike(pair: Pair, session: int, key: int) -> None:
    """`began` of both sides is compared after each call."""
    begin = {name: body(f"C_{name}Init", session, *pair.arguments(f"C_{name}Init", key)) for name in
             ("Encrypt", "Decrypt", "Digest", "Sign", "Verify")}  # fmt: skip
    for name, content in begin.items():
        for end, values in (
            (f"C_{name}", (bytes(16), 0)),
            (f"C_{name}", (bytes(16), 1)),
            (f"C_{name}", (bytes(16), NULL)),
            (f"C_{name}", (bytes(16), 64)),
            (f"C_{name}Final", (0,)),
            (f"C_{name}Final", (64,)),
        ):
            for _ in range(4):
                pair.hot(content)
                given = (bytes(len(values)), *values[:-1], bytes(7))[-2:] if name == "Verify" else values
                pair.call(end, session, *(given[:1] if end == "C_VerifyFinal" else given))
    assert set(pair.by_loop) >= {f"C_{name}{how}" for name in begin for how in ("Init", "", "Final")}


@pytest.mark.parametrize("name", ["C_SignInit", "C_DecryptInit"])
def test_whether_it_takes_long_is_known_on_either_path(name: str, pair: Pair, session: int, key: int) -> None:
    """`heavy` of both sides is compared after each call."""
    quick, slow, other = (
        body(begin, session, pair.mechanism(type_), key)
        for begin, type_ in ((name, CKM.AES_ECB), (name, CKM.RSA_PKCS), ("C_VerifyInit", CKM.AES_ECB))
    )
    ticket = pair.compiled.applications[0].connection.handles.session(session).ticket
    for _ in range(3):
        for content, heavy in ((slow, True), (other, True), (quick, False), (other, False)):
            while pair.hot(content)[:4] == bytes(4):  # the fake module fails now and then
                pass
            assert ticket.heavy is heavy


def test_a_logout_ends_what_began_on_either_path(pair: Pair, session: int, key: int) -> None:
    for _ in range(4):
        pair.hot(body("C_EncryptInit", session, pair.mechanism(CKM.AES_ECB), key))
        pair.call("C_EncryptUpdate", session, bytes(16), 64)
        pair.call("C_Logout", session)
        assert isinstance(pair.call("C_EncryptUpdate", session, bytes(16), 64), bytes | CallFailed | Needs)
        pair.call("C_Login", session, 1, None)
        key = pair.made(session)


# --- an HSM that is taken away


CHANGES: Final[dict[str, Callable[[Bench], None]]] = {
    "unbound": Bench.revoke,
    "bound again": lambda bench: bench.grant(BOUND),
    "associated again": lambda bench: bench.grant(ASSOCIATED),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", HOT, ids=lambda call: call.name)
def test_taken_away_inside_the_module(
    call: Any, change: str, pairs: Callable[..., Pair], request: pytest.FixtureRequest
) -> None:
    if call.name == "C_GetSessionInfo":
        return  # nobody is inside the module for it
    pair = pairs()
    pair.grant(ASSOCIATED)
    session = pair.session()
    key = pair.made(session)
    content = body(call.name, session, *pair.arguments(call.name, key))
    pair.hot(content)
    pair.inside(call.name, CHANGES[change])
    before = len(pair.by_loop)
    assert pair.call(call.name, session, *pair.arguments(call.name, key)).rv == CKR.DEVICE_REMOVED
    assert pair.by_loop[before:] == [call.name]
    assert pair.call(call.name, session, *pair.arguments(call.name, key)).rv == CKR.SESSION_HANDLE_INVALID


@pytest.mark.parametrize(
    "name", ["C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestFinal", "C_GenerateRandom"]
)
def test_associated_inside_the_module_what_a_bound_one_may_do_was_done(
    name: str, pairs: Callable[..., Pair]
) -> None:
    pair = pairs()
    pair.grant(BOUND)
    session = pair.session(login=False)
    content = body(name, session, *pair.arguments(name, 0))
    pair.hot(content)
    pair.inside(name, associate)
    before = len(pair.by_loop)
    pair.exchange(content)
    assert pair.by_loop[before:] == [name]
    assert pair.python.bench.slot.grant.state is ASSOCIATED  # type: ignore[union-attr]
    pair.inside(name, None)
    pair.hot(content)


def associate(bench: Bench) -> None:
    grant = bench.slot.grant
    assert grant is not None
    bench.grant(ASSOCIATED, binding=grant.binding)


@pytest.mark.parametrize("mode", ["ep11", "accel"])
def test_bound_only_what_needs_no_key_is_the_loops(mode: str, pairs: Callable[..., Pair]) -> None:
    pair = pairs(mode=mode)
    pair.grant(BOUND)
    session = pair.session(login=False)
    pair.call("C_GenerateRandom", session, 8)
    for call in HOT:
        for _ in range(4):
            pair.call(call.name, session, *pair.arguments(call.name, 1))
    digests = {
        "C_Digest",
        "C_DigestUpdate",
        "C_DigestFinal",
        "C_DigestInit",
        "C_GenerateRandom",
        "C_GetSessionInfo",
    }
    assert set(pair.by_loop) & digests == digests
    if mode == "ep11":
        assert set(pair.by_loop) == digests


def test_small_limits(pairs: Callable[..., Pair]) -> None:
    pair = pairs(limits=Limits(output=32, attribute_output=8))
    pair.grant(ASSOCIATED)
    session = pair.session()
    key = pair.made(session)
    for room in (0, 8, 31, 32, 33, NULL):
        for name in ("C_GenerateRandom", "C_EncryptFinal", "C_SignFinal"):
            for _ in range(3):
                pair.call(name, session, room)
        for _ in range(3):
            pair.call("C_Encrypt", session, bytes(20), room)
            pair.call("C_GetAttributeValue", session, key, [(CKA.LABEL, room)] * 6)
    assert pair.by_loop


def test_mechanisms_that_cannot_be_read_are_never_the_loops(pair: Pair, session: int, key: int) -> None:
    pair.hot(body("C_EncryptInit", session, pair.mechanism(CKM.AES_CBC, sized(bytes(16))), key))
    before = len(pair.by_loop)
    for parameter in (sized(bytes(15)), sized(bytes(17)), sized(None), sized(b"")):
        pair.call("C_EncryptInit", session, pair.mechanism(CKM.AES_CBC, parameter), key)
    pair.call("C_EncryptInit", session, Mechanism(CKM.AES_GCM, b"\1"), key)
    assert len(pair.by_loop) == before
