"""The calls that pass through as they are: arguments to native form by their roles, one call of the module, the reply.

Which argument is what stands in the calls table; here stands what to do with each role.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from keyvisor_firmware.broker.calls import Call, Role
from keyvisor_firmware.broker.codec import Needed, pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.control_points import HANDLE_CODES, require_made_allowed
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.guard.admitting import admit, keep
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.operations import BEGINS, ENDS
from keyvisor_firmware.broker.slots import Grant
from keyvisor_firmware.broker.slow_calls import BEGIN_WITH_PRIVATE_KEY, HEAVY
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import Attribute, Mechanism, Memory, Template, Ulongs

EMPTY_POINTER: Final = 0xFFFFFFFF  # room of "a pointer, length 0" (pkcs11-rpc.md, 4.4)


class Output:
    """Room for bytes, `most` of them: a buffer and its length, both passed to the module."""

    def __init__(self, room: int, most: int) -> None:
        size = 0 if room in (0, EMPTY_POINTER) else min(room, most)
        self._memory = None if room == 0 else Memory(size)
        self._length = Ulongs(1, size)

    @property
    def arguments(self) -> tuple[int, int]:
        """Address of the buffer (NULL for a size query) and of its length."""
        return (0 if self._memory is None else self._memory.address), self._length.address

    def reply(self, rv: int) -> bytes | Needed | None:
        """What the module left: bytes, or how much it needs; None where `rv` says that there is nothing."""
        if rv == CKR.BUFFER_TOO_SMALL or (rv == CKR.OK and self._memory is None):
            return Needed(self._length[0] & 0xFFFFFFFF)
        if rv != CKR.OK or self._memory is None:
            return None
        return self._memory.read(0, min(self._length[0], self._memory.size))


@dataclass(slots=True)
class _Native:
    """One call's arguments in native form, and what keeps their memory."""

    arguments: list[int] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)
    output: Output | None = None
    cancels: bool = False  # the mechanism is a NULL pointer, which ends what was begun
    wanted: bool = True  # whether a result is, where a call says so


_Step = Callable[[Connection, Session, Grant, Any, _Native], None]


def _handle(role: Role) -> _Step:
    def step(connection: Connection, session: Session, grant: Grant, value: int, native: _Native) -> None:
        if native.cancels or (value == 0 and role is Role.OPTIONAL_KEY):
            native.arguments.append(0)
            return
        native.arguments.append(connection.object(session, grant, value, HANDLE_CODES[role]).real)

    return step


def _number(_c: Connection, _s: Session, _g: Grant, value: int, native: _Native) -> None:
    native.arguments.append(value)


def _mechanism(_c: Connection, _s: Session, _g: Grant, value: Mechanism | None, native: _Native) -> None:
    if value is None:
        native.cancels = True
        native.arguments.append(0)
        return
    native.kept.append(value)
    native.arguments.append(value.address)


def _template(
    _c: Connection, session: Session, grant: Grant, value: tuple[Attribute, ...], native: _Native
) -> None:
    if grant.state is not HsmState.ASSOCIATED and asks_for_token_object(value):
        apqn = session.slot.description.apqn
        raise Refused(CKR.TOKEN_WRITE_PROTECTED, f"the accelerator {apqn} keeps no objects", apqn)
    template = Template(value)
    native.kept.append(template)
    native.arguments += (template.address, template.count)


def _message_parameter(
    connection: Connection, session: Session, grant: Grant, value: bytes | None, native: _Native
) -> None:
    if value:
        raise Failed(
            CKR.MECHANISM_PARAM_INVALID,
            "a message's parameter travels as a structure, with the client's pointers",
        )
    _data(connection, session, grant, value, native)


def _wanted(_c: Connection, _s: Session, _g: Grant, value: int, native: _Native) -> None:
    native.wanted = bool(value)


def _data(_c: Connection, _s: Session, _g: Grant, value: bytes | None, native: _Native) -> None:
    if value is None:
        native.arguments += (0, 0)
        return
    memory = Memory(len(value))
    memory.write(0, value)
    native.kept.append(memory)
    native.arguments += (memory.address, memory.size)


def _room(connection: Connection, _s: Session, _g: Grant, value: int, native: _Native) -> None:
    if not native.wanted:
        native.arguments += (0, 0)
        return
    native.output = Output(value, connection.limits.output)
    native.arguments += native.output.arguments


STEPS: Final[dict[Role, _Step]] = {
    **{role: _handle(role) for role in HANDLE_CODES},
    Role.NUMBER: _number,
    Role.MECHANISM: _mechanism,
    Role.TEMPLATE: _template,
    Role.DATA: _data,
    Role.ROOM: _room,
    Role.MESSAGE_PARAMETER: _message_parameter,
    Role.WANTED: _wanted,
}


_FIRST_OF_3_0: Final = "C_SessionCancel"  # a module that has it knows PKCS#11 3.0


def asks_for_token_object(template: tuple[Attribute, ...]) -> bool:
    """Whether a template says CKA_TOKEN true."""
    return any(a.type == CKA.TOKEN and isinstance(a.value, bytes) and a.value != b"\0" for a in template)


def forward(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Do `call`, whose first argument is a session, in the module. The body of the reply. Raises Refused."""
    session, grant = connection.enter(call, values)
    admitted = admit(connection, session, grant, call, values)
    values = admitted.values
    native = _in_native_form(connection, session, grant, call, values)
    if call.reply in ("u", "uu"):
        return _make(connection, session, grant, call, values, native)
    ticket = session.ticket
    begins = 0 if native.cancels else BEGINS.get(call.name, 0)
    anew = begins & ~ticket.began
    ticket.began |= begins  # before it has: a logout may come while the module works
    rv = connection.invoke(session, grant, call.name, *native.arguments)
    if rv:
        ticket.began &= ~anew
    elif begins and call.name in BEGIN_WITH_PRIVATE_KEY:
        ticket.heavy = values[1].type in HEAVY
    left = None if native.output is None else native.output.reply(rv)
    if rv == CKR.OK and not isinstance(left, Needed):
        ticket.began &= ~(BEGINS[call.name] if native.cancels else ENDS.get(call.name, 0))
    if left is not None:
        keep(session, grant, values, admitted, left)
        return pack_reply(call, left)
    if rv == CKR.OK and call.reply == "ay":
        return pack_reply(call, b"")
    return pack_error(rv) if rv else pack_reply(call)


def derive_and_update(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """C_DeriveKey2: C_DeriveKey in the module; the reply tells its CK_RV, the updated parameter, the key."""
    session, grant = connection.enter(call, values)
    values = admit(connection, session, grant, call, values).values
    native = _in_native_form(connection, session, grant, call, values)
    made = _made(connection, session, grant, call, values, native, 1)
    if isinstance(made, int):
        return pack_error(made)
    return pack_reply(call, CKR.OK, None, *made)


def _in_native_form(
    connection: Connection, session: Session, grant: Grant, call: Call, values: tuple[Any, ...]
) -> _Native:
    native = _Native()
    for role, value in zip(call.roles[1:], values[1:], strict=True):
        STEPS[role](connection, session, grant, value, native)
    # A NULL mechanism is an error before 3.0, and some modules of that time follow it.
    if native.cancels and (call.name not in BEGINS or _FIRST_OF_3_0 not in grant.keys.call):
        raise Failed(CKR.ARGUMENTS_BAD, "no mechanism is given")
    return native


def _make(
    connection: Connection,
    session: Session,
    grant: Grant,
    call: Call,
    values: tuple[Any, ...],
    native: _Native,
) -> bytes:
    """Do a call that makes as many objects as the reply has numbers."""
    made = _made(connection, session, grant, call, values, native, len(call.reply))
    return pack_error(made) if isinstance(made, int) else pack_reply(call, *made)


# What the module calls a call that differs by how its reply travels alone.
_IN_THE_MODULE: Final = {"C_DeriveKey2": "C_DeriveKey"}


def _made(
    connection: Connection,
    session: Session,
    grant: Grant,
    call: Call,
    values: tuple[Any, ...],
    native: _Native,
    count: int,
) -> int | list[int]:
    """The handles of the objects that the module made, or its CK_RV. All of them may be had and named, or none is left."""
    name = _IN_THE_MODULE.get(call.name, call.name)
    made = [Ulongs(1) for _ in range(count)]
    with grant.keys.room.reserved(count, connection.limits.partition_objects):
        try:
            rv = connection.invoke(session, grant, name, *native.arguments, *(one.address for one in made))
            if rv:
                return rv
            require_made_allowed(connection, session, grant, call, values, [one[0] for one in made])
            named = connection.adopt(session, grant, [one[0] for one in made])
        except Refused:
            connection.destroy(session, grant, [one[0] for one in made if one[0]])
            raise
    return [one.handle for one in named]
