"""Writes the names of PKCS#11 that policies may use, `policy/keyvisor_policy/pkcs11/names.py`, from the project's own constants.

The policy package stands alone, so it has a table of its own; a test compares the two. `--check` writes nothing.
"""

from __future__ import annotations

import enum
import subprocess
import sys
from pathlib import Path

from keyvisor_hsm.cryptoki import CKA, CKK, CKM, CKO

TARGET = Path(__file__).parent.parent / "policy/keyvisor_policy/pkcs11/names.py"
HEAD = '''"""Numbers of PKCS#11 by the names that policies use. Made by `scripts/make_pkcs11_names.py`; do not edit."""

from __future__ import annotations

from typing import Final
'''
TABLES: tuple[tuple[str, type[enum.IntEnum], str], ...] = (
    ("MECHANISMS", CKM, "CK_MECHANISM_TYPE"),
    ("ATTRIBUTES", CKA, "CK_ATTRIBUTE_TYPE"),
    ("KEY_TYPES", CKK, "CK_KEY_TYPE"),
    ("OBJECT_CLASSES", CKO, "CK_OBJECT_CLASS"),
)


def text() -> str:
    """The module as it has to be."""
    parts = [HEAD]
    for name, numbers, standard in TABLES:
        rows = [
            f'    "{numbers.__name__}_{member}": {int(value):#x},'
            for member, value in numbers.__members__.items()
        ]
        parts.append("\n".join([f"{name}: Final[dict[str, int]] = {{", *rows, "}", f'"""{standard}."""', ""]))
    return "\n".join(parts)


def main() -> None:
    """Write it, or with `--check` say whether it has to be written."""
    if "--check" in sys.argv[1:]:
        raise SystemExit(
            0
            if TARGET.read_text(encoding="utf-8") == text()
            else f"{TARGET.name} is out of date: run scripts/make_pkcs11_names.py"
        )
    TARGET.write_text(text(), encoding="utf-8")
    subprocess.run(["ruff", "format", "--quiet", str(TARGET)], check=False)


if __name__ == "__main__":
    main()
