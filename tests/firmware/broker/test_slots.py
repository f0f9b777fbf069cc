"""Steps 2 and 3 of the filter: every call, in every state of the HSM, in every mode of the card."""

from __future__ import annotations

import itertools

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Access, Call
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.slots import Grant
from keyvisor_firmware.broker.state_page import HsmState, word
from keyvisor_hsm.cryptoki import CKR

from .in_process import Bench, NoModule


@pytest.fixture(scope="module")
def store() -> KeyStore:
    return KeyStore(NoModule())  # type: ignore[arg-type]  # stands in for a partition


def expected(call: Call, state: HsmState, mode: str) -> CKR | None:
    """Why a call is refused; None if it passes."""
    if state is HsmState.UNBOUND:
        return CKR.TOKEN_NOT_PRESENT
    if call.access is not Access.SENSITIVE or state is HsmState.ASSOCIATED:
        return None
    if mode != "accel":
        return CKR.USER_NOT_LOGGED_IN
    return None if call.accelerator else CKR.FUNCTION_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("state", "mode"), list(itertools.product(HsmState, ("ep11", "accel", "cca", "", "ACCEL")))
)
def test_part2_T1_the_filter_as_a_matrix(state: HsmState, mode: str, store: KeyStore) -> None:
    bench = Bench(store, mode)
    bench.grant(state)
    for call in CALLS:
        why = expected(call, state, mode)
        if why is None:
            assert bench.slot.admit(call) is bench.slot.grant
            continue
        with pytest.raises(Refused) as refused:
            bench.slot.admit(call)
        assert refused.value.rv is why, call.name
        assert not isinstance(refused.value, Failed)  # so it is recorded
        assert refused.value.apqn == "03.0011"


@pytest.mark.parametrize("state", HsmState)
def test_a_token_is_present_while_the_hsm_is_bound(state: HsmState, store: KeyStore) -> None:
    bench = Bench(store)
    bench.grant(state)
    assert bench.slot.present() is (state is not HsmState.UNBOUND)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_grant_is_good_for_its_word_only(call: Call, store: KeyStore) -> None:
    """A later word of the same state is another grant: what was revoked meanwhile stays revoked."""
    bench = Bench(store)
    bench.grant(HsmState.ASSOCIATED)
    bench.words[0] = word(bench.epoch + 1, HsmState.ASSOCIATED)
    with pytest.raises(Refused) as refused:
        bench.slot.admit(call)
    assert refused.value.rv is CKR.TOKEN_NOT_PRESENT


def test_a_page_that_runs_ahead_of_the_gate_grants_nothing(store: KeyStore) -> None:
    bench = Bench(store)
    bench.words[0] = word(1, HsmState.ASSOCIATED)
    with pytest.raises(Refused):
        bench.slot.admit(CALLS[5])


def test_a_gate_that_runs_ahead_of_the_page_grants_nothing(store: KeyStore) -> None:
    bench = Bench(store)
    bench.slot.offer(Grant(word(1, HsmState.ASSOCIATED), 1, store))
    with pytest.raises(Refused):
        bench.slot.admit(CALLS[5])


@pytest.mark.parametrize("after", [HsmState.UNBOUND, HsmState.BOUND, HsmState.ASSOCIATED])
def test_part2_T8_an_answer_is_withheld_when_the_word_changed(after: HsmState, store: KeyStore) -> None:
    bench = Bench(store)
    bench.grant(HsmState.ASSOCIATED)
    grant = bench.slot.grant
    assert grant is not None
    bench.slot.confirm(grant)
    bench.words[0] = word(bench.epoch + 1, after)
    with pytest.raises(Refused) as refused:
        bench.slot.confirm(grant)
    assert refused.value.rv is CKR.DEVICE_REMOVED


def test_who_is_at_work_does_not_notice_that_the_hsm_is_associated(store: KeyStore) -> None:
    bench = Bench(store)
    bench.grant(HsmState.BOUND, binding=7)
    bound = bench.slot.grant
    assert bound is not None
    associated = Grant(word(9, HsmState.ASSOCIATED), 7, store)
    assert bench.slot.offer(associated) == ()
    assert bench.slot.admit(BY_NAME["C_GenerateRandom"]) is bound
    bench.words[0] = associated.word
    bench.slot.confirm(bound)
    assert bench.slot.admit(BY_NAME["C_GenerateRandom"]) is associated
    assert bench.slot.offer(None) == (bound,)


def test_a_grant_is_not_given_back_while_the_page_shows_it(store: KeyStore) -> None:
    bench = Bench(store)
    bench.grant(HsmState.ASSOCIATED)
    shown = bench.slot.grant
    assert bench.slot.offer(None) == ()
    assert bench.slot.grant is shown
