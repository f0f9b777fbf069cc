"""Which releases a run was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from conformance.programs import clean_environment, run
from conformance.python_pkcs11 import RELEASE

# The system packages that take part, and what their programs are called here.
_PACKAGES: Final = {
    "softhsm2": "SoftHSM",
    "p11-kit-modules": "p11-kit's client",
    "p11-kit": "p11-kit server",
    "opensc": "OpenSC (pkcs11-tool)",
    "gnutls-bin": "GnuTLS (p11tool)",
    "openssl": "OpenSSL",
    "libengine-pkcs11-openssl": "its engine",
}


def versions() -> dict[str, str]:
    """Name and upstream release of each program that takes part."""
    found = {"python-pkcs11": RELEASE}
    for package, name in _PACKAGES.items():
        query = ("dpkg-query", "-W", "-f", "${Version}", package)
        told = run(query, clean_environment(), Path.cwd()).told
        found[name] = told.rpartition("-")[0] or told
    return found
