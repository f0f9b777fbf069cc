"""The test CA that vouches for host keys: root CA, host-key signing key, host-key documents, revocation list.

Built as the chain of a real machine's host keys is, under names that say plainly that this is a rehearsal. Pure:
keys and times come in; where they are kept is not known here.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["DOCUMENT_NAME", "ROOT_NAME", "SIGNING_NAME", "document", "revocation_list", "root", "signing"]

_YEARS: Final = 30
_DAY: Final = datetime.timedelta(days=1)
_LIST_VALID: Final = datetime.timedelta(days=30)

Key = ec.EllipticCurvePrivateKey


def _name(unit: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "keyvisor test"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


ROOT_NAME: Final = _name("Test Root CA", "keyvisor test root CA")
SIGNING_NAME: Final = _name("Test Host Key Signing Service", "keyvisor test host-key signing key")
DOCUMENT_NAME: Final = _name("Test Host Key", "keyvisor test host key")


def root(key: Key, now: datetime.datetime) -> x509.Certificate:
    """The root CA's certificate, signed by itself."""
    builder = _ca(_certificate(ROOT_NAME, ROOT_NAME, key.public_key(), now), path_length=1)
    return builder.sign(key, hashes.SHA512())


def signing(
    key: ec.EllipticCurvePublicKey, issuer: x509.Certificate, issuer_key: Key, now: datetime.datetime
) -> x509.Certificate:
    """The certificate of the host-key signing key, issued by the root."""
    builder = _ca(_certificate(SIGNING_NAME, issuer.subject, key, now), path_length=0)
    return _issued(builder, issuer).sign(issuer_key, hashes.SHA512())


def document(
    key: ec.EllipticCurvePublicKey, issuer: x509.Certificate, issuer_key: Key, now: datetime.datetime
) -> x509.Certificate:
    """A host-key document: the certificate of the host key `key`, issued by the signing key."""
    builder = (
        _certificate(DOCUMENT_NAME, issuer.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(agreement=True), critical=True)
    )
    return _issued(builder, issuer).sign(issuer_key, hashes.SHA512())


def revocation_list(
    revoked: Iterable[tuple[int, datetime.datetime]],
    issuer: x509.Certificate,
    issuer_key: Key,
    now: datetime.datetime,
) -> x509.CertificateRevocationList:
    """The signing key's list of revoked documents (serial number, and since when), valid for 30 days.

    Its number is the second that it was made in, so that a later list never has a lower one.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - _DAY)
        .next_update(now + _LIST_VALID)
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(_authority(issuer), critical=False)
    )
    for serial, at in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer_key, hashes.SHA512())


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)  # clocks of owners' machines differ
        .not_valid_after(now + 365 * _YEARS * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _ca(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_usage(agreement=False), critical=True)


def _issued(builder: x509.CertificateBuilder, issuer: x509.Certificate) -> x509.CertificateBuilder:
    return builder.add_extension(_authority(issuer), critical=False)


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, agreement: bool) -> x509.KeyUsage:
    """What host keys are for (agreement), or else what CAs are for: certificates and revocation lists."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=agreement,
        key_cert_sign=not agreement,
        crl_sign=not agreement,
        encipher_only=False,
        decipher_only=False,
    )
