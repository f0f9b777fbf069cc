"""What kind of value an attribute has, as far as a condition can speak of it. Everything that is in no set here is bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyvisor_policy.pkcs11.names import ATTRIBUTES, KEY_TYPES, MECHANISMS, OBJECT_CLASSES


def _numbers(words: str) -> frozenset[int]:
    return frozenset(ATTRIBUTES[f"CKA_{word}"] for word in words.split())


TRUTH_VALUES: Final = _numbers(
    "TOKEN PRIVATE TRUSTED SENSITIVE ENCRYPT DECRYPT WRAP UNWRAP SIGN SIGN_RECOVER VERIFY VERIFY_RECOVER DERIVE"
    " EXTRACTABLE LOCAL NEVER_EXTRACTABLE ALWAYS_SENSITIVE MODIFIABLE COPYABLE SECONDARY_AUTH ALWAYS_AUTHENTICATE"
    " WRAP_WITH_TRUSTED RESET_ON_INIT HAS_RESET COLOR"
)
NUMBERS: Final = _numbers(
    "CERTIFICATE_TYPE CERTIFICATE_CATEGORY JAVA_MIDP_SECURITY_DOMAIN MODULUS_BITS PRIME_BITS SUB_PRIME_BITS VALUE_BITS"
    " VALUE_LEN AUTH_PIN_FLAGS HW_FEATURE_TYPE PIXEL_X PIXEL_Y RESOLUTION CHAR_ROWS CHAR_COLUMNS BITS_PER_PIXEL"
    " MECHANISM_TYPE"
)
NAMED: Final[Mapping[int, Mapping[str, int]]] = {
    ATTRIBUTES["CKA_CLASS"]: OBJECT_CLASSES,
    ATTRIBUTES["CKA_KEY_TYPE"]: KEY_TYPES,
    ATTRIBUTES["CKA_KEY_GEN_MECHANISM"]: MECHANISMS,
}
"""Attributes whose numbers have names, and the names."""

EC_PARAMS: Final = ATTRIBUTES["CKA_EC_PARAMS"]

NOT_FLAT: Final = _numbers(
    "ALLOWED_MECHANISMS WRAP_TEMPLATE UNWRAP_TEMPLATE DERIVE_TEMPLATE START_DATE END_DATE"
)
"""Lists, templates and dates: no condition speaks of them."""

KEY_MATERIAL: Final = _numbers("VALUE PRIVATE_EXPONENT PRIME_1 PRIME_2 EXPONENT_1 EXPONENT_2 COEFFICIENT")
"""What no policy looks at: refusals and logs say what was looked at."""
