"""One connection's numbers: used once, good on one HSM and in one partition, bounded."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.handles import Handles, ObjectHandle, Session
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.slots import Grant, Slot
from keyvisor_hsm.cryptoki import CKR

from .in_process import Bench, NoModule


def a_store() -> KeyStore:
    return KeyStore(NoModule())  # type: ignore[arg-type]  # stands in for a partition


def granted(store: KeyStore, binding: int = 1) -> Grant:
    return Grant(binding << 8 | 2, binding, store)


class HandlesAgainstAShadow(RuleBasedStateMachine):
    """Two HSMs, two partitions, a plain dictionary beside."""

    sessions: Bundle[Session] = Bundle("sessions")
    objects: Bundle[ObjectHandle] = Bundle("objects")

    def __init__(self) -> None:
        super().__init__()
        self.handles = Handles()
        self.stores = (a_store(), a_store())
        bench = Bench(self.stores[0])
        self.slots = (bench.slot, bench.add_slot(0x50011, 1))
        self.given: list[int] = []
        self.live: dict[int, object] = {}

    def note(self, handle: int, what: object) -> None:
        assert handle not in self.given
        assert handle > max(self.given, default=0)
        self.given.append(handle)
        self.live[handle] = what

    @rule(target=sessions, slot=st.integers(0, 1))
    def open_session(self, slot: int) -> Session:
        session = self.handles.add_session(self.slots[slot], 6, 1)
        self.note(session.handle, session)
        return session

    @rule(session=consumes(sessions))
    def close_session(self, session: Session) -> None:
        self.handles.remove_session(session)
        del self.live[session.handle]

    @rule(target=objects, slot=st.integers(0, 1), store=st.integers(0, 1), real=st.integers(1, 5))
    def name(self, slot: int, store: int, real: int) -> ObjectHandle:
        named = self.handles.name_object(self.slots[slot], granted(self.stores[store]), real)
        assert (named.slot, named.keys, named.real) == (self.slots[slot], self.stores[store], real)
        if named.handle in self.live:
            assert self.live[named.handle] is named
            return multiple()  # type: ignore[return-value]  # hypothesis's way to say: nothing new
        self.note(named.handle, named)
        return named

    @rule(named=consumes(objects))
    def forget(self, named: ObjectHandle) -> None:
        self.handles.remove_object(named)
        del self.live[named.handle]

    @invariant()
    def only_what_lives_is_known(self) -> None:
        for number in range(max(self.given, default=0) + 2):
            what = self.live.get(number)
            for slot in self.slots:
                for store in self.stores:
                    self.look_up(number, slot, store, what)
            if isinstance(what, Session):
                assert self.handles.session(number) is what
            else:
                with pytest.raises(Failed) as failed:
                    self.handles.session(number)
                assert failed.value.rv is CKR.SESSION_HANDLE_INVALID

    def look_up(self, number: int, slot: Slot, store: KeyStore, what: object) -> None:
        with pytest.raises(Failed):
            self.handles.object(number, slot, granted(store, binding=2), CKR.KEY_HANDLE_INVALID)
        grant = granted(store)
        if isinstance(what, ObjectHandle) and what.slot is slot and what.keys is store:
            assert self.handles.object(number, slot, grant, CKR.KEY_HANDLE_INVALID) is what
            return
        with pytest.raises(Failed) as failed:
            self.handles.object(number, slot, grant, CKR.KEY_HANDLE_INVALID)
        assert failed.value.rv is CKR.KEY_HANDLE_INVALID


TestHandlesAgainstAShadow = HandlesAgainstAShadow.TestCase
TestHandlesAgainstAShadow.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_name_stays_the_same_while_it_lives() -> None:
    handles, store = Handles(), a_store()
    slot = Bench(store).slot
    assert handles.name_object(slot, granted(store), 7) is handles.name_object(slot, granted(store), 7)


def test_an_old_partitions_name_goes_without_the_new_ones() -> None:
    """The same number of the module in two partitions: the clearing up of the old one must not unname the new."""
    handles, old, new = Handles(), a_store(), a_store()
    slot = Bench(old).slot
    before, after = handles.name_object(slot, granted(old), 7), handles.name_object(slot, granted(new), 7)
    handles.remove_object(before)
    assert handles.name_object(slot, granted(new), 7) is after


def test_a_name_of_an_earlier_binding_means_nothing() -> None:
    """The same keys again, before what was known of them is cleared up."""
    handles, store = Handles(), a_store()
    slot = Bench(store).slot
    before = handles.name_object(slot, granted(store), 7)
    now = granted(store, binding=2)
    with pytest.raises(Failed, match="no such object"):
        handles.object(before.handle, slot, now, CKR.KEY_HANDLE_INVALID)
    after = handles.name_object(slot, now, 7)
    assert after is not before
    handles.remove_object(before)
    assert handles.object(after.handle, slot, now, CKR.KEY_HANDLE_INVALID) is after


def test_sessions_are_bounded() -> None:
    handles, slot = Handles(Limits(sessions=3)), Bench(a_store()).slot
    opened = [handles.add_session(slot, 6, 1) for _ in range(3)]
    with pytest.raises(Failed, match="3 sessions are open") as failed:
        handles.add_session(slot, 6, 1)
    assert failed.value.rv is CKR.SESSION_COUNT
    handles.remove_session(opened[0])
    handles.add_session(slot, 6, 1)


def test_objects_are_bounded() -> None:
    handles, store = Handles(Limits(objects=3)), a_store()
    slot = Bench(store).slot
    named = [handles.name_object(slot, granted(store), real) for real in range(1, 4)]
    with pytest.raises(Failed, match="3 object handles") as failed:
        handles.name_object(slot, granted(store), 4)
    assert failed.value.rv is CKR.HOST_MEMORY
    assert handles.name_object(slot, granted(store), 1) is named[0]  # one that has a number needs no other
    handles.remove_object(named[0])
    handles.name_object(slot, granted(store), 4)
