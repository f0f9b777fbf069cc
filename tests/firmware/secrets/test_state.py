"""The store's state as bytes, and the store against a model of it, with restarts in between."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keyvisor_firmware.secrets import (
    StateBroken,
    StoredSecret,
    StoreState,
    UvError,
    decode_state,
    encode_state,
)
from keyvisor_guest.wire.asrcb_layout import FLAG_BITS, Flag
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

DISABLE_DUMP = FLAG_BITS[Flag.DISABLE_DUMP]


def exactly(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


@st.composite
def stored(draw: st.DrawFn) -> StoredSecret:
    row = draw(st.sampled_from([row for row in KINDS.values() if row.listed]))
    length = draw(st.sampled_from(row.lengths))
    return StoredSecret(row.kind, draw(exactly(32)), draw(exactly(16)).ljust(length, b"\x01")[:length])


states = st.builds(
    StoreState,
    entries=st.lists(stored(), max_size=4).map(tuple),
    extension_secret=st.none() | exactly(32) | st.just(bytes(32)),
    locked=st.booleans(),
    dump_disabled=st.booleans(),
    request_tags=st.lists(exactly(16), max_size=6).map(tuple),
)


@given(state=states)
def test_a_state_comes_back(state):
    encoded = encode_state(state)
    decoded = decode_state(encoded)
    assert decoded == state
    assert encode_state(decoded) == encoded


@given(state=states, data=st.data())
def test_one_state_has_one_encoding(state, data):
    """Whatever is changed is refused, or is the encoding of another state."""
    encoded = bytearray(encode_state(state))
    offset = data.draw(st.integers(0, len(encoded) - 1))
    encoded[offset] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_state(bytes(encoded))
    except StateBroken:
        return
    assert decoded != state
    assert encode_state(decoded) == bytes(encoded)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(StateBroken):
        decode_state(data)


STATE = StoreState(
    (StoredSecret(SecretKind.ASSOCIATION, id_from_name("one"), b"\x5e" * 32),),
    b"\xe1" * 32,
    False,
    True,
    (bytes(16),),
)


def test_the_encoding_stays_what_it_is():
    """Golden: what one release has sealed, the next one must read."""
    assert hashlib.sha256(encode_state(STATE)).hexdigest() == (
        "2b4b23f1f916538bf3486e289190af6122047c1a43d5276716eaf5cbefa0d8ca"
    )
    assert encode_state(StoreState()).hex() == b"kvsecret".hex() + "00000001" + "00" * 44


def test_every_cut_and_every_addition_is_refused():
    encoded = encode_state(STATE)
    for length in range(len(encoded)):
        with pytest.raises(StateBroken):
            decode_state(encoded[:length])
    with pytest.raises(StateBroken, match="left over"):
        decode_state(encoded + b"\x00")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"K"),
        (8, b"\x00\x00\x00\x02"),
        (0x0C, b"\x00\x00\x00\x08"),
        (0x0C, b"\x00\x00\x00\x02"),  # an extension secret, and the flag says there is none
        (0x10, b"\xff\xff\xff\xff"),
        (0x14, b"\xff\xff\xff\xff"),
        (0x38, b"\x00\x01"),  # null: never an entry
        (0x38, b"\x00\x16"),  # update of the CCK: neither
        (0x38, b"\x00\x0b"),
        (0x3A, b"\x00\x01"),
        (0x3C, b"\x00\x00\x00\x10"),
    ],
)
def test_what_no_store_holds_is_refused(offset, value):
    encoded = encode_state(STATE)
    with pytest.raises(StateBroken):
        decode_state(encoded[:offset] + value + encoded[offset + len(value) :])


def test_secrets_are_in_no_repr_of_the_state():
    assert b"\x5e".hex() * 4 not in repr(STATE)
    assert "^^^^" not in repr(STATE)
    assert "\\xe1" not in repr(STATE)


class StoreModel(RuleBasedStateMachine):
    """The store beside the plainest thing that could be it: a few variables."""

    guest = None  # the fixture; a state machine has no other way in

    names = st.sampled_from(["one", "two", "three"])
    extensions = st.sampled_from([bytes(32), b"\xe1" * 32])
    cuids = st.sampled_from([bytes(16), b"\xc1" * 16, b"\xc2" * 16])

    def __init__(self) -> None:
        super().__init__()
        self.written = encode_state(StoreState())
        self.disk_full = False
        self.entries: list[tuple[str, bytes]] = []
        self.extension: bytes | None = None
        self.locked = self.dump_disabled = False
        self.tags: list[bytes] = []
        self.start()

    def start(self) -> None:
        self.store = self.guest.store(
            state=decode_state(self.written), commit=self.commit, max_association_secrets=3, max_requests=6
        )

    def commit(self, state: StoreState) -> None:
        if self.disk_full:
            raise OSError("no space left")
        self.written = encode_state(state)

    def expected(self, name: str | None, extension: bytes, cuid: bytes) -> int | None:
        if self.locked:
            return 0x0102
        if cuid == b"\xc2" * 16 or self.extension not in (None, extension):
            return 0x010C
        if len(self.tags) == 6 or (name is not None and len(self.entries) == 3):
            return 0x010B
        return None

    def with_disk(self, code: int | str | None) -> int | str | None:
        return "disk" if code is None and self.disk_full else code

    def outcome_of(self, call: Callable[[], object]) -> int | str | None:
        try:
            call()
        except UvError as error:
            return error.rc
        except OSError:
            return "disk"
        return None

    @rule(
        name=st.none() | names, extension=extensions, cuid=cuids, dump=st.booleans(), fill=st.integers(0, 9)
    )
    def add(self, name: str | None, extension: bytes, cuid: bytes, dump: bool, fill: int) -> None:
        changes: dict = {"extension_secret": extension, "cuid": cuid, "flags": DISABLE_DUMP * dump}
        secret = bytes([fill]) * 32
        request = self.guest.request(name, **changes, **({} if name is None else {"secret": secret}))
        outcome = self.outcome_of(lambda: self.store.add(request))
        assert outcome == self.with_disk(self.expected(name, extension, cuid))
        if outcome is not None:
            return
        self.extension = extension
        self.dump_disabled |= dump
        self.tags.append(request[-16:])
        if name is not None:
            self.entries.append((name, secret))

    @rule()
    def lock(self) -> None:
        outcome = self.outcome_of(self.store.lock)
        assert outcome == self.with_disk(0x0102 if self.locked else None)
        self.locked |= outcome is None

    @rule(index=st.integers(-1, 4))
    def retrieve(self, index: int) -> None:
        code = 0x010F if not self.entries else 0x0111 if 0 <= index < len(self.entries) else 0x0110
        with pytest.raises(UvError) as refused:
            self.store.retrieve(index)
        assert refused.value.rc == code

    @rule()
    def restart_the_firmware(self) -> None:
        self.start()

    @rule()
    @precondition(lambda self: len(self.tags) < 4)
    def fill_or_clear_the_disk(self) -> None:
        self.disk_full = not self.disk_full

    @invariant()
    def the_store_is_the_model(self) -> None:
        shown = [(entry.index, entry.id) for entry in self.store.list()]
        assert shown == [(place, id_from_name(name)) for place, (name, _) in enumerate(self.entries)]
        assert [self.store.association_secret(place) for place, _ in shown] == [
            value for _, value in self.entries
        ]
        assert (self.store.locked, self.store.dump_disabled) == (self.locked, self.dump_disabled)
        assert self.store.state.extension_secret == self.extension
        lock = b"\x01" if self.locked else b"\x00"
        assert self.store.secret_store_hash() == hashlib.sha512(b"".join(self.tags) + lock).digest()
        assert self.written == encode_state(self.store.state)


def test_part3_the_store_does_what_its_model_does(guest):
    class Bound(StoreModel):
        pass

    Bound.guest = guest
    run_state_machine_as_test(
        Bound, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
