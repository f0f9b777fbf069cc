"""The spellings of a call that is asked, in cases and on the command line: made into values.

Each function takes what stands there and raises ValueError with what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyvisor_policy.control_points import Is, Template, Value
from keyvisor_policy.pkcs11.calls import DECIDED_AT, FORMS, named
from keyvisor_policy.pkcs11.kinds import EC_PARAMS, NAMED, NUMBERS, TRUTH_VALUES
from keyvisor_policy.request_fields import attribute, condition, mechanisms
from keyvisor_policy.strict_yaml import Plain, read_integer, read_text, read_verbatim
from keyvisor_policy.strict_yaml.wording import described, nearest


def call(value: object) -> str:
    """A call that is decided, or another form of one."""
    name = read_verbatim(value)
    if name in DECIDED_AT and name not in FORMS[named(name)]:
        raise ValueError(f"{name} is decided at {DECIDED_AT[name]}; ask that")
    if name not in FORMS and name not in DECIDED_AT:
        meant = nearest(name, FORMS)
        hint = f"; did you mean `{meant}`?" if meant else ""
        raise ValueError(
            f"expected a call that is decided, such as `C_SignInit`, found {described(name)}{hint}"
        )
    return name


def mechanism(value: object) -> int:
    """One CKM name or hexadecimal number."""
    if isinstance(value, list):
        raise ValueError("expected one mechanism, found a list")  # noqa: TRY004
    (number,) = mechanisms(value)
    return number


def template(given: Mapping[str, object]) -> Template:
    """Attributes by their numbers, each with the one value that it has."""
    return {attribute(name): attribute_value(name, value) for name, value in given.items()}


def attribute_value(name: str, value: object) -> Value:
    """The value that is given for an attribute."""
    number = attribute(name)
    if isinstance(value, list):
        raise ValueError("expected one value, found a list")  # noqa: TRY004
    if number in NUMBERS:
        return read_integer(value)
    if number not in TRUTH_VALUES | {EC_PARAMS, *NAMED} and not read_verbatim(value).startswith("0x"):
        return read_text(value).encode()  # a `*` is one, and a `!` is
    if isinstance(value, str) and value.startswith("!"):
        raise ValueError(f"expected one value, found {described(value)}")
    match condition(name, value).one_of[0]:
        case Is(found):
            return found
    raise ValueError(f"expected one value, found {described(value)}")


def typed(name: str, text: str) -> Value:
    """The value that a command line gives, which knows no quotes."""
    number = attribute(name)
    return attribute_value(name, Plain(text) if number in TRUTH_VALUES | NUMBERS else text)
