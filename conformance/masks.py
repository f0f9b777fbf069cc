"""What is taken out of a program's output before it is compared: what differs from run to run, or from token to token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mask:
    """Every match of `pattern` is replaced, because."""

    pattern: re.Pattern[str]
    replacement: str
    why: str


MASKS: Final = (
    Mask(
        re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL),
        "(public key)",
        "public keys: every run makes new ones",
    ),
    Mask(
        re.compile(
            r"\b[0-9a-f]{16,}\b|\b(?:[0-9a-f]{2}:){7,}[0-9a-f]{2}\b|(?:%[0-9a-f]{2}){8,}", re.IGNORECASE
        ),
        "(random)",
        "long hexadecimal numbers: parts of keys, serial numbers and ids that were drawn at random",
    ),
    Mask(
        re.compile(r"^(Data object|Object) \d+", re.MULTILINE),
        r"\1",
        "numbers of objects: handles mean nothing beyond a connection, and the order of a search is nobody's promise",
    ),
    Mask(
        re.compile(r"model=[^;]*;manufacturer=[^;]*;serial=[^;]*;"),
        "",
        "in URLs of objects: model, manufacturer and serial number of the token, which the lists of tokens do compare",
    ),
    Mask(re.compile(r"\?pin-value=\d+"), "", "in URLs of keys: the PIN"),
    Mask(
        re.compile(r"(?<=decrypt), other flags=0x[0-9a-f]+"),
        "",
        "in lists of mechanisms: flags that pkcs11-tool has no name for. SoftHSM 2.6.1 adds flags to what stands in the "
        "caller's memory without clearing it (AES-ECB, DES3-ECB), so that the plain side shows what lay there",
    ),
)


def masked(told: str) -> str:
    """The text with every mask applied, in the order of the table."""
    for mask in MASKS:
        told = mask.pattern.sub(mask.replacement, told)
    return told
