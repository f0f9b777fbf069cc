"""Who vouches for a host-key document: its signer, who signed that, and so on up to a root that the owner trusts.

Pure: certificates, revocation lists and the time come in as arguments; nothing is ever fetched. Each refusal says
which certificate it is about, and the way out.

The rules (RFC 5280, as far as these chains go):

* Everybody in the chain is within their validity, and has signed with SHA-256, SHA-384 or SHA-512.
* The document's key is one of P-521, and the document is no CA's: it may agree on keys, not sign.
* Every signer is a CA that may sign certificates, with no more CAs below it than it allows. Alone the signing key of
  real machines, which is no CA, is known by its name, as IBM's own tools know it; its way to the root is checked alike.
* The signer of the document has published a revocation list that is valid now and does not name the document. A
  list of another signer of the chain is held against what that signed, where it is given.
* Two names are one if they have the same entries, in whatever order: those of real machines differ in it.
* What says that it must be understood (a critical extension) and is not: refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from keyvisor_guest.wire.errors import HostKeyUntrusted, HostKeyUnusable
from keyvisor_guest.wire.host_key_documents import UNREADABLE, certificate_key, read_certificate

__all__ = ["Trust", "verified_host_key"]

_RSA: Final = (padding.PKCS1v15, padding.PSS)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNDERSTOOD: Final = (x509.BasicConstraints, x509.KeyUsage)

# Whose documents real machines have: all six entries of the signing key's subject, the unit only by its end.
_IBM: Final = {
    NameOID.COUNTRY_NAME: "US",
    NameOID.STATE_OR_PROVINCE_NAME: "New York",
    NameOID.LOCALITY_NAME: "Poughkeepsie",
    NameOID.ORGANIZATION_NAME: "International Business Machines Corporation",
    NameOID.COMMON_NAME: "International Business Machines Corporation",
}
_IBM_UNIT: Final = "Key Signing Service"


@dataclass(frozen=True, slots=True)
class Trust:
    """What a document is held against: `root` is trusted, `certificates` and `lists` prove themselves by signatures."""

    root: x509.Certificate
    certificates: tuple[x509.Certificate, ...]
    lists: tuple[x509.CertificateRevocationList, ...]


def verified_host_key(document: bytes, trust: Trust, now: datetime.datetime) -> ec.EllipticCurvePublicKey:
    """The P-521 public key of a host-key document (PEM or DER) that `trust` vouches for at the time `now`.

    Raises HostKeyUntrusted with the first rule that is not kept, HostKeyUnusable for what is no such document.
    """
    certificate = read_certificate(document)
    key = certificate_key(certificate)
    try:
        _check_all(certificate, trust, now)
    except UNREADABLE as error:
        raise HostKeyUnusable(
            "the host-key document, or what is given beside it, has parts that are not X.509's: "
            "take the files from where they were made"
        ) from error
    return key


def _check_all(document: x509.Certificate, trust: Trust, now: datetime.datetime) -> None:
    _check_document(document, now)
    chain = _chain(document, trust)
    for below, signer in enumerate(chain):
        _check_signer(signer, below, now)
    for number, (child, signer) in enumerate(zip((document, *chain), chain, strict=False)):
        _check_revocation(child, signer, trust.lists, now, required=number == 0)


def _check_document(certificate: x509.Certificate, now: datetime.datetime) -> None:
    what = "the host-key document"
    _check_validity(certificate, what, now)
    _check_critical(certificate.extensions, what)
    constraints, usage = _constraints(certificate), _usage(certificate)
    if constraints is not None and constraints.ca:
        raise HostKeyUntrusted(f"{what} is the certificate of a CA: give the host key's own")
    if usage is not None and not usage.key_agreement:
        raise HostKeyUntrusted(f"{what} does not allow key agreement: give the certificate of a host key")


def _chain(document: x509.Certificate, trust: Trust) -> tuple[x509.Certificate, ...]:
    """Who signed the document, who signed that, up to the root. Signatures and names are right, nothing else yet."""
    chain = [_issuer(document, "the host-key document", trust)]
    while chain[-1] != trust.root:
        if len(chain) > len(trust.certificates):
            raise HostKeyUntrusted(
                "the certificates sign each other and lead to no root: give --root-ca's own"
            )
        chain.append(_issuer(chain[-1], _named(chain[-1]), trust))
    if not _signed_by(trust.root, trust.root):
        raise HostKeyUntrusted(
            f"{_named(trust.root)} is taken as root and is not self-signed: give the root CA with --root-ca"
        )
    return tuple(chain)


def _issuer(child: x509.Certificate, what: str, trust: Trust) -> x509.Certificate:
    candidates = [one for one in (trust.root, *trust.certificates) if _same(one.subject, child.issuer)]
    if not candidates:
        raise HostKeyUntrusted(
            f"{what} was issued by `{child.issuer.rfc4514_string()}`, of whom no certificate is given: "
            "give it with --cert, or take the document from where the others are from"
        )
    if not isinstance(child.signature_hash_algorithm, _HASHES):
        raise HostKeyUntrusted(f"{what} is signed with a weak or unknown hash: ask for a new one")
    for candidate in candidates:
        if _signed_by(child, candidate):
            return candidate
    raise HostKeyUntrusted(
        f"the signature of {what} is not that of {_named(candidates[0])}: it was changed, or somebody else made it"
    )


def _signed_by(child: x509.Certificate, signer: x509.Certificate) -> bool:
    key, digest, how = (
        signer.public_key(),
        child.signature_hash_algorithm,
        child.signature_algorithm_parameters,
    )
    signature, content = child.signature, child.tbs_certificate_bytes
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
            key.verify(signature, content, how)
            return True
        if isinstance(key, rsa.RSAPublicKey) and isinstance(how, _RSA) and digest is not None:
            key.verify(signature, content, how, digest)
            return True
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return False


def _check_signer(signer: x509.Certificate, below: int, now: datetime.datetime) -> None:
    """`below` is the number of CAs between the signer and the document."""
    what = _named(signer)
    _check_validity(signer, what, now)
    _check_critical(signer.extensions, what)
    if below == 0 and _is_real_signing_key(signer):
        return
    constraints, usage = _constraints(signer), _usage(signer)
    if constraints is None or not constraints.ca:
        raise HostKeyUntrusted(f"{what} is no CA and vouches for nobody: give the host-key signing key's own")
    if usage is None or not usage.key_cert_sign:
        raise HostKeyUntrusted(f"{what} may not sign certificates: give the host-key signing key's own")
    if constraints.path_length is not None and below > constraints.path_length:
        raise HostKeyUntrusted(
            f"{what} allows {constraints.path_length} CAs below it, not {below}: whoever is below made up their own"
        )


def _check_revocation(
    child: x509.Certificate,
    signer: x509.Certificate,
    lists: Iterable[x509.CertificateRevocationList],
    now: datetime.datetime,
    *,
    required: bool,
) -> None:
    """Hold `child` against all lists of its signer; at least one must be there where it is `required`."""
    named = [one for one in lists if _same(one.issuer, signer.subject)]
    if required and not named:
        raise HostKeyUntrusted(f"no revocation list of {_named(signer)} is given: give it with --crl")
    for revoked in named:
        _check_list(revoked, signer, now)
        if revoked.get_revoked_certificate_by_serial_number(child.serial_number) is not None:
            raise HostKeyUntrusted(
                f"{_named(child)}, serial number {child.serial_number:x}, was revoked: "
                "ask for the host's present host-key document"
            )


def _check_list(
    revoked: x509.CertificateRevocationList, signer: x509.Certificate, now: datetime.datetime
) -> None:
    what = f"the revocation list of {_named(signer)}"
    usage, key = _usage(signer), signer.public_key()
    if (usage is None or not usage.crl_sign) and not _is_real_signing_key(signer):
        raise HostKeyUntrusted(f"{_named(signer)} may not sign revocation lists: ask who issued it")
    if not isinstance(revoked.signature_hash_algorithm, _HASHES):
        raise HostKeyUntrusted(f"{what} is signed with a weak or unknown hash: ask for a new one")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or not revoked.is_signature_valid(
        key
    ):
        raise HostKeyUntrusted(
            f"the signature of {what} is not theirs: it was changed, or somebody else made it"
        )
    _check_critical(revoked.extensions, what)
    if revoked.last_update_utc > now:
        raise HostKeyUntrusted(
            f"{what} is not valid before {revoked.last_update_utc:%Y-%m-%d %H:%M}: {_CLOCK}"
        )
    if revoked.next_update_utc is None or revoked.next_update_utc < now:
        raise HostKeyUntrusted(f"{what} is too old: ask for the present one")


_CLOCK: Final = "is this machine's clock right?"


def _check_validity(certificate: x509.Certificate, what: str, now: datetime.datetime) -> None:
    if certificate.not_valid_before_utc > now:
        raise HostKeyUntrusted(
            f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}: {_CLOCK}"
        )
    if certificate.not_valid_after_utc < now:
        raise HostKeyUntrusted(
            f"{what} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}: ask for the present one"
        )


def _check_critical(extensions: x509.Extensions, what: str) -> None:
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise HostKeyUntrusted(
                f"{what} has the critical extension {extension.oid.dotted_string}, which is not understood here: "
                "ask for one without it"
            )


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _same(one: x509.Name, other: x509.Name) -> bool:
    return _entries(one) == _entries(other)


def _entries(name: x509.Name) -> list[tuple[str, str | bytes]]:
    return sorted((entry.oid.dotted_string, entry.value) for entry in name)


def _is_real_signing_key(certificate: x509.Certificate) -> bool:
    found = {entry.oid: entry.value for entry in certificate.subject}
    unit = found.pop(NameOID.ORGANIZATIONAL_UNIT_NAME, None)
    alone = len(list(certificate.subject)) == len(_IBM) + 1
    return alone and found == _IBM and isinstance(unit, str) and unit.endswith(_IBM_UNIT)


def _named(certificate: x509.Certificate) -> str:
    return f"`{certificate.subject.rfc4514_string()}`"
