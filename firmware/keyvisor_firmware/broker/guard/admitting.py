"""The guard's way in: before a call reaches the module, by the call's name; calls without a row here make and move no keys.

Holds the connection's lock, as whoever answers a call does; so the partition stays open meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.calls import Role as RoleOfArgument
from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.guard import templates
from keyvisor_firmware.broker.guard.facts import (
    CKK_CDMF,
    CKK_DES,
    CKK_RSA,
    CKO_PRIVATE_KEY,
    CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
    KEYS,
    Facts,
    read_facts,
)
from keyvisor_firmware.broker.guard.mechanisms import RAW_SIGNATURES, Deriving, deriving, wrapping
from keyvisor_firmware.broker.guard.roles import Role, Side, role_of
from keyvisor_firmware.broker.guard.settling import own_session, settle, settle_private_halves
from keyvisor_firmware.broker.guard.templates import Template
from keyvisor_firmware.broker.guard.wrapped_keys import WrappedKey
from keyvisor_firmware.broker.handles import ObjectHandle, Session
from keyvisor_firmware.broker.slots import Grant
from keyvisor_hsm.cryptoki import CKA, CKR

if TYPE_CHECKING:
    from keyvisor_firmware.broker.connection import Connection

Values = tuple[Any, ...]
_FEWEST_MODULUS: Final = 128  # bytes of an RSA key that wraps


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call's arguments as they may reach the module. `wrapped`: what the key is that leaves wrapped, if one does."""

    values: Values
    wrapped: WrappedKey | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a call goes, and what finds its objects."""

    connection: Connection
    session: Session
    grant: Grant

    @property
    def apqn(self) -> str:
        return self.session.slot.description.apqn

    def named(self, handle: int, rv: CKR = CKR.KEY_HANDLE_INVALID) -> ObjectHandle:
        return self.connection.object(self.session, self.grant, handle, rv)

    def facts(self, named: ObjectHandle) -> Facts | None:
        with own_session(self.grant.keys) as session:
            return read_facts(self.grant.keys.call, session, named.real)

    def settle(self, named: ObjectHandle, side: Side) -> Facts | None:
        return settle(self.grant.keys, named.real, side, self.apqn)

    def template(self, asked: templates.Asked) -> Template:
        return Template(asked, self.apqn)

    def refusal(self, rv: CKR, reason: str) -> Refused:
        return Refused(rv, reason, self.apqn)


def admit(connection: Connection, session: Session, grant: Grant, call: Call, values: Values) -> Admitted:
    """What a call may be in the module. Raises Refused, or Failed for an object that is not there."""
    rule = RULES.get(call.name)
    if rule is None or (None in values[1:2] and call.roles[1] is RoleOfArgument.MECHANISM):
        return Admitted(values)
    return rule(_Way(connection, session, grant), values)


def keep(session: Session, grant: Grant, values: Values, admitted: Admitted, blob: object) -> None:
    """A key has left, wrapped: on record before anybody has the blob. Raises Refused, and then nobody has it."""
    if admitted.wrapped is not None and isinstance(blob, bytes):
        try:
            grant.keys.wrapped.add(values[1].type, blob, admitted.wrapped)
        except Refused as refused:
            refused.apqn = session.slot.description.apqn
            raise


# --- uses


def _use_data(way: _Way, named: ObjectHandle) -> None:
    """A key works on data. What a key once did it may do again, since no power comes back."""
    if named.works_on_data:
        return
    facts = way.facts(named)
    if facts is None:
        return
    if facts.class_ != CKO_PUBLIC_KEY:  # anybody can encrypt to one
        way.settle(named, Side.DATA)
    named.works_on_data = True


def _data(way: _Way, values: Values) -> Admitted:
    _use_data(way, way.named(values[2]))
    return Admitted(values)


def _sign(way: _Way, values: Values) -> Admitted:
    if values[1].type in RAW_SIGNATURES:
        _use_data(way, way.named(values[2]))
    return Admitted(values)


def _restore(way: _Way, values: Values) -> Admitted:
    for handle in values[2:4]:
        if handle:
            _use_data(way, way.named(handle))
    return Admitted(values)


# --- wrapping


def _wrap(way: _Way, values: Values) -> Admitted:
    by, key = way.named(values[2], CKR.WRAPPING_KEY_HANDLE_INVALID), way.named(values[3])
    wrapper, leaving = way.facts(by), way.facts(key)
    if wrapper is None or leaving is None or not wrapper.has(CKA.WRAP):
        return Admitted(values)  # the module says so
    if CKA.EXTRACTABLE in leaving.false:
        raise way.refusal(
            CKR.KEY_UNEXTRACTABLE, "the key is not extractable; say CKA_EXTRACTABLE when it is made"
        )
    _require_wrapper(way, wrapper, values[1].type)
    if leaving.has(CKA.WRAP_WITH_TRUSTED) and not wrapper.has(CKA.TRUSTED):
        raise way.refusal(
            CKR.KEY_NOT_WRAPPABLE,
            "the key is wrapped with a trusted key only (CKA_WRAP_WITH_TRUSTED); use one",
        )
    if wrapper.class_ == CKO_SECRET_KEY:
        way.settle(by, Side.WRAPPING)
    elif not wrapper.has(CKA.TRUSTED):
        settle_private_halves(way.grant.keys, wrapper.modulus, way.apqn)
    return Admitted(values, _leaving(way, key))


def _leaving(way: _Way, key: ObjectHandle) -> WrappedKey | None:
    facts = _decided(way, key)
    if facts is None or facts.class_ is None or facts.key_type is None:
        return None
    return WrappedKey(
        facts.class_, facts.key_type, role_of(facts), facts.sensitive, facts.has(CKA.WRAP_WITH_TRUSTED)
    )


def _decided(way: _Way, key: ObjectHandle) -> Facts | None:
    """A key that leaves or is copied is decided first, so that the two cannot go separate ways: it works on data."""
    facts = way.facts(key)
    undecided = facts is not None and facts.class_ != CKO_PUBLIC_KEY and role_of(facts) is Role.UNDECIDED
    return way.settle(key, Side.DATA) if undecided else facts


def _require_wrapper(way: _Way, wrapper: Facts, mechanism: int) -> None:
    if not wrapping(mechanism).wraps:
        reason = f"the mechanism {mechanism:#x} tells too much of the key; wrap with CKM_AES_KEY_WRAP or CKM_RSA_PKCS_OAEP"
        raise way.refusal(CKR.MECHANISM_INVALID, reason)
    if wrapper.has(CKA.TRUSTED):
        return
    if not wrapper.has(CKA.LOCAL):
        reason = "the wrapping key was not generated in the HSM, so somebody may know it; generate one there"
        raise way.refusal(CKR.KEY_FUNCTION_NOT_PERMITTED, reason)
    weak = wrapper.key_type in (CKK_DES, CKK_CDMF) if wrapper.class_ == CKO_SECRET_KEY else False
    if weak or (
        wrapper.key_type == CKK_RSA
        and wrapper.class_ != CKO_SECRET_KEY
        and len(wrapper.modulus) < _FEWEST_MODULUS
    ):
        reason = "the wrapping key can be found by search; wrap with AES, or with RSA of 1024 bits or more"
        raise way.refusal(CKR.WRAPPING_KEY_SIZE_RANGE, reason)


def _unwrap(way: _Way, values: Values) -> Admitted:
    by = way.named(values[2], CKR.UNWRAPPING_KEY_HANDLE_INVALID)
    mechanism, blob = values[1].type, values[3] or b""
    was = way.grant.keys.wrapped.find(mechanism, blob)
    trust = wrapping(mechanism)
    if not (trust.unwraps_unknown if was is None else trust.unwraps_known):
        reason = (
            f"the mechanism {mechanism:#x} does not notice a key that was tampered with; unwrap with CKM_AES_KEY_WRAP,"
            " CKM_AES_KEY_WRAP_PAD or CKM_RSA_PKCS_OAEP"
        )
        raise way.refusal(CKR.WRAPPED_KEY_INVALID, reason)
    template = templates.unwrapped(way.template(values[4]), was)
    way.settle(by, Side.WRAPPING)
    return Admitted((*values[:4], template.asked))


# --- births and changes


def _create(way: _Way, values: Values) -> Admitted:
    return Admitted((values[0], templates.created(way.template(values[1])).asked))


def _generate(way: _Way, values: Values) -> Admitted:
    template = templates.generated(way.template(values[2]), CKO_SECRET_KEY)
    return Admitted((*values[:2], template.asked))


def _generate_pair(way: _Way, values: Values) -> Admitted:
    public = templates.generated(way.template(values[2]), CKO_PUBLIC_KEY)
    private = templates.generated(way.template(values[3]), CKO_PRIVATE_KEY)
    return Admitted((*values[:2], public.asked, private.asked))


def _derive(way: _Way, values: Values) -> Admitted:
    named, kind = way.named(values[2]), deriving(values[1].type)
    base = way.facts(named)
    if base is None:
        return Admitted(values)
    template = templates.derived(way.template(values[3]), base, kind)
    if kind is Deriving.ENCRYPTING:
        _use_data(way, named)
    return Admitted((*values[:3], template.asked))


def _change(way: _Way, values: Values) -> Admitted:
    old = way.facts(way.named(values[1], CKR.OBJECT_HANDLE_INVALID))
    if old is not None:
        templates.changed(way.template(values[2]), old)
    return Admitted(values)


def _copy(way: _Way, values: Values) -> Admitted:
    named = way.named(values[1], CKR.OBJECT_HANDLE_INVALID)
    old = way.facts(named)
    if old is None:
        return Admitted(values)
    templates.changed(way.template(values[2]), old)
    after = _decided(way, named) if old.class_ in KEYS else old
    if after is not None:
        templates.changed(way.template(values[2]), after)
    return Admitted(values)


RULES: Final[dict[str, Callable[[_Way, Values], Admitted]]] = {
    "C_CreateObject": _create,
    "C_CopyObject": _copy,
    "C_SetAttributeValue": _change,
    "C_SetOperationState": _restore,
    "C_EncryptInit": _data,
    "C_DecryptInit": _data,
    "C_MessageEncryptInit": _data,
    "C_MessageDecryptInit": _data,
    "C_SignInit": _sign,
    "C_SignRecoverInit": _sign,
    "C_MessageSignInit": _sign,
    "C_GenerateKey": _generate,
    "C_GenerateKeyPair": _generate_pair,
    "C_WrapKey": _wrap,
    "C_UnwrapKey": _unwrap,
    "C_DeriveKey": _derive,
    "C_DeriveKey2": _derive,
}
