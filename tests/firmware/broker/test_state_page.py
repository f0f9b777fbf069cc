"""The page of states: what the daemon writes is seen at once, and a gate can only read."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.state_page import (
    MAX_HSMS,
    PAGE,
    HsmState,
    StatePage,
    map_states,
    state_of,
    word,
)


@pytest.fixture
def page() -> Iterator[StatePage]:
    page = StatePage()
    yield page
    page.close()


@given(st.integers(0, 2**56 - 1), st.sampled_from(HsmState))
def test_a_word_holds_epoch_and_state(epoch: int, state: HsmState) -> None:
    value = word(epoch, state)
    assert value < 2**64
    assert (value >> 8, state_of(value)) == (epoch, state)


def test_an_untouched_word_is_unbound() -> None:
    assert state_of(0) is HsmState.UNBOUND


def test_what_is_set_is_seen_at_once(page: StatePage) -> None:
    words = map_states(page.descriptor)
    for index in (0, 1, MAX_HSMS - 1):
        page.set(index, word(7, HsmState.ASSOCIATED))
        assert words[index] == word(7, HsmState.ASSOCIATED)
    assert sum(1 for value in words if value) == 3
    words.release()


def test_there_is_a_word_for_every_hsm() -> None:
    assert MAX_HSMS * 8 <= PAGE


def test_a_gate_reads_and_cannot_write(page: StatePage) -> None:
    words = map_states(page.descriptor)
    with pytest.raises(TypeError, match="read-only"):
        words[0] = 1
    words.release()


def test_the_descriptor_that_a_gate_inherits_cannot_be_made_to_write(page: StatePage) -> None:
    """The state is the daemon's word; and a page that is cut short would end the daemon at its next write."""
    with pytest.raises(PermissionError):
        mmap.mmap(page.descriptor, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(page.descriptor, b"\2", 0)
    for size in (0, 2 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(page.descriptor, size)
    read_only = mmap.mmap(page.descriptor, PAGE, prot=mmap.PROT_READ)
    address = ctypes.cast(ctypes.create_string_buffer(1), ctypes.c_void_p)  # only to have ctypes loaded
    assert address
    read_only.close()
    page.set(0, 5)  # the daemon still can


def test_the_page_is_not_inherited_by_chance(page: StatePage) -> None:
    assert not os.get_inheritable(page.descriptor)
