"""The boot identity as a value: its lengths, and its bytes on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Truncated


def test_its_lengths_are_held():
    good = (bytes(64), bytes(64), bytes(64), bytes(16))
    assert len(BootIdentity(*good).encode()) == 208
    for place in range(4):
        for value in (good[place][:-1], good[place] + b"\x00", "x" * len(good[place])):
            with pytest.raises(ValueError, match="of a boot identity is"):
                BootIdentity(*(value if n == place else part for n, part in enumerate(good)))


@given(data=st.binary(min_size=208, max_size=208))
def test_it_comes_back_from_the_wire(data):
    cursor = Cursor(data)
    assert BootIdentity.read(cursor).encode() == data
    cursor.end()
    with pytest.raises(Truncated):
        BootIdentity.read(Cursor(data[:-1]))
