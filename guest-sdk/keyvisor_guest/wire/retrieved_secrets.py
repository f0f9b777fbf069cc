"""What a retrieval gave, as people have it: a plaintext secret's payload, and the PEM document (formats, C.5).

A protected key here is the emulator's own, and its document says so: no real machine made it, and none takes it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_kinds import SecretKind

__all__ = ["KIND_NAMES", "payload_of", "pem_document", "protected_key_of"]

KIND_NAMES: Final[Mapping[SecretKind, str]] = MappingProxyType(
    {
        SecretKind.PLAINTEXT: "PLAINTEXT",
        SecretKind.AES_128: "AES-128-KEY",
        SecretKind.AES_192: "AES-192-KEY",
        SecretKind.AES_256: "AES-256-KEY",
        SecretKind.AES_XTS_128: "AES-XTS-128-KEY",
        SecretKind.AES_XTS_256: "AES-XTS-256-KEY",
        SecretKind.HMAC_SHA_256: "HMAC-SHA-256-KEY",
        SecretKind.HMAC_SHA_512: "HMAC-SHA-512-KEY",
        SecretKind.EC_P256: "EC-SECP256R1-PRIVATE-KEY",
        SecretKind.EC_P384: "EC-SECP384R1-PRIVATE-KEY",
        SecretKind.EC_P521: "EC-SECP521R1-PRIVATE-KEY",
        SecretKind.ED25519: "EC-ED25519-PRIVATE-KEY",
        SecretKind.ED448: "EC-ED448-PRIVATE-KEY",
    }
)
EMULATED: Final = (
    "emulator: keyvisor; not a protected key of IBM Z, usable in the guest that retrieved it only"
)

MAX_DOCUMENT: Final = 0x4000  # bytes of a document: twice what the longest secret takes

_LINE: Final = 64  # characters of base64
_PROTECTED_KEY: Final = re.compile(
    r"-----BEGIN IBM PROTECTED KEY-----\r?\n(?P<headers>(?:[a-z]+: [^\r\n]+\r?\n)+)\r?\n"
    r"(?P<body>(?:[A-Za-z0-9+/=]+\r?\n)+)-----END IBM PROTECTED KEY-----",
    re.ASCII,
)


def payload_of(value: bytes) -> bytes:
    """The payload of a plaintext secret: without its length in front and its padding behind.

    All of it, where it is not built so, as the tool does it.
    """
    # Loaded here: it loads all of `cryptography`, and a program that takes names only need not pay for that.
    from keyvisor_guest.wire.secret_values import plaintext_payload

    try:
        return plaintext_payload(value)
    except Malformed:
        return value


def pem_document(kind: SecretKind, value: bytes) -> str:
    """The document for the payload of a plaintext secret, or for a protected key. Raises KeyError for other kinds."""
    plaintext = kind is SecretKind.PLAINTEXT
    label = "PLAINTEXT SECRET" if plaintext else "IBM PROTECTED KEY"
    headers = [f"kind: {KIND_NAMES[kind]}", *([] if plaintext else [EMULATED])]
    text = base64.b64encode(value).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *headers, "", *lines, f"-----END {label}-----", ""])


def protected_key_of(document: bytes) -> tuple[SecretKind, bytes]:
    """The kind and the bytes of a protected key's document, as `pem_document` writes it. Raises Malformed.

    Whether they are a key that this guest can use is the firmware's to say.
    """
    if len(document) > MAX_DOCUMENT:
        raise Malformed(f"a protected key's document has at most {MAX_DOCUMENT} bytes, not {len(document)}")
    found = _PROTECTED_KEY.search(document.decode("ascii", "replace"))
    headers = dict(line.split(": ", 1) for line in found["headers"].splitlines()) if found else {}
    kinds = [kind for kind, name in KIND_NAMES.items() if name == headers.get("kind")]
    if found is None or not kinds or kinds == [SecretKind.PLAINTEXT]:
        raise Malformed(
            "this is no document of a protected key: `keyvisor guest secret retrieve` writes one for a key"
        )
    try:
        return kinds[0], base64.b64decode("".join(found["body"].split()), validate=True)
    except ValueError:
        raise Malformed(
            "the document of a protected key is damaged: `keyvisor guest secret retrieve` writes it again"
        ) from None
