"""Which calls may take long, so that whoever reads hands the reading on before it answers one."""

from __future__ import annotations

from typing import Final

from keyvisor_hsm.cryptoki import CKM

# Calls that may take long whatever they are given: they make keys, hash PINs or wait.
SLOW: Final = frozenset(
    (
        "C_InitToken",
        "C_InitToken2",
        "C_InitPIN",
        "C_SetPIN",
        "C_Login",
        "C_LoginUser",
        "C_CreateObject",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_UnwrapKey",
        "C_DeriveKey",
        "C_DeriveKey2",
        "C_WaitForSlotEvent",
    )
)
# Calls that take long with a private key of these mechanisms, and the calls that say which mechanism it is.
WITH_PRIVATE_KEY: Final = frozenset(
    ("C_Sign", "C_SignFinal", "C_SignRecover", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal")
)
BEGIN_WITH_PRIVATE_KEY: Final = frozenset(("C_SignInit", "C_SignRecoverInit", "C_DecryptInit"))
HEAVY: Final = frozenset(type_ for type_ in CKM if "RSA" in type_.name or type_.name.startswith("DSA"))
