"""Donations that were refused because their storage is not free: somebody else was faster, and other storage may do.

A host gives what the query says, aligned and inside of storage, so what is left of these codes' meanings is that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

from keyvisor_guest.errors import Refused

__all__ = ["NOT_FREE", "TRIES", "Donation", "giving"]

Donation = Literal["zone", "guest", "cpu"]

TRIES: Final = 3

# Return codes (uv) of init, create-guest and create-cpu; 0184 says of each that the storage is secure.
NOT_FREE: Final[Mapping[Donation, frozenset[int]]] = {
    "zone": frozenset({0x0184}),
    "guest": frozenset({0x0108, 0x0184, 0x0190}),
    "cpu": frozenset({0x0105, 0x0184}),
}

_Given = TypeVar("_Given")


def giving(donation: Donation, give: Callable[[], _Given], let_go: Callable[[], object]) -> _Given:
    """What `give` gives; where its storage is not free, let go and give other storage, three times at most."""
    for _ in range(TRIES - 1):
        try:
            return give()
        except Refused as refused:
            if refused.kind != "uv" or refused.code not in NOT_FREE[donation]:
                raise
        let_go()
    return give()
