"""Who vouches for a host-key document: one good chain, and a broken twin for every rule."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.wire.errors import HostKeyUntrusted, HostKeyUnusable
from keyvisor_guest.wire.host_key_chain import Trust, verified_host_key
from keyvisor_guest.wire.host_key_documents import (
    MAX_REVOCATION_LIST,
    read_certificates,
    read_revocation_list,
)

NOON = datetime.datetime(2026, 2, 3, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)

Key = ec.EllipticCurvePrivateKey


def key(number: int) -> Key:
    return ec.derive_private_key(number, ec.SECP521R1())


def usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


@dataclass(frozen=True)
class Made:
    """A certificate before it is made; `issuer` signs, under its own name unless another one is given."""

    name: str
    key: Key
    issuer: Made | None = None
    ca: bool | None = True
    path_length: int | None = None
    use: x509.KeyUsage | None = field(default_factory=lambda: usage(key_cert_sign=True, crl_sign=True))
    serial: int = 7
    start: datetime.datetime = NOON - DAY
    end: datetime.datetime = NOON + DAY
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA512)
    critical: bool = False
    public_key: object = None
    whole_name: x509.Name | None = None
    issuer_name: x509.Name | None = None

    @property
    def subject(self) -> x509.Name:
        return self.whole_name or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    def make(self) -> x509.Certificate:
        signer = self.issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.issuer_name or signer.subject)
            .public_key(self.public_key or self.key.public_key())  # type: ignore[arg-type]
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        if self.ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(self.ca, self.path_length), critical=True)
        if self.use is not None:
            builder = builder.add_extension(self.use, critical=True)
        if self.critical:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        return builder.sign(signer.key, self.digest)  # type: ignore[arg-type]


ROOT = Made("root", key(1), path_length=1)
SIGNING = Made("signing", key(2), ROOT, path_length=0)
DOCUMENT = Made("host", key(3), SIGNING, ca=False, use=usage(key_agreement=True), serial=77)


def revocations(
    signer: Made = SIGNING,
    *serials: int,
    signed_by: Key | None = None,
    start: datetime.datetime = NOON - DAY,
    end: datetime.datetime = NOON + DAY,
    critical: bool = False,
    digest: hashes.HashAlgorithm | None = None,
) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.subject)
        .last_update(start)
        .next_update(end)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
        builder = builder.add_revoked_certificate(entry)
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    return builder.sign(signed_by or signer.key, digest or hashes.SHA512())  # type: ignore[arg-type]


def verify(
    document: Made = DOCUMENT,
    *,
    root: Made = ROOT,
    certificates: Sequence[Made] = (SIGNING,),
    lists: Sequence[x509.CertificateRevocationList] | None = None,
    now: datetime.datetime = NOON,
    encoding: Encoding = Encoding.PEM,
) -> ec.EllipticCurvePublicKey:
    trust = Trust(
        root.make(),
        tuple(one.make() for one in certificates),
        tuple(lists if lists is not None else [revocations(document.issuer or document)]),
    )
    return verified_host_key(document.make().public_bytes(encoding), trust, now)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_good_document_gives_its_key(encoding: Encoding) -> None:
    assert verify(encoding=encoding) == DOCUMENT.key.public_key()


def test_a_longer_chain_and_what_is_not_of_it() -> None:
    middle = Made("middle", key(4), replace(ROOT, path_length=2), path_length=1)
    signing = replace(SIGNING, issuer=middle)
    stranger = Made("stranger", key(5))
    namesake = Made("signing", key(6), ROOT)
    for order in ((middle, signing, stranger, namesake), (namesake, stranger, signing, middle)):
        found = verify(
            replace(DOCUMENT, issuer=signing), root=replace(ROOT, path_length=2), certificates=order
        )
        assert found == DOCUMENT.key.public_key()


def test_validity_counts_its_own_ends() -> None:
    for now in (NOON - DAY, NOON + DAY):
        verify(now=now)


def test_other_revoked_documents_are_no_matter() -> None:
    verify(lists=[revocations(SIGNING, 76, 78), revocations(ROOT, 77)])


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    # the document
    "expired": (
        lambda: verify(replace(DOCUMENT, end=NOON - DAY / 2)),
        r"the host-key document expired at 2026-02-03 00:00: ask for",
    ),
    "not yet valid": (
        lambda: verify(replace(DOCUMENT, start=NOON + DAY / 2)),
        r"the host-key document is not valid before 2026-02-04 00:00: is this machine's clock right",
    ),
    "a document of a CA": (lambda: verify(replace(DOCUMENT, ca=True)), "is the certificate of a CA"),
    "wrong usage": (
        lambda: verify(replace(DOCUMENT, use=usage(digital_signature=True))),
        "does not allow key agreement",
    ),
    "a critical extension": (
        lambda: verify(replace(DOCUMENT, critical=True)),
        r"critical extension 1\.2\.3\.4, which is not understood",
    ),
    "a weak hash": (lambda: verify(replace(DOCUMENT, digest=hashes.SHA224())), "weak or unknown hash"),
    "nobody's": (
        lambda: verify(replace(DOCUMENT, issuer=Made("somebody", key(9)))),
        "was issued by `CN=somebody`, of whom no certificate is given: give it with --cert",
    ),
    "its own": (
        lambda: verify(replace(DOCUMENT, issuer=None)),
        "issued by `CN=host`, of whom no certificate",
    ),
    "signed by somebody of the same name": (
        lambda: verify(replace(DOCUMENT, issuer=Made("signing", key(9)))),
        "the signature of the host-key document is not that of `CN=signing`",
    ),
    # the signer
    "a signer that expired": (
        lambda: verify(certificates=[replace(SIGNING, end=NOON - DAY / 2)]),
        "`CN=signing` expired",
    ),
    "a signer that is no CA": (
        lambda: verify(certificates=[replace(SIGNING, ca=False, path_length=None)]),
        "`CN=signing` is no CA",
    ),
    "a signer that says not whether it is a CA": (
        lambda: verify(certificates=[replace(SIGNING, ca=None)]),
        "`CN=signing` is no CA",
    ),
    "a signer that may not": (
        lambda: verify(certificates=[replace(SIGNING, use=usage(crl_sign=True))]),
        "`CN=signing` may not sign certificates",
    ),
    "a signer that says not what it may": (
        lambda: verify(certificates=[replace(SIGNING, use=None)]),
        "`CN=signing` may not sign certificates",
    ),
    "a signer with a critical extension": (
        lambda: verify(certificates=[replace(SIGNING, critical=True)]),
        "`CN=signing` has the critical extension",
    ),
    "another host key as signer": (
        lambda: verify(
            replace(DOCUMENT, issuer=DOCUMENT, name="mine", key=key(8)), certificates=[DOCUMENT, SIGNING]
        ),
        "`CN=host` is no CA",
    ),
    "a signer of a signer that allows none": (
        lambda: verify(
            replace(DOCUMENT, issuer=Made("below", key(8), SIGNING)),
            certificates=[Made("below", key(8), SIGNING), SIGNING],
        ),
        "`CN=signing` allows 0 CAs below it, not 1",
    ),
    # the root
    "another root": (
        lambda: verify(root=Made("root", key(10))),
        "the signature of `CN=signing` is not that of `CN=root`",
    ),
    "no way to the root": (
        lambda: verify(root=Made("elsewhere", key(10))),
        "`CN=signing` was issued by `CN=root`, of whom no certificate is given",
    ),
    "a root that expired": (lambda: verify(root=replace(ROOT, end=NOON - DAY / 2)), "`CN=root` expired"),
    "a root that is not self-signed": (
        lambda: verify(root=SIGNING, certificates=[ROOT]),
        "`CN=signing` is taken as root and is not self-signed",
    ),
    # the list
    "no list": (lambda: verify(lists=[]), "no revocation list of `CN=signing` is given: give it with --crl"),
    "another's list": (lambda: verify(lists=[revocations(ROOT)]), "no revocation list of `CN=signing`"),
    "a list by somebody of the same name": (
        lambda: verify(lists=[revocations(signed_by=key(9))]),
        "the signature of the revocation list of `CN=signing` is not theirs",
    ),
    "a list that is too old": (
        lambda: verify(lists=[revocations(start=NOON - 2 * DAY, end=NOON - DAY / 2)]),
        "revocation list of `CN=signing` is too old",
    ),
    "a list of tomorrow": (
        lambda: verify(lists=[revocations(start=NOON + DAY / 2)]),
        "revocation list of `CN=signing` is not valid before",
    ),
    "a list with a critical extension": (
        lambda: verify(lists=[revocations(critical=True)]),
        "revocation list of `CN=signing` has the critical extension",
    ),
    "a list with a weak hash": (
        lambda: verify(lists=[revocations(digest=hashes.SHA224())]),
        "revocation list of `CN=signing` is signed with a weak",
    ),
    "a list of who may not sign any": (
        lambda: verify(certificates=[replace(SIGNING, use=usage(key_cert_sign=True))]),
        "`CN=signing` may not sign revocation lists",
    ),
    "revoked": (
        lambda: verify(lists=[revocations(SIGNING, 76, 77)]),
        "serial number 4d, was revoked: ask for",
    ),
    "revoked in one of two lists": (
        lambda: verify(lists=[revocations(), revocations(SIGNING, 77)]),
        "was revoked",
    ),
    "a signer that was revoked": (
        lambda: verify(lists=[revocations(), revocations(ROOT, 7)]),
        "`CN=signing`, serial number 7, was revoked",
    ),
}


@pytest.mark.parametrize("twin", BROKEN)
def test_a_broken_twin_is_refused_and_says_why(twin: str) -> None:
    attempt, said = BROKEN[twin]
    with pytest.raises(HostKeyUntrusted, match=said) as refused:
        attempt()
    assert "\n" not in str(refused.value)


def test_certificates_that_sign_each_other_come_to_an_end() -> None:
    first, second = Made("a", key(11)), Made("b", key(12))
    circle = (replace(first, issuer=second), replace(second, issuer=first))
    with pytest.raises(HostKeyUntrusted, match="sign each other"):
        verify(replace(DOCUMENT, issuer=first), certificates=circle)


def test_another_kind_of_key_is_refused() -> None:
    other = ec.derive_private_key(3, ec.SECP384R1())
    with pytest.raises(HostKeyUnusable, match="secp384r1"):
        verify(replace(DOCUMENT, public_key=other.public_key()))


def test_a_signer_with_an_rsa_key_is_taken() -> None:
    """The keys of real ones are RSA."""
    rsa_key = rsa.generate_private_key(65537, 2048)
    signing = replace(SIGNING, public_key=rsa_key.public_key())
    signer = replace(SIGNING, key=rsa_key)  # type: ignore[arg-type]
    verify(
        replace(DOCUMENT, issuer=signer),
        certificates=[signing],
        lists=[revocations(signed_by=rsa_key)],  # type: ignore[arg-type]
    )


def test_every_flipped_byte_of_a_document_is_refused() -> None:
    trust = Trust(ROOT.make(), (SIGNING.make(),), (revocations(),))
    good = DOCUMENT.make()
    encoded = good.public_bytes(Encoding.DER)
    # The byte before the signature says how many of its last bits do not count, and is itself signed by nobody.
    uncounted = encoded.rindex(good.signature) - 1
    for offset in set(range(len(encoded))) - {uncounted}:
        bad = bytearray(encoded)
        bad[offset] ^= 1
        with pytest.raises(HostKeyUnusable):
            verified_host_key(bytes(bad), trust, NOON)


CORPORATION = "International Business Machines Corporation"
REAL = {
    NameOID.COUNTRY_NAME: "US",
    NameOID.ORGANIZATION_NAME: CORPORATION,
    NameOID.COMMON_NAME: CORPORATION,
    NameOID.STATE_OR_PROVINCE_NAME: "New York",
    NameOID.LOCALITY_NAME: "Poughkeepsie",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "IBM Z Host Key Signing Service",
}


def real(reverse: bool = False, **changes: str) -> x509.Name:
    entries = [x509.NameAttribute(oid, changes.get(oid._name, value)) for oid, value in REAL.items()]
    return x509.Name(entries[::-1] if reverse else entries)


def real_signing(**changes: object) -> Made:
    """No CA, as those of real machines are not; its subject has its entries in another order than the documents."""
    made = Made("", key(2), ROOT, ca=False, use=usage(digital_signature=True), whole_name=real(reverse=True))
    return replace(made, **changes)


def test_the_name_of_the_published_documents_signer(vectors: Any) -> None:
    for name in ("host", "host2", "host.pem"):
        assert x509.load_pem_x509_certificate(vectors.read(f"keys/{name}.crt")).issuer == real()


def test_a_real_machines_signing_key_is_known_by_its_name() -> None:
    signing = real_signing()
    document = replace(DOCUMENT, issuer=signing, issuer_name=real())
    listed = [revocations(replace(signing, whole_name=real()))]
    assert verify(document, certificates=[signing], lists=listed) == DOCUMENT.key.public_key()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"whole_name": real(localityName="Armonk")}, "is no CA"),
        ({"whole_name": real(organizationalUnitName="IBM Z Host Key")}, "is no CA"),
        (
            {"whole_name": x509.Name([*real(), x509.NameAttribute(NameOID.LOCALITY_NAME, "Poughkeepsie")])},
            "is no CA",
        ),
        ({"end": NOON - DAY / 2}, "expired"),
        ({"critical": True}, "critical extension"),
        ({"issuer": Made("root", key(9))}, "is not that of `CN=root`"),
    ],
)
def test_a_broken_twin_of_a_real_signing_key_is_refused(changes: dict[str, Any], said: str) -> None:
    signing = real_signing(**changes)
    with pytest.raises(HostKeyUntrusted, match=said):
        verify(replace(DOCUMENT, issuer=signing), certificates=[signing])


def test_a_real_signing_key_signs_no_other_signers() -> None:
    """It is known by its name where it signs a document, and there alone."""
    signing = real_signing()
    below = Made("below", key(8), signing)
    with pytest.raises(HostKeyUntrusted, match="is no CA"):
        verify(replace(DOCUMENT, issuer=below), certificates=[below, signing])


def test_files_of_certificates_and_lists() -> None:
    pems = [one.make().public_bytes(Encoding.PEM) for one in (ROOT, SIGNING)]
    assert [one.subject for one in read_certificates(b"".join(pems))] == [ROOT.subject, SIGNING.subject]
    assert read_certificates(ROOT.make().public_bytes(Encoding.DER))[0].subject == ROOT.subject
    for encoding in (Encoding.PEM, Encoding.DER):
        assert read_revocation_list(revocations().public_bytes(encoding)).issuer == SIGNING.subject


@pytest.mark.parametrize(
    ("read", "data", "said"),
    [
        (read_certificates, b"", "not an X.509 certificate"),
        (read_certificates, b"-----BEGIN CERTIFICATE-----" * 2, "not an X.509 certificate"),
        (read_certificates, b"-----BEGIN CERTIFICATE-----" * 17, "at most 16"),
        (read_certificates, bytes(0x10001), "65536 bytes"),
        (read_revocation_list, b"", "not a revocation list"),
        (read_revocation_list, b"-----BEGIN X509 CRL-----", "not a revocation list"),
        (read_revocation_list, b"-----BEGIN X509 CRL-----" * 2, "2 revocation lists"),
        (read_revocation_list, bytes(MAX_REVOCATION_LIST + 1), "at most 16777216 bytes"),
    ],
)
def test_other_files_are_refused(read: Callable[[bytes], object], data: bytes, said: str) -> None:
    with pytest.raises(HostKeyUnusable, match=said):
        read(data)


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    trust = Trust(ROOT.make(), (SIGNING.make(),), (revocations(),))
    for attempt in (
        lambda: verified_host_key(data, trust, NOON),
        lambda: read_certificates(data),
        lambda: read_revocation_list(data),
    ):
        with pytest.raises(HostKeyUnusable):
            attempt()
