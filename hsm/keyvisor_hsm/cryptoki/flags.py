"""The small numbers of Cryptoki: flags, session states, user types, object classes (PKCS#11 2.40)."""

from __future__ import annotations

from typing import Final

CKF_TOKEN_PRESENT: Final = 1 << 0
CKF_REMOVABLE_DEVICE: Final = 1 << 1
CKF_HW_SLOT: Final = 1 << 2

CKF_RNG: Final = 1 << 0
CKF_LOGIN_REQUIRED: Final = 1 << 2
CKF_USER_PIN_INITIALIZED: Final = 1 << 3
CKF_PROTECTED_AUTHENTICATION_PATH: Final = 1 << 8
CKF_TOKEN_INITIALIZED: Final = 1 << 10
CKF_USER_PIN_COUNT_LOW: Final = 1 << 16
CKF_USER_PIN_FINAL_TRY: Final = 1 << 17
CKF_USER_PIN_LOCKED: Final = 1 << 18
CKF_SO_PIN_COUNT_LOW: Final = 1 << 20
CKF_SO_PIN_FINAL_TRY: Final = 1 << 21
CKF_SO_PIN_LOCKED: Final = 1 << 22

CKF_MESSAGE_ENCRYPT: Final = 1 << 1  # PKCS#11 3.0
CKF_MESSAGE_DECRYPT: Final = 1 << 2
CKF_MESSAGE_SIGN: Final = 1 << 3
CKF_MESSAGE_VERIFY: Final = 1 << 4
CKF_ENCRYPT: Final = 1 << 8
CKF_DECRYPT: Final = 1 << 9
CKF_DIGEST: Final = 1 << 10
CKF_SIGN: Final = 1 << 11
CKF_SIGN_RECOVER: Final = 1 << 12
CKF_VERIFY: Final = 1 << 13
CKF_VERIFY_RECOVER: Final = 1 << 14
CKF_GENERATE: Final = 1 << 15
CKF_GENERATE_KEY_PAIR: Final = 1 << 16
CKF_WRAP: Final = 1 << 17
CKF_UNWRAP: Final = 1 << 18
CKF_DERIVE: Final = 1 << 19

FUNCTIONS_OF_MECHANISMS: Final = {
    CKF_MESSAGE_ENCRYPT: "C_MessageEncryptInit",
    CKF_MESSAGE_DECRYPT: "C_MessageDecryptInit",
    CKF_MESSAGE_SIGN: "C_MessageSignInit",
    CKF_MESSAGE_VERIFY: "C_MessageVerifyInit",
    CKF_ENCRYPT: "C_EncryptInit",
    CKF_DECRYPT: "C_DecryptInit",
    CKF_DIGEST: "C_DigestInit",
    CKF_SIGN: "C_SignInit",
    CKF_SIGN_RECOVER: "C_SignRecoverInit",
    CKF_VERIFY: "C_VerifyInit",
    CKF_VERIFY_RECOVER: "C_VerifyRecoverInit",
    CKF_GENERATE: "C_GenerateKey",
    CKF_GENERATE_KEY_PAIR: "C_GenerateKeyPair",
    CKF_WRAP: "C_WrapKey",
    CKF_UNWRAP: "C_UnwrapKey",
    CKF_DERIVE: "C_DeriveKey",
}
"""A flag of CK_MECHANISM_INFO -> the function that takes the mechanism."""

CKF_RW_SESSION: Final = 1 << 1
CKF_SERIAL_SESSION: Final = 1 << 2

CKF_DONT_BLOCK: Final = 1
CKF_OS_LOCKING_OK: Final = 1 << 1
CKF_ARRAY_ATTRIBUTE: Final = 1 << 30

CKS_RO_PUBLIC_SESSION: Final = 0
CKS_RO_USER_FUNCTIONS: Final = 1
CKS_RW_PUBLIC_SESSION: Final = 2
CKS_RW_USER_FUNCTIONS: Final = 3
CKS_RW_SO_FUNCTIONS: Final = 4

CKU_SO: Final = 0
CKU_USER: Final = 1
CKU_CONTEXT_SPECIFIC: Final = 2

CK_UNAVAILABLE_INFORMATION: Final = (1 << 64) - 1
CK_INVALID_HANDLE: Final = 0
