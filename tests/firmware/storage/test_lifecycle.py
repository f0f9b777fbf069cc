"""The tables of zone and guest: dense, without contradictions, and no way around a step."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import StorageRefused
from keyvisor_firmware.storage.lifecycle import (
    REFUSALS,
    TRANSITIONS,
    ZONE_REFUSALS,
    ZONE_TRANSITIONS,
    GuestCall,
    GuestState,
    ZoneCall,
    ZoneState,
    after,
    zone_after,
)
from keyvisor_firmware.storage.return_codes import StorageCode

EVERY = set(itertools.product(GuestState, GuestCall))
STEPS = {  # what a host does in its order, and the state it does it in
    GuestCall.FINISH: GuestState.UNFINISHED,
    GuestCall.SET_PARAMETERS: GuestState.CREATED,
    GuestCall.UNPACK: GuestState.PARAMETERS,
    GuestCall.VERIFY: GuestState.PARAMETERS,
    GuestCall.START: GuestState.VERIFIED,
}


def test_every_state_has_one_answer_to_every_call() -> None:
    assert set(TRANSITIONS) | set(REFUSALS) == EVERY
    assert not set(TRANSITIONS) & set(REFUSALS)
    zone = set(itertools.product(ZoneState, ZoneCall))
    assert set(ZONE_TRANSITIONS) | set(ZONE_REFUSALS) == zone
    assert not set(ZONE_TRANSITIONS) & set(ZONE_REFUSALS)


@pytest.mark.parametrize(("state", "call"), sorted(REFUSALS))
def test_part1_T3_a_call_out_of_order_is_refused_with_its_reason(state: GuestState, call: GuestCall) -> None:
    with pytest.raises(StorageRefused, match="`web`") as refused:
        after(state, call, "web", 1)
    assert refused.value.why is StorageCode.WRONG_STATE
    assert REFUSALS[state, call] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("call", "only"), STEPS.items())
def test_part1_T3_each_step_is_done_in_one_state_only(call: GuestCall, only: GuestState) -> None:
    assert [state for state in GuestState if (state, call) in TRANSITIONS] == [only]


def test_part1_T3_nothing_but_query_and_init_before_init() -> None:
    assert zone_after(ZoneState.UNINITIALISED, ZoneCall.QUERY) is ZoneState.UNINITIALISED
    with pytest.raises(StorageRefused) as refused:
        zone_after(ZoneState.UNINITIALISED, ZoneCall.GUEST)
    assert refused.value.code == 0x0003


def test_part1_T4_init_is_done_once() -> None:
    initialised = zone_after(ZoneState.UNINITIALISED, ZoneCall.INIT)
    assert zone_after(initialised, ZoneCall.GUEST) is initialised
    with pytest.raises(StorageRefused) as refused:
        zone_after(initialised, ZoneCall.INIT)
    assert refused.value.code == 0x0101


@pytest.mark.parametrize("state", GuestState)
def test_every_state_ends_by_destroying_the_guest_once_it_has_no_cpu(state: GuestState) -> None:
    assert after(state, GuestCall.DESTROY_GUEST, "web", 0) is None
    with pytest.raises(StorageRefused, match="`web` has 2") as refused:
        after(state, GuestCall.DESTROY_GUEST, "web", 2)
    assert refused.value.why is StorageCode.CPUS_LEFT
    assert after(state, GuestCall.DESTROY_CPU, "web", 1) is state


def test_an_unfinished_guest_can_only_be_destroyed() -> None:
    asked = set(GuestCall) - {GuestCall.FINISH, GuestCall.DESTROY_GUEST, GuestCall.DESTROY_CPU}
    assert {call for state, call in REFUSALS if state is GuestState.UNFINISHED} == asked


def test_no_guest_starts_without_a_cpu() -> None:
    with pytest.raises(StorageRefused, match="it has no CPU"):
        after(GuestState.VERIFIED, GuestCall.START, "web", 0)
    assert after(GuestState.VERIFIED, GuestCall.START, "web", 1) is GuestState.RUNNING


@given(st.lists(st.sampled_from(GuestCall)))
def test_no_sequence_of_calls_runs_a_guest_whose_steps_were_not_all_done(calls: list[GuestCall]) -> None:
    state: GuestState | None = GuestState.UNFINISHED
    done: list[GuestCall] = []
    for call in calls:
        if state is None:
            break
        try:
            state = after(state, call, "web", call is not GuestCall.DESTROY_GUEST)
        except StorageRefused:
            continue
        done.append(call)
    if state is GuestState.RUNNING:
        steps = [call for call in done if call in STEPS and call is not GuestCall.UNPACK]
        assert steps == [call for call in STEPS if call is not GuestCall.UNPACK]
        unpacked = [n for n, call in enumerate(done) if call is GuestCall.UNPACK]
        between = (done.index(GuestCall.SET_PARAMETERS), done.index(GuestCall.VERIFY))
        assert all(between[0] < n < between[1] for n in unpacked)
