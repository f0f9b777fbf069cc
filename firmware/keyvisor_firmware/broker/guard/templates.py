"""What templates may ask: completed, so that the module's defaults open nothing, or refused. Pure.

Client libraries ask for every power where the application names none. A template that asks for both sides gets the
side that the key may have, and only one that asks for the other side alone is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.guard.facts import CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY, KEYS, Facts
from keyvisor_firmware.broker.guard.mechanisms import Deriving
from keyvisor_firmware.broker.guard.roles import ALL_POWERS, OTHER, POWERS, Role, Side, role_of
from keyvisor_firmware.broker.guard.wrapped_keys import WrappedKey
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import ULONG, Attribute

Asked = tuple[Attribute, ...]

_POWERS_OF: Final[dict[int, frozenset[CKA]]] = {
    CKO_PUBLIC_KEY: frozenset((CKA.ENCRYPT, CKA.WRAP)),
    CKO_PRIVATE_KEY: frozenset((CKA.DECRYPT, CKA.UNWRAP)),
    CKO_SECRET_KEY: frozenset(ALL_POWERS),
}
_GUARDED: Final = frozenset(
    (
        *ALL_POWERS,
        CKA.SENSITIVE,
        CKA.EXTRACTABLE,
        CKA.WRAP_WITH_TRUSTED,
        CKA.TRUSTED,
        CKA.MODIFIABLE,
        CKA.LOCAL,
    )
)
_CLEAR: Final = "its value was known outside of the HSM"


@dataclass(frozen=True, slots=True)
class Template:
    """A template under the guard's hands. `asked` is what goes to the module."""

    asked: Asked
    apqn: str

    def __post_init__(self) -> None:
        seen: dict[int, object] = {}
        for one in self.asked:
            if one.type in _GUARDED and seen.get(one.type, one.value) != one.value:
                raise self.refusal(f"CKA_{CKA(one.type).name} is said to be this and that; say it once")
            seen[one.type] = one.value

    def flag(self, type_: CKA) -> bool | None:
        """What the template says of a flag; None where it says nothing."""
        for one in self.asked:
            if one.type == type_ and isinstance(one.value, bytes):
                return one.value != b"\0"
        return None

    def number(self, type_: CKA) -> int | None:
        """What the template says of a number; None where it says nothing."""
        for one in self.asked:
            if one.type == type_ and isinstance(one.value, bytes) and len(one.value) == ULONG.size:
                value: int = ULONG.unpack(one.value)[0]
                return value
        return None

    def with_flag(self, type_: CKA, on: bool) -> Template:
        """The same with the flag so."""
        rest = tuple(one for one in self.asked if one.type != type_)
        return Template((*rest, Attribute(type_, bytes((on,)))), self.apqn)

    def with_number(self, type_: CKA, value: int) -> Template:
        """The same with the number so."""
        rest = tuple(one for one in self.asked if one.type != type_)
        return Template((*rest, Attribute(type_, ULONG.pack(value))), self.apqn)

    def require(self, type_: CKA, on: bool, why: str) -> Template:
        """The same with the flag so. Raises Refused where the template asks for the contrary."""
        if self.flag(type_) is (not on):
            raise self.refusal(f"CKA_{type_.name} cannot be {str(not on).lower()}: {why}")
        return self if self.flag(type_) is on else self.with_flag(type_, on)

    def bar(self, powers: Iterable[CKA], class_: int, why: str) -> Template:
        """The same without these powers. Raises Refused where the template asks for nothing else."""
        barred = [power for power in powers if power in _POWERS_OF.get(class_, frozenset())]
        others = any(self.flag(power) for power in ALL_POWERS if power not in barred)
        result = self
        for power in barred:
            if self.flag(power) and not others:
                raise self.refusal(f"CKA_{power.name} cannot be true: {why}")
            if self.flag(power) is not False:
                result = result.with_flag(power, False)
        return result

    def refusal(self, reason: str) -> Refused:
        """The refusal of this template."""
        return Refused(CKR.TEMPLATE_INCONSISTENT, reason, self.apqn)


def _born(template: Template) -> Template:
    """What holds for every new object."""
    template = template.require(CKA.TRUSTED, False, _TRUSTED) if template.flag(CKA.TRUSTED) else template
    if template.flag(CKA.LOCAL):
        raise template.refusal("CKA_LOCAL is the HSM's to say; leave it out")
    return template


_TRUSTED: Final = "which keys are trusted says the HSM's operator, no application; leave it out"


def generated(template: Template, class_: int) -> Template:
    """A key that is generated: it may be undecided, unless it could never be decided."""
    template = _born(template)
    if template.flag(CKA.MODIFIABLE) is not False:
        return template
    sides = [side for side in Side if any(template.flag(power) for power in POWERS[side])]
    if len(sides) > 1:
        raise template.refusal(
            "a key that works both on data and on other keys must be modifiable, so that its first use can decide; leave"
            " out CKA_MODIFIABLE false, or ask for one side alone"
        )
    return template.bar(
        POWERS[OTHER[sides[0] if sides else Side.DATA]], class_, "the key is for the other side"
    )


def created(template: Template) -> Template:
    """A key taken in in clear: it never wraps, since somebody knows it."""
    class_ = template.number(CKA.CLASS)
    if class_ not in KEYS:
        return template
    template = _born(template).bar((CKA.WRAP,), class_, f"{_CLEAR}; generate the wrapping key in the HSM")
    if template.flag(CKA.UNWRAP) is None and any(template.flag(power) for power in POWERS[Side.DATA]):
        template = template.bar(
            (CKA.UNWRAP,), class_, _CLEAR
        )  # decided at once, so that its first use costs nothing
    return generated(template, class_)


def unwrapped(template: Template, was: WrappedKey | None) -> Template:
    """A key that is unwrapped: what was wrapped here comes back as it was, what comes from elsewhere lets nothing out."""
    return _from_elsewhere(_born(template)) if was is None else _as_it_was(_born(template), was)


def _from_elsewhere(template: Template) -> Template:
    class_ = template.number(CKA.CLASS)
    if class_ is None:
        raise Refused(
            CKR.TEMPLATE_INCOMPLETE,
            "the class of the unwrapped key is not given; add CKA_CLASS",
            template.apqn,
        )
    why = "the key was not wrapped here; import it to work on data, and generate wrapping keys in the HSM"
    template = template.bar(POWERS[Side.WRAPPING], class_, why)
    template = template.require(CKA.SENSITIVE, True, "the key was not wrapped here; leave it out")
    return template.require(CKA.EXTRACTABLE, False, "the key was not wrapped here; leave it out")


def _as_it_was(template: Template, was: WrappedKey) -> Template:
    for type_, value in ((CKA.CLASS, was.class_), (CKA.KEY_TYPE, was.key_type)):
        if template.number(type_) not in (None, value):
            reason = f"the key was wrapped with CKA_{type_.name} {value:#x}; unwrap it as that"
            raise template.refusal(reason)
        template = template.with_number(type_, value)
    template = _in_role(template, was)
    if was.sensitive:
        template = template.require(CKA.SENSITIVE, True, "it was true when the key was wrapped; leave it out")
    if was.wrap_with_trusted:
        why = "it was true when the key was wrapped; leave it out"
        template = template.require(CKA.WRAP_WITH_TRUSTED, True, why)
    return template


def _in_role(template: Template, was: WrappedKey) -> Template:
    if was.role is not Role.WRAPPING:
        template = template.bar(
            POWERS[Side.WRAPPING], was.class_, "it did not work on other keys when it was wrapped"
        )
    else:
        template = template.bar(
            (CKA.WRAP,), was.class_, "a key that comes back only unwraps; generate one that wraps"
        )
    if was.role is not Role.DATA:
        template = template.bar(POWERS[Side.DATA], was.class_, "it did not work on data when it was wrapped")
    if was.role is Role.WRAPPING and was.class_ == CKO_PRIVATE_KEY:
        template = template.require(CKA.UNWRAP, True, _MARK)
    return template


_MARK: Final = (
    "a private key that unwraps keeps the mark of it, or its raw signatures could decrypt; leave it out"
)


def derived(template: Template, base: Facts, kind: Deriving) -> Template:
    """A derived key: it never wraps, and what encryption makes of data is no more readable than the base key."""
    class_ = template.number(CKA.CLASS)
    template = _born(template)
    if kind is Deriving.REVEALING and base.sensitive:
        raise Refused(
            CKR.KEY_FUNCTION_NOT_PERMITTED,
            "this derivation makes parts or relatives of a sensitive key, by which it can be searched for; derive by an"
            " agreement (CKM_ECDH1_DERIVE) or a hash",
            template.apqn,
        )
    why = "a derived key never wraps; generate the wrapping key in the HSM"
    template = template.bar((CKA.WRAP,), CKO_SECRET_KEY if class_ is None else class_, why)
    if kind is Deriving.ENCRYPTING and base.sensitive:
        template = template.require(CKA.SENSITIVE, True, "the base key is sensitive; leave it out")
        template = template.require(CKA.EXTRACTABLE, False, "the base key is sensitive; leave it out")
    return template


def changed(template: Template, old: Facts) -> Template:
    """A change of a key, or its copy with another template: powers go and never come, protection comes and never goes."""
    if old.class_ not in KEYS:
        return template
    for power in ALL_POWERS:
        if template.flag(power) and not old.has(power):
            raise template.refusal(f"CKA_{power.name} is never turned on later; say it when the key is made")
    if template.flag(CKA.SENSITIVE) is False and old.has(CKA.SENSITIVE):
        raise template.refusal("CKA_SENSITIVE is never turned off; make a key that is not sensitive")
    if template.flag(CKA.EXTRACTABLE) and not old.has(CKA.EXTRACTABLE):
        raise template.refusal("CKA_EXTRACTABLE is never turned on; say it when the key is made")
    if template.flag(CKA.WRAP_WITH_TRUSTED) is False and old.has(CKA.WRAP_WITH_TRUSTED):
        raise template.refusal("CKA_WRAP_WITH_TRUSTED is never turned off; make a key without it")
    if template.flag(CKA.TRUSTED) and not old.has(CKA.TRUSTED):
        raise template.refusal(f"CKA_TRUSTED cannot be true: {_TRUSTED}")
    if template.flag(CKA.LOCAL) and not old.has(CKA.LOCAL):
        raise template.refusal("CKA_LOCAL is the HSM's to say; leave it out")
    if template.flag(CKA.UNWRAP) is False and old.is_rsa_private and role_of(old) is Role.WRAPPING:
        raise template.refusal(f"CKA_UNWRAP cannot be false: {_MARK}")
    return template
