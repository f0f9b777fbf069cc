"""What each value of a file may look like, for the JSON Schema: data beside the functions of `fields`.

A schema sees values after an editor's YAML reader did, which takes an unquoted `0xdb3c` or `8.0` for a number: what
is read here as it stands may be a number there. Only `fields` decides; a test holds the patterns against it.
"""

from __future__ import annotations

from typing import Any

from pydantic import WithJsonSchema

from keyvisor_policy.hsms import MODES, NEWEST_GENERATION, OLDEST_GENERATION
from keyvisor_policy.pkcs11.calls import FORMS
from keyvisor_policy.pkcs11.kinds import KEY_MATERIAL, NOT_FLAT
from keyvisor_policy.pkcs11.names import ATTRIBUTES
from keyvisor_policy.pkcs11.names import MECHANISMS as MECHANISM_NAMES
from keyvisor_policy.profiles import PROFILES
from keyvisor_policy.rules import MAX_COUNT

_GENERATION = f"[Cc][Ee][Xx][{OLDEST_GENERATION}-{NEWEST_GENERATION}]"
_VERSION = r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})"
_NUMBER = "(0|[1-9][0-9]{0,8})"
_SCALAR = ["string", "number"]


def _interval(one: str) -> str:
    return rf"^((>=|==|<=) *{one} *| *{one} *\.\. *{one} *)$"


PATTERNS: dict[str, str] = {
    "mkvp": "^(0x)?([0-9a-fA-F]{32}|[0-9a-fA-F]{64})$",
    "secret_id": "^(0x)?[0-9a-fA-F]{64}$",
    "apqn": r"^[0-9a-fA-F]{2}\.[0-9a-fA-F]{4}$",
    "serial": r"^\S{16}$",
    "name": r"^\S(.*\S)?$",
    "generation": f"^{_GENERATION}$",
    "version": f"^{_VERSION}$",
    "number": f"^{_NUMBER}$",
    "generations": _interval(_GENERATION),
    "versions": _interval(_VERSION),
    "numbers": _interval(_NUMBER),
}
"""By function of `fields`. They take all that it takes; what it refuses beyond them is told where it is used."""


def _text(title: str, description: str, **rest: Any) -> WithJsonSchema:
    return WithJsonSchema({"title": title, "description": description, "type": "string", **rest})


def _scalar(title: str, description: str, pattern: str, *examples: str) -> WithJsonSchema:
    return _text(title, description, type=_SCALAR, pattern=PATTERNS[pattern], examples=list(examples))


def _named(title: str, description: str, *examples: str) -> WithJsonSchema:
    return _text(title, description, pattern=PATTERNS["name"], maxLength=4096, examples=list(examples))


def _but(one: WithJsonSchema) -> WithJsonSchema:
    """The same, or with a leading `!` anything but it."""
    schema: dict[str, Any] = {**(one.json_schema or {})}
    schema["description"] += " Behind `!`: anything but this."
    schema["pattern"] = schema["pattern"].replace("^", "^(! *)?", 1)
    schema["examples"] = [*schema["examples"], f"!{schema['examples'][0]}"]
    return WithJsonSchema(schema)


def _speaks_of(attribute: str) -> bool:
    return ATTRIBUTES[attribute] not in KEY_MATERIAL | NOT_FLAT


VERSION = WithJsonSchema({"title": "Version", "description": "The only version there is.", "const": 1})
RULE_NAME = _named(
    "Name", "The rule's name, its own; the secret's name too unless `secret` says otherwise.", "payments"
)
SECRET_NAME = _named("Secret", "The secret's name. Its id is the SHA-256 of it.", "payments-signing")
SECRET_ID = _scalar(
    "Secret id", "The secret's id, 64 hex digits, where its name is not known.", "secret_id", "0x" + 32 * "5a"
)
COUNT = WithJsonSchema(
    {
        "title": "Count",
        "description": "How many HSMs the rule wants, 1 if left out; `all` takes every match.",
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_COUNT}, {"const": "all"}],
        "examples": [2, "all"],
    }
)
RULE_MODE = _text(
    "Mode",
    "`ep11` takes a secret, an accelerator (`accel`) none; ep11 if left out.",
    enum=["ep11", "accel"],
)
MODE = _text("Mode", "What the HSM is configured as.", enum=list(MODES))
RULE_MKVP = _scalar(
    "MKVP",
    "The master key's verification pattern, 32 hex digits; of 64 the first 32 count.",
    "mkvp",
    "0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93",
)
MKVP = WithJsonSchema({**(RULE_MKVP.json_schema or {}), "type": [*_SCALAR, "null"]})
RULE_SERIAL = _scalar(
    "Serial number", "The card's serial number, exactly 16 characters.", "serial", "93AADFK719460083"
)
SERIAL = _text("Serial number", "What the card says, usually 16 characters.", type=_SCALAR)
GENERATIONS = _scalar(
    "Generation", "The card's generation, compared or a range.", "generations", ">=CEX8", "CEX6..CEX8"
)
GENERATION = _scalar("Generation", "The card's generation.", "generation", "CEX8")
VERSIONS = _scalar("Firmware", "The card's firmware, compared or a range.", "versions", ">=8.0", "7.1..8.0")
FIRMWARE = _scalar("Firmware", "The card's firmware.", "version", "8.0")
NUMBERS = _scalar("API", "The card's API ordinal, compared or a range.", "numbers", ">=4", "2..4")
API = WithJsonSchema(
    {"title": "API", "description": "The card's API ordinal.", "type": "integer", "minimum": 0}
)
COMPLIANCE = _named("Compliance set", "The name of a set that the HSM follows.", "fips2021")
APQN = _scalar("APQN", "Card and domain in hex.", "apqn", "03.0011")
ONLINE = WithJsonSchema(
    {"title": "Online", "description": "Whether it answers; yes if left out.", "type": "boolean"}
)
SECRET = WithJsonSchema(
    {
        "title": "Secret",
        "description": "A secret's name, or its id behind `0x`.",
        "anyOf": [
            {"type": "string", "pattern": PATTERNS["name"], "maxLength": 4096},
            {"type": "integer"},
        ],
        "examples": ["payments-signing", "0x" + 32 * "5a"],
    }
)
NEVER_NAME = _named("Name", "What messages call the assertion.", "payments stay under their master key")
NEVER_MODE = _text("Mode", "Only HSMs of this mode are meant; of both if left out.", enum=["ep11", "accel"])
NEVER_MKVP = _but(RULE_MKVP)
NEVER_SERIAL = _but(RULE_SERIAL)
NEVER_GENERATIONS = _but(GENERATIONS)
NEVER_VERSIONS = _but(VERSIONS)
NEVER_NUMBERS = _but(NUMBERS)
NEVER_COMPLIANCE = _but(COMPLIANCE)
CASE_NAME = _named(
    "Name", "What the case shows, in a sentence of its own.", "the frankfurt card takes payments"
)
EXPECTED_RULE = _named("Rule", "The name of a rule of this policy.", "payments")
NOW = WithJsonSchema(
    {
        "title": "Now",
        "description": "What the HSM is to the guest now: bound, or associated with a secret.",
        "anyOf": [
            {"const": "bound"},
            {
                "type": "object",
                "properties": {"associated": SECRET.json_schema},
                "required": ["associated"],
                "additionalProperties": False,
            },
        ],
        "examples": ["bound", {"associated": "payments-signing"}],
    }
)
PARTLY = WithJsonSchema(
    {
        "title": "Partly",
        "description": "`associate`, `bind` and `unmet` are not exact: there may be others.",
        "type": "boolean",
    }
)
POINT_NAME = _named("Name", "What refusals call the control point.", "no raw rsa")
ON = _named("On", "Only for HSMs that are associated through this rule.", "payments")
PROFILE = _text(
    "Profile",
    "A set of control points that comes with keyvisor; `keyvisor policy profile` shows it.",
    enum=list(PROFILES),
)


def _one_or_more(title: str, description: str, one: dict[str, Any], *examples: Any) -> WithJsonSchema:
    several = {"type": "array", "items": one, "minItems": 1}
    return WithJsonSchema(
        {"title": title, "description": description, "anyOf": [one, several], "examples": list(examples)}
    )


CALLS = _one_or_more(
    "Calls",
    "The calls that are meant, by the name of the one at which they are decided.",
    {"enum": list(FORMS)},
    ["C_GenerateKey", "C_GenerateKeyPair"],
)
MECHANISMS = _one_or_more(
    "Mechanisms",
    "The mechanisms that are meant, by name or as a hexadecimal number.",
    {"anyOf": [{"enum": list(MECHANISM_NAMES)}, {"type": _SCALAR, "pattern": "^0x[0-9a-fA-F]{1,16}$"}]},
    ["CKM_RSA_X_509"],
)
ATTRIBUTE = _text("Attribute", "An attribute's name.", enum=[name for name in ATTRIBUTES if _speaks_of(name)])
ASKED_ON = _named(
    "On", "The rule through which the HSM is held; may be left out where the plan has one.", "payments"
)
ASKED_CALL = _text(
    "Call",
    "The call, at which it is decided.",
    enum=[*FORMS, *(form for forms in FORMS.values() for form in forms)],
)
ASKED_MECHANISM = WithJsonSchema(
    {
        "title": "Mechanism",
        "description": "The call's mechanism, by name or as a hexadecimal number.",
        "anyOf": [{"enum": list(MECHANISM_NAMES)}, {"type": _SCALAR, "pattern": "^0x[0-9a-fA-F]{1,16}$"}],
        "examples": ["CKM_RSA_PKCS"],
    }
)
GIVEN = WithJsonSchema(
    {
        "title": "Value",
        "description": "The value that it has.",
        "type": ["string", "number", "boolean"],
        "examples": [True, 2048, "CKK_RSA", "test-1"],
    }
)
OUTCOME = _text("Outcome", "What comes of it.", enum=["refused", "allowed"])
DECIDED_BY = _named(
    "By",
    "The control point that decides: one of this policy, or a profile's behind the profile's name.",
    "no raw rsa",
    "no-export/no wrapping",
)
WANTED = _one_or_more(
    "Condition",
    "What it must be: a value or alternatives; numbers may be compared, texts may have `*` and `?`; `!` is anything but.",
    {"type": ["string", "number", "boolean"]},
    True,
    "<3072",
    "test-*",
    ["CKK_RSA", "CKK_EC"],
)
