"""What a planned guest needs: the sums, and what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest import SdkError
from keyvisor_guest.hosting.needs import MIB, Needs, missing, needs
from keyvisor_guest.wire.storage_messages import Ledger

from ..storage_story import QUERY, TIB

LEDGER = Ledger(size=TIB, initialised=True, secure=0, free=0, largest_free=0, held=[])


def test_a_guest_worked_out_by_hand() -> None:
    needed = needs(QUERY, 3 * MIB, 2)
    # Three times 1800h is 4800h: five pages, behind three.
    assert needed == Needs(
        zone=2 * MIB, base=0x8000, variable=0x3000 + 0x5000, cpus=0x4000, storage=0x300000, tables=0x2000
    )
    assert needed.total == 0x8000 + 0x8000 + 0x4000 + 0x300000 + 0x2000


@given(mib=st.integers(1, TIB // MIB), cpus=st.integers(1, 16), free=st.integers(0, TIB), ready=st.booleans())
def test_what_is_missing_would_make_it_fit(mib: int, cpus: int, free: int, *, ready: bool) -> None:
    needed = needs(QUERY, mib * MIB, cpus)
    ledger = LEDGER.model_copy(update={"free": free, "initialised": ready})
    short = missing(needed, ledger)
    wanted = needed.total + (0 if ready else needed.zone)
    assert (short == 0) == (free >= wanted)
    enough = ledger.model_copy(update={"free": free + short})
    assert missing(needed, enough) == 0
    if short:
        assert missing(needed, ledger.model_copy(update={"free": free + short - 1})) == 1


@pytest.mark.parametrize(
    ("memory", "cpus"), [(0, 1), (MIB + 4096, 1), (TIB + MIB, 1), (MIB, 0), (MIB, 17), (-MIB, 1)]
)
def test_guests_that_cannot_be(memory: int, cpus: int) -> None:
    with pytest.raises(SdkError):
        needs(QUERY, memory, cpus)
