"""Step 4 of the filter: what the guest's policy lets an HSM be asked (architecture.md, section 5; policy.md, section 3).

Every session's call comes here after its slot let it through and before the module sees it; a call that made objects
comes again with them, so that what a template leaves out is judged by what the module made of it. `ControlPoints`
decides; here is told what it decides about, and what its refusal is on the wire. Knows no policy file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from keyvisor_firmware.broker.attributes import ValueClass, value_class
from keyvisor_firmware.broker.calls import CALLS, Call, Role
from keyvisor_firmware.broker.errors import Because, Refused
from keyvisor_firmware.broker.read_attributes import read_attributes
from keyvisor_hsm.cryptoki import CKA, CKK, CKM, CKO, CKR
from keyvisor_hsm.cryptoki.flags import FUNCTIONS_OF_MECHANISMS
from keyvisor_hsm.cryptoki.native import ULONG, Attribute, Mechanism
from keyvisor_policy.control_points import (
    NO_CONTROL_POINTS,
    TELL_SIZES,
    ControlPoints,
    Decision,
    Template,
    Value,
    with_sizes,
)

if TYPE_CHECKING:
    from keyvisor_firmware.broker.connection import Connection
    from keyvisor_firmware.broker.handles import Session
    from keyvisor_firmware.broker.slots import Grant

CODES: Final = {
    "mechanism": CKR.MECHANISM_INVALID,
    "template": CKR.TEMPLATE_INCONSISTENT,
    "use": CKR.KEY_FUNCTION_NOT_PERMITTED,
}
"""The kind of a decision -> its code (architecture.md, section 5, 4)."""


@dataclass(frozen=True, slots=True)
class Control:
    """The control points of the guest's policy, and the association rule that an HSM is held through, if any."""

    points: ControlPoints = field(default=NO_CONTROL_POINTS, repr=False)
    rule: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Control) and self._same() == other._same()

    def __hash__(self) -> int:
        return hash(self._same())

    def _same(self) -> tuple[bytes, str | None]:
        return self.points.digest, self.rule

    def decide(
        self,
        call: str,
        mechanism: int | None = None,
        template: Template | None = None,
        key: Template | None = None,
    ) -> Decision:
        """What the points say about a call on this HSM."""
        return self.points.decide(call, mechanism, template, key, self.rule)


NOT_THERE: Final = "(not there)"
"""What is told of an attribute that was looked at and was not there."""

UNCONTROLLED: Final = Control()

_KEY_ROLES: Final = (Role.KEY, Role.OBJECT, Role.WRAPPING_KEY, Role.UNWRAPPING_KEY, Role.OPTIONAL_KEY)
_DECIDED_ROLES: Final = frozenset((Role.MECHANISM, Role.TEMPLATE, *_KEY_ROLES))

# The object that a template changes or copies: what it leaves out is as it is there.
_CHANGES_OBJECT: Final = frozenset(("C_SetAttributeValue", "C_CopyObject"))

_HALVES: Final = (CKO.PUBLIC_KEY, CKO.PRIVATE_KEY)

_MADE_BY: Final[Mapping[int, CKK]] = {
    CKM.RSA_PKCS_KEY_PAIR_GEN: CKK.RSA,
    CKM.RSA_X9_31_KEY_PAIR_GEN: CKK.RSA,
    CKM.DSA_KEY_PAIR_GEN: CKK.DSA,
    CKM.DH_PKCS_KEY_PAIR_GEN: CKK.DH,
    CKM.EC_KEY_PAIR_GEN: CKK.EC,
    CKM.EC_EDWARDS_KEY_PAIR_GEN: CKK.EC_EDWARDS,
    CKM.AES_KEY_GEN: CKK.AES,
    CKM.DES_KEY_GEN: CKK.DES,
    CKM.DES2_KEY_GEN: CKK.DES2,
    CKM.DES3_KEY_GEN: CKK.DES3,
    CKM.GENERIC_SECRET_KEY_GEN: CKK.GENERIC_SECRET,
}
"""The key type that a generation implies. Where there is no row, what was made tells (`require_made_allowed`)."""

UNCHANGING: Final = frozenset(
    (
        CKA.CLASS,
        CKA.KEY_TYPE,
        CKA.KEY_GEN_MECHANISM,
        CKA.LOCAL,
        CKA.MODULUS_BITS,
        CKA.MODULUS,
        CKA.PUBLIC_EXPONENT,
        CKA.PRIME,
        CKA.PRIME_BITS,
        CKA.VALUE_LEN,
        CKA.EC_PARAMS,
        CKA.EC_POINT,
        CKA.TOKEN,
        CKA.PRIVATE,
        CKA.MODIFIABLE,
        CKA.ALWAYS_SENSITIVE,
        CKA.NEVER_EXTRACTABLE,
    )
)
"""What no call changes of an object that is there: a decision that looked at nothing else of a key holds as long as it."""


def require_allowed(
    connection: Connection, session: Session, grant: Grant, call: Call, values: Sequence[Any]
) -> None:
    """Raises Refused for a call that a control point refuses; Failed for a handle that names no object here."""
    control = grant.control
    if call.name not in control.points.calls:
        return
    mechanism = _mechanism(call, values)
    if not control.points.concerning(call.name, mechanism, control.rule):
        return
    asked = _Asked.of(connection, session, grant, call, values, mechanism)
    if asked is None:
        return
    for template in asked.templates:
        _require(session, control, call, asked, template)


def require_made_allowed(
    connection: Connection,
    session: Session,
    grant: Grant,
    call: Call,
    values: Sequence[Any],
    reals: Sequence[int],
) -> None:
    """The same for what a call has made. Raises Refused; whoever calls destroys the objects then."""
    control = grant.control
    if call.name not in control.points.calls:
        return
    mechanism = _mechanism(call, values)
    types = control.points.template_types(call.name, mechanism, control.rule)
    if not types:
        return
    asked = _Asked.of(connection, session, grant, call, values, mechanism)
    if asked is None:
        return
    made = [_attributes(session, grant, real, types) for real in reals]
    for index, own in enumerate(made):
        others: dict[int, Value] = {}
        for other in made[:index] + made[index + 1 :]:
            others |= other
        _require(session, control, call, asked, {**others, **own})


def require_call_allowed(grant: Grant, call: Call, apqn: str) -> None:
    """For a call that has neither mechanism, template nor key. Raises Refused."""
    decision = grant.control.decide(call.name)
    if not decision.allowed:
        raise _refused(apqn, grant.control, call, None, decision, {}, {})


@lru_cache(maxsize=256)
def refused_calls(control: Control) -> int:
    """The calls without mechanism, template and key that are refused: a bit for each, by its id. Asked for each session."""
    if not control.points.points:
        return 0
    return sum(
        1 << call.id
        for call in CALLS
        if not _DECIDED_ROLES.intersection(call.roles)
        and call.name in control.points.calls
        and not control.decide(call.name).allowed
    )


def holds_for_good(control: Control, call: Call, mechanism: int | None) -> bool:
    """Whether what was decided about a call with a key holds as long as the key: it looked at nothing that changes."""
    if call.name not in control.points.calls:
        return True
    return control.points.key_types(call.name, mechanism, control.rule) <= UNCHANGING


@lru_cache(maxsize=4096)
def served(control: Control, mechanism: int, flags: int) -> int | None:
    """The flags of a mechanism (CK_MECHANISM_INFO) without the functions that no request for may pass; None if none is left."""
    if not control.points.points:
        return flags
    offered = {flag: name for flag, name in FUNCTIONS_OF_MECHANISMS.items() if flags & flag}
    refused = [
        flag for flag, name in offered.items() if not control.points.serves(name, mechanism, control.rule)
    ]
    if offered and len(refused) == len(offered):
        return None
    return flags & ~sum(refused)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a call asks: its mechanism, the templates to judge (one for each object that it makes), the key that it uses."""

    mechanism: int | None
    templates: tuple[Template | None, ...]
    key: Template

    @classmethod
    def of(
        cls,
        connection: Connection,
        session: Session,
        grant: Grant,
        call: Call,
        values: Sequence[Any],
        mechanism: int | None,
    ) -> _Asked | None:
        """None for a call that only gives up: a NULL mechanism ends what was begun."""
        if mechanism is None and Role.MECHANISM in call.roles:
            return None
        points, rule = grant.control.points, grant.control.rule
        reals = _keys(connection, session, grant, call, values)
        key = (
            _attributes(session, grant, reals[0], points.key_types(call.name, mechanism, rule))
            if reals
            else {}
        )
        types = points.template_types(call.name, mechanism, rule)
        return cls(mechanism, _templates(session, grant, call, values, mechanism, types, reals), key)


def _mechanism(call: Call, values: Sequence[Any]) -> int | None:
    if Role.MECHANISM not in call.roles:
        return None
    mechanism: Mechanism | None = values[call.roles.index(Role.MECHANISM)]
    return None if mechanism is None else mechanism.type


def _keys(
    connection: Connection, session: Session, grant: Grant, call: Call, values: Sequence[Any]
) -> list[int]:
    """The handles in the module of the objects that the call names, in its order."""
    return [
        connection.object(session, grant, value, HANDLE_CODES[role]).real
        for role, value in zip(call.roles, values, strict=True)
        if role in HANDLE_CODES and not (role is Role.OPTIONAL_KEY and value == 0)
    ]


HANDLE_CODES: Final[dict[Role, CKR]] = {
    Role.KEY: CKR.KEY_HANDLE_INVALID,
    Role.OBJECT: CKR.OBJECT_HANDLE_INVALID,
    Role.WRAPPING_KEY: CKR.WRAPPING_KEY_HANDLE_INVALID,
    Role.UNWRAPPING_KEY: CKR.UNWRAPPING_KEY_HANDLE_INVALID,
    Role.OPTIONAL_KEY: CKR.KEY_HANDLE_INVALID,
}
"""What an object is called that is none, by the role that it should have had."""


def _templates(
    session: Session,
    grant: Grant,
    call: Call,
    values: Sequence[Any],
    mechanism: int | None,
    types: frozenset[int],
    reals: Sequence[int],
) -> tuple[Template | None, ...]:
    given = [_values(value) for role, value in zip(call.roles, values, strict=True) if role is Role.TEMPLATE]
    if call.name == "C_WrapKey":
        return (_attributes(session, grant, reals[1], types),)  # the key that goes out
    if call.name in _CHANGES_OBJECT:
        return ({**_attributes(session, grant, reals[0], types), **given[0]},)
    if call.name == "C_GenerateKeyPair":
        implied = _implied(mechanism)
        public, private = given
        both = ({**private, **public}, {**public, **private})
        return tuple(
            {**implied, **one, CKA.CLASS: int(half)} for one, half in zip(both, _HALVES, strict=True)
        )
    if call.name == "C_GenerateKey":
        return ({**_implied(mechanism), CKA.CLASS: int(CKO.SECRET_KEY), **given[0]},)
    return tuple(given) or (None,)


def _implied(mechanism: int | None) -> dict[int, Value]:
    made = None if mechanism is None else _MADE_BY.get(mechanism)
    return {} if made is None else {CKA.KEY_TYPE: int(made)}


def _values(template: Sequence[Attribute]) -> dict[int, Value]:
    return {one.type: _value(one.type, one.value) for one in template if isinstance(one.value, bytes)}


def _value(type_: int, data: bytes) -> Value:
    """A native value by its kind; what has another length than its kind is left as bytes, which no condition reads."""
    match value_class(type_):
        case ValueClass.BYTE if len(data) == 1:
            return data != b"\0"
        case ValueClass.ULONG if len(data) == ULONG.size:
            number: int = ULONG.unpack(data)[0]
            return number
        case _:
            return data


def _attributes(session: Session, grant: Grant, real: int, types: frozenset[int]) -> dict[int, Value]:
    """What the module tells of an object, of these types; what it does not tell is left out."""
    if not types:
        return {}
    found = read_attributes(grant.keys, session.ticket.real, real, sorted(types))
    return {type_: _value(type_, data) for type_, data in found.items()}


def _require(
    session: Session, control: Control, call: Call, asked: _Asked, template: Template | None
) -> None:
    decision = control.decide(call.name, asked.mechanism, template, asked.key)
    if not decision.allowed:
        apqn = session.slot.description.apqn
        raise _refused(apqn, control, call, asked.mechanism, decision, template or {}, asked.key)


def _refused(
    apqn: str,
    control: Control,
    call: Call,
    mechanism: int | None,
    decision: Decision,
    template: Template,
    key: Template,
) -> Refused:
    point = decision.point
    looked_at = {
        **_shown(template, control.points.template_types(call.name, mechanism, control.rule), ""),
        **_shown(key, control.points.key_types(call.name, mechanism, control.rule), "key "),
    }
    because = None
    if point is not None:
        because = Because(point.name, point.origin, mechanism, looked_at, control.rule)
    return Refused(CODES[decision.kind], f"{call.name} on HSM {apqn}: {decision.reason}", apqn, because)


def _shown(values: Template, types: frozenset[int], what: str) -> dict[str, str]:
    """A size stands for the long number that tells it."""
    told = with_sizes(values)
    return {
        f"{what}{_name(type_)}": _text(told[type_]) if type_ in told else NOT_THERE
        for type_ in sorted(types - TELL_SIZES)
    }


def _name(type_: int) -> str:
    return f"CKA_{CKA(type_).name}" if type_ in CKA.__members__.values() else f"{type_:#x}"


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = value.decode(errors="replace")
    plain = text.isprintable() and "\ufffd" not in text and not text.startswith(("0x", NOT_THERE[0]))
    return text if plain else f"0x{value.hex()}"
