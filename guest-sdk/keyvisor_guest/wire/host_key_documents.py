"""Host-key documents: the X.509 certificates that say which public key a host's firmware has.

Reads the key out of one. It does not check who signed it, when it is valid or whether it was revoked: whoever
takes the key has to know the document's origin, and so the function's name says. Reads no file.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.errors import HostKeyUnusable
from keyvisor_guest.wire.p521 import require_p521

__all__ = ["MAX_DOCUMENT", "unverified_host_key"]

MAX_DOCUMENT: Final = 0x10000  # bytes of one host-key document
_PEM_MARK: Final = b"-----BEGIN CERTIFICATE-----"


def unverified_host_key(document: bytes) -> ec.EllipticCurvePublicKey:
    """The P-521 public key of one certificate, PEM or DER; nothing about the certificate is checked.

    Raises HostKeyUnusable for anything else, for several certificates in one document, and for another key.
    """
    if len(document) > MAX_DOCUMENT:
        raise HostKeyUnusable(
            f"a host-key document has at most {MAX_DOCUMENT} bytes: give the certificate alone"
        )
    try:
        key = _certificate(document).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HostKeyUnusable(
            "not an X.509 certificate, PEM or DER: give the host-key document itself"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise HostKeyUnusable(
            "the certificate's key is not one of secp521r1 (P-521): give a host-key document"
        )
    require_p521(key)
    return key


def _certificate(document: bytes) -> x509.Certificate:
    marks = document.count(_PEM_MARK)
    if marks > 1:
        raise HostKeyUnusable(f"{marks} certificates in one document: give each in its own file")
    return x509.load_pem_x509_certificate(document) if marks else x509.load_der_x509_certificate(document)
