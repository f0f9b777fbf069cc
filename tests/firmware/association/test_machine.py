"""The tables of the state machine: dense, without contradictions, and what a person was told."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.association.machine import (
    OUTCOMES,
    REFUSALS,
    TRANSITIONS,
    Command,
    Outcome,
    State,
    after,
)
from keyvisor_firmware.association.responses import TEXTS, ApCode
from keyvisor_firmware.errors import ApError

EVERY = set(itertools.product(State, Command))


def test_every_state_has_one_answer_to_every_command() -> None:
    assert set(TRANSITIONS) | set(REFUSALS) == EVERY
    assert not set(TRANSITIONS) & set(REFUSALS)
    assert set(OUTCOMES) == set(Outcome)


def test_every_code_has_a_text() -> None:
    assert set(TEXTS) == set(ApCode)


@pytest.mark.parametrize(("state", "command"), sorted(EVERY))
def test_what_is_refused_is_refused_with_its_code_and_names_the_hsm(state: State, command: Command) -> None:
    if (state, command) in TRANSITIONS:
        assert after(state, command, "03.0011") is TRANSITIONS[state, command]
        return
    with pytest.raises(ApError, match=r"03\.0011") as refused:
        after(state, command, "03.0011")
    assert refused.value.code is REFUSALS[state, command][0]
    assert f"AP response code {refused.value.code:02x}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unbinding_leads_out_of_every_state_but_unbound() -> None:
    assert {s for s in State if TRANSITIONS.get((s, Command.UNBIND)) is State.UNBOUND} == set(State) - {
        State.UNBOUND
    }


def test_part2_T11_a_failure_repeats_its_code_until_unbind() -> None:
    for command in (Command.BIND, Command.ASSOCIATE):
        assert REFUSALS[State.FAILED, command][0] is ApCode.ASSOCIATION_FAILED


@given(st.lists(st.one_of(st.sampled_from(Command), st.sampled_from(Outcome))))
def test_nothing_is_associated_without_bind_and_associate_since_the_last_unbind(
    events: list[Command | Outcome],
) -> None:
    """Invariant I4, on the tables alone."""
    state = State.UNBOUND
    since: list[Command | Outcome] = []
    for event in events:
        if isinstance(event, Outcome):
            if state is State.PENDING:
                state = OUTCOMES[event]
                since.append(event)
            continue
        try:
            state = after(state, event, "03.0011")
        except ApError:
            continue
        since = [] if event is Command.UNBIND else [*since, event]
    if state is State.ASSOCIATED:
        assert since == [Command.BIND, Command.ASSOCIATE, Outcome.OPENED]
