"""Key separation (Clulow 2003, section 3.1): a wrapping key changes sides by C_SetAttributeValue, after it has wrapped."""

from conformance.attacks.token import CBC, CKA, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    key = token.aes({CKA.WRAP: True})
    blob = token.wrap(CBC, key, victim)
    token.change(key, {CKA.WRAP: False, CKA.DECRYPT: True})
    return token.decrypt(CBC, key, blob)
