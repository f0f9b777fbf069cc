"""The spellings of `requests`: calls, mechanisms and conditions on attributes, made into values (policy.md, section 3).

Each function takes what stands in a file and raises ValueError with what was expected. Knows nothing of rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from keyvisor_policy.control_points import Between, Condition, Is, Like, Match
from keyvisor_policy.pkcs11.calls import DECIDED_AT, FORMS
from keyvisor_policy.pkcs11.curves import CURVES
from keyvisor_policy.pkcs11.kinds import EC_PARAMS, KEY_MATERIAL, NAMED, NOT_FLAT, NUMBERS, TRUTH_VALUES
from keyvisor_policy.pkcs11.names import ATTRIBUTES, MECHANISMS
from keyvisor_policy.strict_yaml import Plain, read_boolean, read_integer, read_text, read_verbatim
from keyvisor_policy.strict_yaml.wording import described, nearest

_HEX_NUMBER: Final = re.compile(r"0x([0-9a-fA-F]{1,16})")
_HEX_BYTES: Final = re.compile(r"0x((?:[0-9a-fA-F]{2})*)")
_COMPARED: Final = re.compile(r"(<=|>=|<|>|==) *(0|[1-9][0-9]{0,17})")
_RANGE: Final = re.compile(r"(0|[1-9][0-9]{0,17}) *\.\. *(0|[1-9][0-9]{0,17})")
MAX_ALTERNATIVES: Final = 256  # of one condition, and of one list of calls or mechanisms


def calls(value: object) -> frozenset[str]:
    """The calls that are meant, with all forms of each (`calls.FORMS`): one name, or a list."""
    found: set[str] = set()
    for one in _list(value):
        name = read_verbatim(one)
        if name in DECIDED_AT:
            raise ValueError(f"{name} is decided at {DECIDED_AT[name]}; name that")
        if name not in FORMS:
            raise ValueError(_unknown(name, "a call that is decided, such as `C_SignInit`", FORMS))
        found.update((name, *FORMS[name]))
    return frozenset(found)


def mechanisms(value: object) -> frozenset[int]:
    """CKM names or hexadecimal numbers: one, or a list."""
    return frozenset(_named(one, MECHANISMS, "a mechanism, such as `CKM_RSA_PKCS`") for one in _list(value))


def attribute(text: str) -> int:
    """The attribute that a condition is about."""
    if text not in ATTRIBUTES:
        raise ValueError(_unknown(text, "an attribute, such as `CKA_EXTRACTABLE`", ATTRIBUTES))
    number = ATTRIBUTES[text]
    if number in KEY_MATERIAL:
        raise ValueError(f"{text} is key material, which no policy looks at")
    if number in NOT_FLAT:
        raise ValueError(f"{text} is not supported in conditions: it is a list, a template or a date")
    return number


def condition(text: str, value: object) -> Condition:
    """What the attribute `text` must be: one value or a list of alternatives; behind `!`, anything but that."""
    number = attribute(text)
    alternatives = _list(value)
    negated = [isinstance(one, str) and str(one).startswith("!") for one in alternatives]
    if any(negated) and not all(negated):
        raise ValueError("expected `!` before each of the values or before none")
    if any(negated):
        # A value behind `!` is in quotes whatever it is: YAML takes `!` for something else.
        kind = Plain if number in TRUTH_VALUES | NUMBERS else str
        alternatives = [kind(str(one)[1:].lstrip(" ")) for one in alternatives]
    found: list[Match] = []
    for one in alternatives:
        found.extend(_matches(number, one))
    return Condition(number, f"{text}: {_as_written(value)}", tuple(found), any(negated))


def _matches(number: int, value: object) -> tuple[Match, ...]:
    if number in TRUTH_VALUES:
        return (Is(read_boolean(value)),)
    if number in NAMED:
        names = NAMED[number]
        return (Is(_named(value, names, f"a name such as `{next(iter(names))}`")),)
    if number in NUMBERS:
        return (_number(value),)
    if number == EC_PARAMS:
        return _curve(value)
    return (_text(value),)


def _number(value: object) -> Match:
    text = read_verbatim(value)
    if (compared := _COMPARED.fullmatch(text)) is not None:
        operator, bound = compared[1], int(compared[2])
        if operator == "==":
            return Is(bound)
        if operator == "<" and bound == 0:
            raise ValueError("expected a number that something can be below, found `<0`")
        least = {">=": bound, ">": bound + 1}.get(operator)
        most = {"<=": bound, "<": bound - 1}.get(operator)
        return Between(least, most)
    if (both := _RANGE.fullmatch(text)) is not None:
        least, most = int(both[1]), int(both[2])
        if least > most:
            raise ValueError(
                f"expected a range from the lower to the higher number, found {described(value)}"
            )
        return Between(least, most)
    try:
        return Is(read_integer(value))
    except ValueError:
        raise ValueError(
            f"expected a number such as `3072`, `<3072`, `>=3072` or `2048..3071`, found {described(value)}"
        ) from None


def _curve(value: object) -> tuple[Match, ...]:
    text = read_verbatim(value)
    if (data := _HEX_BYTES.fullmatch(text)) is not None:
        return (Is(bytes.fromhex(data[1])),)
    if text not in CURVES:
        raise ValueError(_unknown(text, "a curve, such as `secp256r1`, or its DER behind `0x`", CURVES))
    return tuple(Is(encoding) for encoding in CURVES[text])


def _text(value: object) -> Match:
    text = read_verbatim(value)
    if (data := _HEX_BYTES.fullmatch(text)) is not None:
        return Is(bytes.fromhex(data[1]))
    text = read_text(value)
    return Like(text) if "*" in text or "?" in text else Is(text.encode())


def _named(value: object, names: Mapping[str, int], what: str) -> int:
    text = read_verbatim(value)
    if (number := _HEX_NUMBER.fullmatch(text)) is not None:
        return int(number[1], 16)
    if text not in names:
        raise ValueError(_unknown(text, f"{what}, or its number behind `0x`", names))
    return names[text]


def _unknown(found: str, what: str, names: Mapping[str, object]) -> str:
    meant = nearest(found, names)
    hint = f"; did you mean `{meant}`?" if meant else ""
    return f"expected {what}, found {described(found)}{hint}"


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        return [value]
    if not value:
        raise ValueError("expected at least one item")
    if len(value) > MAX_ALTERNATIVES:
        raise ValueError(f"expected at most {MAX_ALTERNATIVES} items, found {len(value)}")
    return value


def _as_written(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(one) for one in value)}]"
    return str(value)
