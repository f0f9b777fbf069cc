"""Related keys and reduced key space (Clulow 2003, sections 3.2 and 3.3), as far as a module has them.

SoftHSM 2.6.1 offers neither CKM_EXTRACT_KEY_FROM_KEY, CKM_XOR_BASE_AND_DATA nor CKM_CONCATENATE_*. The nearest variant
that works there: CKM_AES_ECB_ENCRYPT_DATA lets a wrapping key encrypt without CKA_ENCRYPT, block by block, which is all
that RFC 3394 needs to make a blob of the attacker's key; that key then wraps the victim.
"""

from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from conformance.attacks.token import AES, CKA, CKK_GENERIC_SECRET, CKM, KW, SIZE, Mechanism, Pointer, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    mine = b"m" * SIZE
    key = token.aes({CKA.UNWRAP: True, CKA.WRAP: True, CKA.DERIVE: True})
    known = token.unwrap(KW, key, _wrapped(token, key, mine), {CKA.WRAP: True})
    return aes_key_unwrap(mine, token.wrap(KW, known, victim))


def _wrapped(token: Token, key: int, value: bytes) -> bytes:
    """RFC 3394, section 2.2.1."""
    check, parts = b"\xa6" * 8, [value[at : at + 8] for at in range(0, len(value), 8)]
    for round_ in range(6):
        for index, part in enumerate(parts):
            block = _encrypted(token, key, check + part)
            step = len(parts) * round_ + index + 1
            check = (int.from_bytes(block[:8], "big") ^ step).to_bytes(8, "big")
            parts[index] = block[8:]
    return check + b"".join(parts)


def _encrypted(token: Token, key: int, block: bytes) -> bytes:
    mechanism = Mechanism(CKM.AES_ECB_ENCRYPT_DATA, [Pointer(block), len(block)])
    asked = {CKA.KEY_TYPE: CKK_GENERIC_SECRET, CKA.VALUE_LEN: 16, CKA.SENSITIVE: False, CKA.EXTRACTABLE: True}
    return token.read(token.derive(mechanism, key, {**AES, **asked}))
