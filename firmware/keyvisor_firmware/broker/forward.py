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
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.limits import MAX_OUTPUT
from keyvisor_firmware.broker.slots import Grant
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import Attribute, Mechanism, Memory, Template, Ulongs

EMPTY_POINTER: Final = 0xFFFFFFFF  # room of "a pointer, length 0" (pkcs11-rpc.md, 4.4)


class Output:
    """Room for bytes: a buffer and its length, both passed to the module."""

    def __init__(self, room: int) -> None:
        size = 0 if room in (0, EMPTY_POINTER) else min(room, MAX_OUTPUT)
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


_HANDLE_ROLES: Final[dict[Role, CKR]] = {
    Role.KEY: CKR.KEY_HANDLE_INVALID,
    Role.OBJECT: CKR.OBJECT_HANDLE_INVALID,
    Role.WRAPPING_KEY: CKR.WRAPPING_KEY_HANDLE_INVALID,
    Role.UNWRAPPING_KEY: CKR.UNWRAPPING_KEY_HANDLE_INVALID,
    Role.OPTIONAL_KEY: CKR.KEY_HANDLE_INVALID,
}

_Step = Callable[[Connection, Session, Grant, Any, _Native], None]


def _handle(role: Role) -> _Step:
    def step(connection: Connection, session: Session, grant: Grant, value: int, native: _Native) -> None:
        if value == 0 and role is Role.OPTIONAL_KEY:
            native.arguments.append(0)
            return
        native.arguments.append(connection.object(session, grant, value, _HANDLE_ROLES[role]).real)

    return step


def _number(_c: Connection, _s: Session, _g: Grant, value: int, native: _Native) -> None:
    native.arguments.append(value)


def _mechanism(_c: Connection, _s: Session, _g: Grant, value: Mechanism | None, native: _Native) -> None:
    if value is None:
        raise Failed(CKR.ARGUMENTS_BAD, "no mechanism is given")
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


def _data(_c: Connection, _s: Session, _g: Grant, value: bytes | None, native: _Native) -> None:
    if value is None:
        native.arguments += (0, 0)
        return
    memory = Memory(len(value))
    memory.write(0, value)
    native.kept.append(memory)
    native.arguments += (memory.address, memory.size)


def _room(_c: Connection, _s: Session, _g: Grant, value: int, native: _Native) -> None:
    native.output = Output(value)
    native.arguments += native.output.arguments


STEPS: Final[dict[Role, _Step]] = {
    **{role: _handle(role) for role in _HANDLE_ROLES},
    Role.NUMBER: _number,
    Role.MECHANISM: _mechanism,
    Role.TEMPLATE: _template,
    Role.DATA: _data,
    Role.ROOM: _room,
}


# What a call begins or ends, by its name.
_OPERATIONS: Final = ("Encrypt", "Decrypt", "Digest", "Sign", "SignRecover", "Verify", "VerifyRecover")
_BEGINS: Final = {f"C_{operation}Init": operation for operation in _OPERATIONS}
_ENDS: Final = {f"C_{operation}{how}": operation for operation in _OPERATIONS for how in ("", "Final")}


def asks_for_token_object(template: tuple[Attribute, ...]) -> bool:
    """Whether a template says CKA_TOKEN true."""
    return any(a.type == CKA.TOKEN and isinstance(a.value, bytes) and a.value != b"\0" for a in template)


def forward(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Do `call`, whose first argument is a session, in the module. The body of the reply. Raises Refused."""
    session, grant = connection.enter(call, values[0])
    native = _Native()
    for role, value in zip(call.roles[1:], values[1:], strict=True):
        STEPS[role](connection, session, grant, value, native)
    if call.reply in ("u", "uu"):
        return _make(connection, session, grant, call, native)
    if call.name in _BEGINS:
        session.began.add(_BEGINS[call.name])
    rv = connection.invoke(session, grant, call.name, *native.arguments)
    left = None if native.output is None else native.output.reply(rv)
    if rv == CKR.OK and not isinstance(left, Needed):
        session.began.discard(_ENDS.get(call.name, ""))
    if left is not None:
        return pack_reply(call, left)
    return pack_error(rv) if rv else pack_reply(call)


def _make(connection: Connection, session: Session, grant: Grant, call: Call, native: _Native) -> bytes:
    """Do a call that makes objects: as many as the reply has numbers. All of them can be named, or none is left."""
    made = [Ulongs(1) for _ in call.reply]
    try:
        rv = connection.invoke(session, grant, call.name, *native.arguments, *(one.address for one in made))
        if rv:
            return pack_error(rv)
        named = connection.adopt(session, grant, [one[0] for one in made])
    except Refused:
        connection.destroy(session, grant, [one[0] for one in made if one[0]])
        raise
    return pack_reply(call, *(one.handle for one in named))
