"""What a generation makes although its template may leave it out (PKCS#11 3.1, section 5.18: "if not given, implied")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyvisor_policy.pkcs11.names import ATTRIBUTES, KEY_TYPES, MECHANISMS, OBJECT_CLASSES

CLASS: Final = ATTRIBUTES["CKA_CLASS"]
KEY_TYPE: Final = ATTRIBUTES["CKA_KEY_TYPE"]

CLASSES_MADE: Final[Mapping[str, tuple[int, ...]]] = {
    "C_GenerateKey": (OBJECT_CLASSES["CKO_SECRET_KEY"],),
    "C_GenerateKeyPair": (OBJECT_CLASSES["CKO_PUBLIC_KEY"], OBJECT_CLASSES["CKO_PRIVATE_KEY"]),
}
"""A generation -> the classes of the objects that it makes, in their order."""

KEY_TYPES_MADE: Final[Mapping[int, int]] = {
    MECHANISMS[f"CKM_{mechanism}"]: KEY_TYPES[f"CKK_{key_type}"]
    for mechanism, key_type in {
        "RSA_PKCS_KEY_PAIR_GEN": "RSA",
        "RSA_X9_31_KEY_PAIR_GEN": "RSA",
        "DSA_KEY_PAIR_GEN": "DSA",
        "DH_PKCS_KEY_PAIR_GEN": "DH",
        "EC_KEY_PAIR_GEN": "EC",
        "EC_EDWARDS_KEY_PAIR_GEN": "EC_EDWARDS",
        "AES_KEY_GEN": "AES",
        "DES_KEY_GEN": "DES",
        "DES2_KEY_GEN": "DES2",
        "DES3_KEY_GEN": "DES3",
        "GENERIC_SECRET_KEY_GEN": "GENERIC_SECRET",
    }.items()
}
"""A mechanism of generation -> the key type that it implies."""
