"""The operations that client.c knows, and what the tables call them."""

from __future__ import annotations

from typing import Final

OPERATIONS: Final = {
    "session-info": "C_GetSessionInfo",
    "random-32": "C_GenerateRandom, 32 B",
    "sha256-1k": "SHA-256, 1 KiB",
    "hmac-1k": "HMAC-SHA256, 1 KiB",
    "ecb-4k": "AES-ECB, 4 KiB",
    "ecb-1m": "AES-ECB, 1 MiB",
    "ecdsa-p256": "ECDSA P-256",
    "rsa-2048": "RSA-2048 signature",
    "login": "open, login, find, close",
    "attributes-10": "C_GetAttributeValue, 10 attributes",
    "find": "C_FindObjects, one of {objects:,}",
}

# Threads of one process share one login: only the first of them would log in.
NOT_WITH_THREADS: Final = frozenset(("login",))
