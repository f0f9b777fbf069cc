"""How the value of every attribute of PKCS#11 travels, and why so: total over CKA, for tests and docs.

What is parsed is decided in attributes.py, where a type that stands in no list travels as bytes. Here each such type
has its reason, so that a new one is noticed.
"""

from __future__ import annotations

from typing import Final

from keyvisor_firmware.broker.attributes import VALUE_CLASSES, ValueClass
from keyvisor_hsm.cryptoki import CKA

_WHY: Final = {
    ValueClass.BYTE: "a CK_BBOOL or CK_BYTE",
    ValueClass.ULONG: "a CK_ULONG, which has another size and order on other machines",
    ValueClass.DATE: "a CK_DATE, which may be empty",
    ValueClass.MECHANISMS: "an array of CK_MECHANISM_TYPE",
    ValueClass.ATTRIBUTES: "an array of CK_ATTRIBUTE, which has pointers",
}

_AS_BYTES: Final[dict[str, str]] = {
    "text or bytes": (
        "LABEL APPLICATION VALUE OBJECT_ID ISSUER SERIAL_NUMBER AC_ISSUER OWNER ATTR_TYPES URL"
        " HASH_OF_SUBJECT_PUBLIC_KEY HASH_OF_ISSUER_PUBLIC_KEY CHECK_VALUE SUBJECT ID PUBLIC_KEY_INFO"
        " EC_PARAMS EC_POINT OTP_COUNTER OTP_TIME OTP_USER_IDENTIFIER OTP_SERVICE_IDENTIFIER OTP_SERVICE_LOGO"
        " OTP_SERVICE_LOGO_TYPE GOSTR3410_PARAMS GOSTR3411_PARAMS GOST28147_PARAMS CHAR_SETS ENCODING_METHODS"
        " MIME_TYPES REQUIRED_CMS_ATTRIBUTES DEFAULT_CMS_ATTRIBUTES SUPPORTED_CMS_ATTRIBUTES"
    ),
    "a big integer": (
        "MODULUS PUBLIC_EXPONENT PRIVATE_EXPONENT PRIME_1 PRIME_2 EXPONENT_1 EXPONENT_2 COEFFICIENT PRIME SUBPRIME BASE"
    ),
    "a CK_BBOOL that no client's list has: its byte travels as bytes": "DESTROYABLE OTP_USER_FRIENDLY_MODE",
    "a CK_ULONG that no client's list has: its bytes travel as they lie in memory": (
        "NAME_HASH_ALGORITHM OTP_FORMAT OTP_LENGTH OTP_TIME_INTERVAL OTP_CHALLENGE_REQUIREMENT"
        " OTP_TIME_REQUIREMENT OTP_COUNTER_REQUIREMENT OTP_PIN_REQUIREMENT"
    ),
    "not an attribute: the vendors' numbers begin here": "VENDOR_DEFINED",
}

# Type -> how its value travels, and why.
ATTRIBUTES: Final[dict[int, tuple[ValueClass, str]]] = {
    **{type_: (kind, _WHY[kind]) for type_, kind in VALUE_CLASSES.items()},
    **{CKA[name]: (ValueClass.BYTES, why) for why, names in _AS_BYTES.items() for name in names.split()},
}
