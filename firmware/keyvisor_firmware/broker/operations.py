"""What a call begins or ends on its session, as one bit per operation: a logout and a close have to know."""

from __future__ import annotations

from typing import Final

_OPERATIONS: Final = ("Encrypt", "Decrypt", "Digest", "Sign", "SignRecover", "Verify", "VerifyRecover")
_MESSAGE_OPERATIONS: Final = ("MessageEncrypt", "MessageDecrypt", "MessageSign", "MessageVerify")
_BIT: Final = {name: 1 << bit for bit, name in enumerate(_OPERATIONS + _MESSAGE_OPERATIONS)}

BEGINS: Final = {f"C_{operation}Init": bit for operation, bit in _BIT.items()}
ENDS: Final = {
    **{f"C_{operation}{how}": _BIT[operation] for operation in _OPERATIONS for how in ("", "Final")},
    **{f"C_{operation}Final": _BIT[operation] for operation in _MESSAGE_OPERATIONS},
}
