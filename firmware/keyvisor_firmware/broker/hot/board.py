"""What Python decides about a connection and its sessions, laid out so that the hot loop can read it (hot_loop.c).

These cells are the one place where that state is kept: the Python path works on the same ones, compiled half or not. Every
cell is eight bytes wide, in the order of the C structures. Knows no socket, no module and no policy.
"""

from __future__ import annotations

from array import array
from typing import Final

from keyvisor_firmware.broker.limits import DEFAULTS, Limits

SLOW_BODY: Final = 1 << 16  # bytes of a request from which on any call may take long

# struct ticket
(
    _HANDLE,
    _REAL,
    _WORD,
    _GRANTED,
    _ALLOWED,
    _ALLOWED_HIGH,
    _FUNCTIONS,
    _INSIDE,
    _BEGAN,
    _HEAVY,
    _MEMOS,
    _MASK,
) = range(12)
TICKET_CELLS: Final = 12
_LOW: Final = (1 << 64) - 1


class Ticket:
    """One session: what it has begun, whether a call is inside the module for it, and which calls may go there how.

    `granted` is the word of the state page under which `allowed` was decided, 0 where nothing was: no bound HSM has that
    word. The hot loop lets a call through only while the page shows `granted`.
    """

    __slots__ = ("_cells", "address")

    def __init__(self, handle: int) -> None:
        self._cells = array("Q", (handle, *(0,) * (TICKET_CELLS - 1)))
        self.address = self._cells.buffer_info()[0]

    @property
    def real(self) -> int:
        """The module's handle, 0 where it has none."""
        return self._cells[_REAL]

    @property
    def granted(self) -> int:
        """The word under which the calls were let through."""
        return self._cells[_GRANTED]

    @property
    def inside(self) -> bool:
        """A call is inside the module on the session's behalf."""
        return self._cells[_INSIDE] != 0

    @inside.setter
    def inside(self, value: bool) -> None:
        self._cells[_INSIDE] = value

    @property
    def began(self) -> int:
        """A bit for each operation that was begun and not seen to end (forward.py)."""
        return self._cells[_BEGAN]

    @began.setter
    def began(self, value: int) -> None:
        self._cells[_BEGAN] = value

    @property
    def heavy(self) -> bool:
        """What was begun with a private key takes long."""
        return self._cells[_HEAVY] != 0

    @heavy.setter
    def heavy(self, value: bool) -> None:
        self._cells[_HEAVY] = value

    def open(self, real: int) -> None:
        """The module has a session for it now."""
        self._cells[_REAL] = real

    def grant(self, word: int, word_address: int, allowed: int, functions: int) -> None:
        """Let the calls in the mask `allowed` through while the word at `word_address` is `word`.

        `functions`: address of the module's functions, by call.
        """
        cells = self._cells
        cells[_WORD], cells[_GRANTED], cells[_FUNCTIONS] = word_address, word, functions
        cells[_ALLOWED], cells[_ALLOWED_HIGH] = allowed & _LOW, allowed >> 64

    def close(self) -> None:
        """The module has no session for it any more: nothing is let through, nothing is begun."""
        cells = self._cells
        cells[_REAL] = cells[_GRANTED] = cells[_BEGAN] = cells[_HEAVY] = cells[_MEMOS] = cells[_MASK] = 0

    def remember_in(self, table: int, mask: int) -> None:
        """Where the session's memos are; 0 for nowhere."""
        self._cells[_MEMOS], self._cells[_MASK] = table, mask


# struct board
_CHANGES, _WAITING, _TICKETS, _COUNT = range(4)
BOARD_CELLS: Final = 9
_MAX_NS: Final = 1_000_000_000


class Board:
    """One connection: its sessions' tickets in the order of their handles, and how often a memo may have become wrong."""

    __slots__ = ("_cells", "_tickets", "address")

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._tickets = array("Q")
        bounds = (
            limits.output,
            limits.frame_options,
            limits.frame_body,
            SLOW_BODY,
            int(limits.frame_seconds * _MAX_NS),
        )
        self._cells = array("Q", (0, 0, 0, 0, *bounds))
        self.address = self._cells.buffer_info()[0]

    @property
    def changes(self) -> int:
        """Memos that were made at another count are no good."""
        return self._cells[_CHANGES]

    def change(self) -> None:
        """A handle, a login or a grant is not what it was: no memo of the connection is good any more."""
        self._cells[_CHANGES] += 1

    @property
    def waiting(self) -> int:
        """How many threads wait for something to change on the connection."""
        return self._cells[_WAITING]

    @waiting.setter
    def waiting(self, value: int) -> None:
        self._cells[_WAITING] = value

    def add(self, ticket: Ticket) -> None:
        """One more session. Its handle is the highest: handles are never used twice."""
        self._tickets.append(ticket.address)
        self._publish()

    def remove(self, ticket: Ticket) -> None:
        """A session less."""
        self._tickets.remove(ticket.address)
        self._publish()

    def _publish(self) -> None:
        self._cells[_TICKETS], self._cells[_COUNT] = self._tickets.buffer_info()
