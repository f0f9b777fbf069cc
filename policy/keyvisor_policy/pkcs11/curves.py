"""CKA_EC_PARAMS of the curves that policies call by name: the DER of their object identifier (RFC 5480, RFC 5639, RFC 8410).

PKCS#11 3.0 also has the Edwards and Montgomery curves as a PrintableString with the curve's name, which modules of that
time write; both are the same curve.
"""

from __future__ import annotations

from typing import Final

CURVES: Final[dict[str, tuple[bytes, ...]]] = {
    "secp192r1": (bytes.fromhex("06082a8648ce3d030101"),),
    "secp224r1": (bytes.fromhex("06052b81040021"),),
    "secp256r1": (bytes.fromhex("06082a8648ce3d030107"),),
    "secp384r1": (bytes.fromhex("06052b81040022"),),
    "secp521r1": (bytes.fromhex("06052b81040023"),),
    "secp256k1": (bytes.fromhex("06052b8104000a"),),
    "brainpoolP224r1": (bytes.fromhex("06092b2403030208010105"),),
    "brainpoolP256r1": (bytes.fromhex("06092b2403030208010107"),),
    "brainpoolP320r1": (bytes.fromhex("06092b2403030208010109"),),
    "brainpoolP384r1": (bytes.fromhex("06092b240303020801010b"),),
    "brainpoolP512r1": (bytes.fromhex("06092b240303020801010d"),),
    "ed25519": (bytes.fromhex("06032b6570"), bytes.fromhex("130c656477617264733235353139")),
    "ed448": (bytes.fromhex("06032b6571"), bytes.fromhex("130a65647761726473343438")),
    "x25519": (bytes.fromhex("06032b656e"), bytes.fromhex("130a63757276653235353139")),
    "x448": (bytes.fromhex("06032b656f"), bytes.fromhex("13086375727665343438")),
}
