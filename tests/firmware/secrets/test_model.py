"""The store against a model of it: requests of all kinds, good and bad, disks that fill, restarts, new instances."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from keyvisor_firmware.secrets import (
    KeyCode,
    KeyRefused,
    KeyUse,
    Operation,
    StoreState,
    UvError,
    decode_state,
    encode_state,
)
from keyvisor_guest.wire.asrcb_layout import FLAG_BITS, Flag
from keyvisor_guest.wire.secret_ids import derive_extension_secret, id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind

from .conftest import VALUES

DISABLE_DUMP = FLAG_BITS[Flag.DISABLE_DUMP]
CCKS = (b"\xc0" * 32, b"\xcc" * 32)
FROM_CCK, UPDATE_ALLOWED = 1 << 62, 1 << 61
KEYS = frozenset(SecretKind) - {
    SecretKind.NULL,
    SecretKind.ASSOCIATION,
    SecretKind.PLAINTEXT,
    SecretKind.UPDATE_CCK,
}
LENGTHS = {16: 48, 24: 56, 32: 64, 48: 80, 64: 96, 80: 112, 128: 160}  # of a protected key; formats, C.3


@dataclass
class Model:
    """The plainest thing that could be the store: a few variables."""

    entries: list[tuple[SecretKind, str]] = field(default_factory=list)
    extension: bytes | None = None
    cck: bytes = CCKS[0]
    locked: bool = False
    dump_disabled: bool = False
    tags: list[bytes] = field(default_factory=list)

    def room(self, kind: SecretKind) -> bool:
        association = sum(held is SecretKind.ASSOCIATION for held, _ in self.entries)
        if kind is SecretKind.ASSOCIATION:
            return association < 2
        return kind in (SecretKind.NULL, SecretKind.UPDATE_CCK) or len(self.entries) - association < 3


class StoreModel(RuleBasedStateMachine):
    """The store beside its model."""

    guest = None  # the fixture; a state machine has no other way in

    kinds = st.sampled_from(SecretKind)
    names = st.sampled_from(["one", "two"])
    extensions = st.sampled_from(["zeros", "chosen", "first CCK", "second CCK"])
    cuids = st.sampled_from([bytes(16), bytes(16), b"\xc1" * 16, b"\xc2" * 16])
    damages = st.sampled_from([None, None, None, "tag", "short", "reserved"])

    def __init__(self) -> None:
        super().__init__()
        self.scf = 0
        self.disk_full = False
        self.blobs: dict[SecretKind, bytes] = {}
        self.foreign: dict[SecretKind, bytes] = {}
        self.begin()

    def begin(self) -> None:
        self.model = Model()
        self.written = encode_state(StoreState())
        self.start()

    def start(self) -> None:
        self.store = self.guest.store(
            state=decode_state(self.written),
            commit=self.commit,
            max_association_secrets=2,
            max_retrievable_secrets=3,
            max_requests=8,
            cck=CCKS[0],
            scf=self.scf,
        )

    def commit(self, state: StoreState) -> None:
        if self.disk_full:
            raise OSError("no space left")
        self.written = encode_state(state)

    def extension_bytes(self, which: str) -> bytes:
        tag = self.guest.identity.header_tag
        return {
            "zeros": bytes(32),
            "chosen": b"\xe1" * 32,
            "first CCK": derive_extension_secret(CCKS[0], tag),
            "second CCK": derive_extension_secret(CCKS[1], tag),
        }[which]

    def expected(self, kind: SecretKind, extension: bytes, cuid: bytes) -> int | None:
        model = self.model
        if model.locked:
            return 0x0102
        wanted = model.extension
        if self.scf & FROM_CCK:
            wanted = derive_extension_secret(model.cck, self.guest.identity.header_tag)
        if cuid == b"\xc2" * 16 or wanted not in (None, extension):
            return 0x010C
        if kind is SecretKind.UPDATE_CCK and not self.scf & UPDATE_ALLOWED:
            return 0x010C
        if len(model.tags) == 8 or not model.room(kind):
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

    @rule(kind=kinds, name=names, which=extensions, cuid=cuids, dump=st.booleans(), damage=damages)
    def add(
        self, kind: SecretKind, name: str, which: str, cuid: bytes, dump: bool, damage: str | None
    ) -> None:
        extension = self.extension_bytes(which)
        changes: dict = {"extension_secret": extension, "cuid": cuid, "flags": DISABLE_DUMP * dump}
        request = self.guest.kind_request(kind, name, **changes)
        expected = self.expected(kind, extension, cuid)
        if damage is not None:
            request, code = {
                "tag": (request[:-1] + bytes([request[-1] ^ 1]), 0x0108),
                "short": (request[:-1], 0x0105),
                "reserved": (self.guest.patched(request, {0x118: b"\x01"}), 0x010C),
            }[damage]
            expected = expected if expected == 0x0102 else code
        before = self.store.state
        outcome = self.outcome_of(lambda: self.store.add(request))
        assert outcome == self.with_disk(expected)
        if outcome is not None:
            assert self.store.state is before
            return
        model = self.model
        model.extension = extension
        model.dump_disabled |= dump
        model.tags.append(request[-16:])
        if kind is SecretKind.UPDATE_CCK:
            model.cck = VALUES[kind]
        elif kind is not SecretKind.NULL:
            model.entries.append((kind, name))

    @rule()
    def lock(self) -> None:
        outcome = self.outcome_of(self.store.lock)
        assert outcome == self.with_disk(0x0102 if self.model.locked else None)
        self.model.locked |= outcome is None

    @rule(index=st.integers(-1, 5))
    def retrieve(self, index: int) -> None:
        entries = self.model.entries
        kind = entries[index][0] if 0 <= index < len(entries) else None
        code = (
            0x010F
            if not entries
            else 0x0110
            if kind is None
            else 0x0111
            if kind is SecretKind.ASSOCIATION
            else None
        )
        if code is not None:
            with pytest.raises(UvError) as refused:
                self.store.retrieve(index)
            assert refused.value.rc == code
            return
        assert kind is not None
        value = self.store.retrieve(index).value
        if kind is SecretKind.PLAINTEXT:
            assert value == VALUES[kind]
            return
        assert len(value) == LENGTHS[len(VALUES[kind])]
        assert VALUES[kind].lstrip(b"\x00")[:8] not in value
        assert self.blobs.setdefault(kind, value) == value

    @rule(kind=st.sampled_from(sorted(KEYS)))
    def use(self, kind: SecretKind) -> None:
        """What was retrieved before is good as long as the instance is there, and not a moment longer."""
        operation = Operation.SIGN if kind > SecretKind.AES_XTS_256 else Operation.ENCRYPT
        if kind in self.foreign:
            with pytest.raises(KeyRefused) as refused:
                self.store.use(KeyUse(kind, self.foreign[kind], operation, b"data"))
            assert refused.value.code is KeyCode.OTHER_WRAPPING_KEY
        if kind in self.blobs:
            if operation is Operation.SIGN:
                assert self.store.use(KeyUse(kind, self.blobs[kind], operation, b"data"))
                return
            with pytest.raises(KeyRefused) as refused:
                self.store.use(KeyUse(kind, self.blobs[kind], operation, b"sixteen bytes it"))
            assert refused.value.code is KeyCode.PARAMETERS_WRONG  # so far it came, into the key

    @rule()
    def restart_the_firmware(self) -> None:
        self.start()

    @rule(scf=st.sampled_from([0, FROM_CCK, UPDATE_ALLOWED, FROM_CCK | UPDATE_ALLOWED]))
    def start_the_guest_again(self, scf: int) -> None:
        self.scf = scf
        self.foreign |= self.blobs
        self.blobs = {}
        self.begin()

    @rule()
    def fill_or_clear_the_disk(self) -> None:
        self.disk_full = not self.disk_full

    @invariant()
    def the_store_is_the_model(self) -> None:
        model, store = self.model, self.store
        assert [(entry.index, entry.kind, entry.id) for entry in store.list()] == [
            (place, kind, id_from_name(name)) for place, (kind, name) in enumerate(model.entries)
        ]
        for place, (kind, _) in enumerate(model.entries):
            if kind is SecretKind.ASSOCIATION:
                assert store.association_secret(place) == VALUES[kind]
        assert (store.locked, store.dump_disabled) == (model.locked, model.dump_disabled)
        assert store.state.extension_secret == model.extension
        assert (store.state.cck or CCKS[0]) == model.cck
        assert (store.state.wrapping_key is not None) == any(kind in KEYS for kind, _ in model.entries)
        lock = b"\x01" if model.locked else b"\x00"
        assert store.secret_store_hash() == hashlib.sha512(b"".join(model.tags) + lock).digest()
        assert self.written == encode_state(store.state)


def test_part3_the_store_does_what_its_model_does(guest):
    class Bound(StoreModel):
        pass

    Bound.guest = guest
    run_state_machine_as_test(
        Bound, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )
