"""Which releases a run was made with."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Final

from conformance.programs import clean_environment, run
from conformance.python_pkcs11 import RELEASE

_PROGRAMS: Final = {
    "SoftHSM": "softhsm2-util --version",
    "p11-kit": "p11-kit --version",
    "OpenSC": "opensc-tool --version",
    "GnuTLS": "p11tool --version",
    "OpenSSL": "openssl version",
}
_NUMBER: Final = re.compile(r"\d+\.\d+(?:\.\d+)*")


def versions() -> dict[str, str]:
    """Name and release of each program and library that takes part."""
    found = {"python-pkcs11": RELEASE}
    with tempfile.TemporaryDirectory() as name:
        for program, command in _PROGRAMS.items():
            match = _NUMBER.search(run(command.split(), clean_environment(), Path(name)).told)
            found[program] = match[0] if match else "of unknown release"
    return found
