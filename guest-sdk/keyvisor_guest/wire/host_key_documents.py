"""Host-key documents: the X.509 certificates that say which public key a host's firmware has.

Reads them, and what goes with them: the certificates of who signed them, and lists of revoked ones. Who signed a
document is held against all that in `host_key_chain`; `unverified_host_key` takes the key as it comes, and so its
name says. Reads no file.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.errors import HostKeyUnusable
from keyvisor_guest.wire.p521 import require_p521

__all__ = [
    "MAX_DOCUMENT",
    "MAX_REVOCATION_LIST",
    "UNREADABLE",
    "certificate_key",
    "read_certificate",
    "read_certificates",
    "read_revocation_list",
    "unverified_host_key",
]

MAX_DOCUMENT: Final = 0x10000  # bytes of one host-key document, or of one file of certificates
MAX_REVOCATION_LIST: Final = 1 << 24  # bytes of one revocation list
MAX_CERTIFICATES: Final = 16  # of one file
# What the library raises for bytes that are no certificate or list, at once or when a part is first looked at.
UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_CERTIFICATE_MARK: Final = b"-----BEGIN CERTIFICATE-----"
_LIST_MARK: Final = b"-----BEGIN X509 CRL-----"


def unverified_host_key(document: bytes) -> ec.EllipticCurvePublicKey:
    """The P-521 public key of one certificate, PEM or DER; nothing about the certificate is checked.

    Raises HostKeyUnusable for anything else, for several certificates in one document, and for another key.
    """
    return certificate_key(read_certificate(document))


def certificate_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's P-521 public key. Raises HostKeyUnusable for another kind of key."""
    try:
        key = certificate.public_key()
    except UNREADABLE as error:
        raise _no_certificate() from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise HostKeyUnusable(
            "the certificate's key is not one of secp521r1 (P-521): give a host-key document"
        )
    require_p521(key)
    return key


def read_certificate(document: bytes) -> x509.Certificate:
    """One certificate, PEM or DER. Raises HostKeyUnusable for anything else, and for several in one document."""
    if len(document) > MAX_DOCUMENT:
        raise HostKeyUnusable(
            f"a host-key document has at most {MAX_DOCUMENT} bytes: give the certificate alone"
        )
    marks = document.count(_CERTIFICATE_MARK)
    if marks > 1:
        raise HostKeyUnusable(f"{marks} certificates in one document: give each in its own file")
    try:
        return x509.load_pem_x509_certificate(document) if marks else x509.load_der_x509_certificate(document)
    except UNREADABLE as error:
        raise _no_certificate() from error


def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """1 to 16 certificates one after the other as PEM, or a single one as DER. Raises HostKeyUnusable."""
    marks = data.count(_CERTIFICATE_MARK)
    if len(data) > MAX_DOCUMENT or marks > MAX_CERTIFICATES:
        raise HostKeyUnusable(
            f"a file of certificates has at most {MAX_CERTIFICATES} of them in {MAX_DOCUMENT} bytes: "
            "give those alone that lead from the host-key document to the root"
        )
    if marks < 2:
        return (read_certificate(data),)
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except UNREADABLE as error:
        raise _no_certificate() from error


def read_revocation_list(data: bytes) -> x509.CertificateRevocationList:
    """One certificate revocation list, PEM or DER. Raises HostKeyUnusable."""
    if len(data) > MAX_REVOCATION_LIST:
        raise HostKeyUnusable(f"a revocation list has at most {MAX_REVOCATION_LIST} bytes: give it alone")
    marks = data.count(_LIST_MARK)
    if marks > 1:
        raise HostKeyUnusable(f"{marks} revocation lists in one file: give each in its own file")
    try:
        return x509.load_pem_x509_crl(data) if marks else x509.load_der_x509_crl(data)
    except UNREADABLE as error:
        raise HostKeyUnusable(
            "not a revocation list, PEM or DER: give the one of whoever signed the host-key document"
        ) from error


def _no_certificate() -> HostKeyUnusable:
    return HostKeyUnusable("not an X.509 certificate, PEM or DER: give the host-key document itself")
