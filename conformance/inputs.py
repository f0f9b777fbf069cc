"""The files that the suites' commands read, made once for both sides, so that what is deterministic comes out the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from conformance.programs import clean_environment, run

_KEYS: Final = (
    "openssl genrsa -traditional -out rsa.pem 2048",
    "openssl rsa -in rsa.pem -traditional -outform DER -out rsa.der",
    "openssl ecparam -name prime256v1 -genkey -noout -outform DER -out ec.der",
    "openssl ec -in ec.der -inform DER -pubout -outform DER -out ec_public.der",
    "openssl rsa -in rsa.pem -pubout -out public.pem",
    "openssl req -x509 -key rsa.pem -subj /CN=conformance -out certificate.pem",
    "openssl x509 -in certificate.pem -outform DER -out certificate.der",
)


def make_inputs(directory: Path) -> None:
    """Make them all in `directory`: data, a digest, an AES key, an RSA and an EC key, a certificate."""
    (directory / "data").write_bytes(b"0123456789abcdef" * 8)
    (directory / "digest").write_bytes(bytes(range(32)))
    (directory / "aes").write_bytes(bytes(range(32)))
    for command in _KEYS:
        made = run(shlex.split(command), clean_environment(), directory)
        if made.code:
            raise SystemExit(f"`{command}` failed: {made.told.strip()}")
