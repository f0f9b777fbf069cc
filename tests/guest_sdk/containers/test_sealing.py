"""Runs sealed beside the caller: the same bytes in the same order as one after the other, and nothing is lost with an error."""

import hashlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers import sealing
from keyvisor_guest.containers.blocks import layer_blocks
from keyvisor_guest.containers.keys import VolumeKey, image_id
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.sealing import sealed_runs

KEY = VolumeKey(bytes(range(32)))


def cipher_of(kind):
    plan = LayerPlan(1, image_id(b"payments-service"), 0, 1 << 20, kind, (), (), bytes(32))
    return lambda: layer_blocks(KEY, plan, bytes(32))


def runs_of(counts):
    first = 0
    for number, count in enumerate(counts):
        yield first, hashlib.shake_256(str(number).encode()).digest(count * BLOCK)
        first += count


def taken(runs, make, few):
    """Each run is copied when it comes, and looked at again when the next one is asked for."""
    result = []
    for run in sealed_runs(runs, make, few=few):
        result.append((run.plain, bytes(run.stored), run.tags))
        assert bytes(run.stored) == result[-1][1]
    return result


@pytest.mark.parametrize("kind", Cipher)
@given(counts=st.lists(st.integers(1, 64), max_size=12))
@settings(max_examples=25, deadline=None)
def test_the_same_as_one_after_the_other(kind, counts):
    runs, blocks = list(runs_of(counts)), cipher_of(kind)()
    expected = []
    for first, plain in runs:
        stored, tags = blocks.seal(first, plain)
        expected.append((plain, bytes(stored), tags))
    for few in (True, False):
        assert taken(runs, cipher_of(kind), few) == expected


class Slow:
    """A cipher of one run's room that shows when it is used too soon."""

    def __init__(self):
        self.room = bytearray(BLOCK)

    def seal(self, first, plain):
        self.room[:] = bytes([first]) * BLOCK
        return memoryview(self.room), bytes([first])


def test_a_run_stays_as_it_is_until_the_next_is_asked_for():
    made = []

    def make():
        made.append(Slow())
        return made[-1]

    for number, run in enumerate(sealed_runs(((one, b"x") for one in range(50)), make, few=False)):
        assert bytes(run.stored) == bytes([number]) * BLOCK
        assert run.tags == bytes([number])
    assert len(made) == sealing._AHEAD


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_an_error_of_the_volume_or_of_the_cipher_comes_out(few, at):
    class Broken(Slow):
        def seal(self, first, plain):
            if first == at:
                raise OSError("no memory")
            return super().seal(first, plain)

    def broken_volume():
        for number in range(10):
            if number == at:
                raise OSError("the disk is gone")
            yield number, b"x"

    before = threading.active_count()
    with pytest.raises(OSError, match="no memory"):
        taken(((number, b"x") for number in range(10)), Broken, few)
    with pytest.raises(OSError, match="the disk is gone"):
        taken(broken_volume(), Slow, few)
    assert threading.active_count() == before


def test_who_stops_leaves_no_thread():
    before = threading.active_count()
    runs = sealed_runs(((number, b"x") for number in range(100)), Slow, few=False)
    next(runs)
    runs.close()
    assert threading.active_count() == before
