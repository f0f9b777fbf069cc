"""The calls that control points decide, and what else is asked under the same name."""

from __future__ import annotations

from typing import Final

FORMS: Final[dict[str, tuple[str, ...]]] = {
    "C_InitToken": ("C_InitToken2",),
    "C_InitPIN": (),
    "C_SetPIN": (),
    "C_Login": ("C_LoginUser",),
    "C_GetOperationState": (),
    "C_SetOperationState": (),
    "C_CreateObject": (),
    "C_CopyObject": (),
    "C_DestroyObject": (),
    "C_GetAttributeValue": (),
    "C_SetAttributeValue": (),
    "C_EncryptInit": ("C_MessageEncryptInit",),
    "C_DecryptInit": ("C_MessageDecryptInit",),
    "C_DigestInit": (),
    "C_DigestKey": (),
    "C_SignInit": ("C_MessageSignInit",),
    "C_SignRecoverInit": (),
    "C_VerifyInit": ("C_MessageVerifyInit",),
    "C_VerifyRecoverInit": (),
    "C_GenerateKey": (),
    "C_GenerateKeyPair": (),
    "C_WrapKey": (),
    "C_UnwrapKey": (),
    "C_DeriveKey": ("C_DeriveKey2",),
    "C_SeedRandom": (),
    "C_GenerateRandom": (),
}
"""A call that a policy may name -> the calls that are the same thing asked in another way, which the name covers."""

DECIDED: Final = frozenset((*FORMS, *(form for forms in FORMS.values() for form in forms)))
"""Every call that a control point may decide. Searching and the like only tell what there is, and are not among them."""

DECIDED_AT: Final[dict[str, str]] = {
    **{form: call for call, forms in FORMS.items() for form in forms},
    **{
        f"C_{operation}{how}": f"C_{operation}Init"
        for operation in ("Encrypt", "Decrypt", "Digest", "Sign", "Verify")
        for how in ("", "Update", "Final")
    },
    "C_SignRecover": "C_SignRecoverInit",
    "C_VerifyRecover": "C_VerifyRecoverInit",
    **{
        f"C_{operation}Message{how}": f"C_{operation}Init"
        for operation in ("Encrypt", "Decrypt", "Sign", "Verify")
        for how in ("", "Begin", "Next")
    },
    **{
        f"C_Message{operation}Final": f"C_{operation}Init"
        for operation in ("Encrypt", "Decrypt", "Sign", "Verify")
    },
}
"""A call that comes after the decision, or in another form -> the call that a policy names instead."""

_OF_A_KEY: Final = (
    *(
        f"C_{operation}Init"
        for operation in ("Encrypt", "Decrypt", "Sign", "SignRecover", "Verify", "VerifyRecover")
    ),
    "C_WrapKey",
    "C_UnwrapKey",
    "C_DeriveKey",
)

WITH_MECHANISM: Final = frozenset((*_OF_A_KEY, "C_DigestInit", "C_GenerateKey", "C_GenerateKeyPair"))
"""Of FORMS the calls that have a mechanism: no other can meet a control point that names one."""

WITH_TEMPLATE: Final = frozenset(
    (
        "C_CreateObject",
        "C_CopyObject",
        "C_SetAttributeValue",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_WrapKey",
        "C_UnwrapKey",
        "C_DeriveKey",
    )
)
"""Those that make, change or let out an object: `template` is the object as it would be."""

WITH_KEY: Final = frozenset(
    (
        *_OF_A_KEY,
        "C_SetOperationState",
        "C_CopyObject",
        "C_DestroyObject",
        "C_GetAttributeValue",
        "C_SetAttributeValue",
        "C_DigestKey",
    )
)
"""Those that use a key, or another object, that is there."""


ON_ACCELERATORS: Final = frozenset(
    (
        "C_Login",
        "C_CreateObject",
        "C_DestroyObject",
        "C_GetAttributeValue",
        "C_SetAttributeValue",
        *(f"C_{operation}Init" for operation in ("Encrypt", "Decrypt", "Digest", "Sign", "SignRecover")),
        *(f"C_Verify{how}Init" for how in ("", "Recover")),
        "C_DigestKey",
        "C_SeedRandom",
        "C_GenerateRandom",
    )
)
"""Of FORMS those that an accelerator serves, which keeps no keys."""

ON_BOUND: Final = frozenset(("C_DigestInit", "C_SeedRandom", "C_GenerateRandom"))
"""Of FORMS those that an HSM serves which is bound and not associated."""


def named(call: str) -> str:
    """The name that a policy has for a call: itself, or the call of which it is a form."""
    return call if call in FORMS else DECIDED_AT.get(call, call)
