"""A real PKCS#11 module, and PKCS#11's own headers where they are installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

HEADER = Path("/usr/include/p11-kit-1/p11-kit/pkcs11.h")


@pytest.fixture(scope="session")
def softhsm() -> Path:
    """SoftHSM's library."""
    path = Path(os.environ.get("KEYVISOR_TEST_MODULE", "/usr/lib/softhsm/libsofthsm2.so"))
    if not path.exists():
        pytest.skip(f"there is no SoftHSM at {path}")
    return path


@pytest.fixture(scope="session")
def header() -> str:
    """The text of p11-kit's pkcs11.h."""
    if not HEADER.exists():
        pytest.skip(f"there is no {HEADER}; package libp11-kit-dev has it")
    return HEADER.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def defined(header: str) -> dict[str, int]:
    """Every number that the header gives a name with `#define`."""
    found: dict[str, int] = {}
    for name, text in re.findall(r"^#define (CK[A-Z]_\w+)\s+(.+?)\s*$", header, re.MULTILINE):
        text = re.sub(r"\(\(unsigned long\)|\b(0x[0-9a-fA-F]+|\d+)UL\b", lambda m: m[1] or "(", text)
        text = re.sub(r"\bCK[A-Z]_\w+", lambda m: str(found.get(m[0], m[0])), text)
        if (value := _value(text)) is not None:
            found[name] = value
    assert len(found) > 600
    return found


def _value(text: str) -> int | None:
    """The value of a constant expression of `|` and `<<`; None for anything else."""
    text = text.replace("(", "").replace(")", "")
    try:
        parts = [part.split("<<") for part in text.split("|")]
        value = 0
        for part in parts:
            number, *shifts = (int(operand.strip(), 0) for operand in part)
            for shift in shifts:
                number <<= shift
            value |= number
    except ValueError:
        return None
    return value
