"""Verifying the audit log with the public key alone: every record, its place, and every signature.

What was changed, left out, put in, moved or signed by another key is found, and the first of it named. What cannot be
found with the key alone is a log that ends early, after a signature: for that somebody must have seen a later head.
Pure: lines in, a report out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from keyvisor_firmware.audit_log.chain import Head, Link, head_digest, link_after, record_hash
from keyvisor_firmware.audit_log.exporting import Line, Recorded, Signed, Spoilt
from keyvisor_firmware.errors import Malformed


@dataclass(frozen=True, slots=True)
class Broken:
    """The first thing that is wrong. `kind`: spoilt, flipped, dropped, reordered, forged, unsigned, cut or gone.

    `number` is the record's, where one is concerned.
    """

    kind: str
    number: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """How many records and signatures were found good, the last good signed head, and what is wrong if anything is."""

    records: int
    signatures: int
    head: Head | None
    broken: Broken | None


@dataclass(slots=True)
class _Chain:
    """How far the log was followed."""

    expected: Head | None  # that was seen before, until it is found
    link: Link = field(default_factory=Link)
    last: Head | None = None  # the last record
    signed: Head | None = None  # the last one with a signature
    signatures: int = 0


def public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a PEM or DER file. Raises Malformed for what is no public key over P-256."""
    try:
        load = load_pem_public_key if data.lstrip().startswith(b"-----") else load_der_public_key
        key = load(data)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Malformed("no public key over P-256: take the one that `keyvisor audit key` prints")
    return key


def verify(lines: Iterable[Line], key: ec.EllipticCurvePublicKey, expected: Head | None = None) -> Report:
    """Follow the log from its first record. `expected` is a head that somebody saw before: it must be in the chain."""
    chain = _Chain(expected)
    for line in lines:
        broken = _follow(chain, line, key)
        if broken is not None:
            return _report(chain, broken)
    return _report(chain, _end(chain))


def _report(chain: _Chain, broken: Broken | None) -> Report:
    return Report(chain.link.number, chain.signatures, chain.signed, broken)


def _follow(chain: _Chain, line: Line, key: ec.EllipticCurvePublicKey) -> Broken | None:
    match line:
        case Spoilt(where, why):
            after = chain.link.number
            return Broken("spoilt", None, f"{where}, after record {after}: {why}")
        case Recorded():
            return _record(chain, line)
        case Signed():
            return _signature(chain, line, key)


def _record(chain: _Chain, line: Recorded) -> Broken | None:
    number, wanted = line.number, chain.link.number + 1
    if number > wanted:
        which = f"record {wanted} is" if number == wanted + 1 else f"records {wanted} to {number - 1} are"
        return Broken("dropped", wanted, f"{which} missing: {number} stands there")
    if number < wanted:
        return Broken("reordered", number, f"record {number} stands where {wanted} should")
    if record_hash(chain.link.link, line.record) != line.hash:
        return Broken(
            "flipped",
            number,
            f"record {number} is not what its hash was made of, or a signature before it is missing",
        )
    chain.last = Head(number, line.hash)
    if chain.expected is not None and number == chain.expected.number:
        if line.hash != chain.expected.hash:
            message = f"record {number} is not the one that was seen: the log was written anew since"
            return Broken("gone", number, message)
        chain.expected = None
    chain.link = link_after(chain.last, None)
    return None


def _signature(chain: _Chain, line: Signed, key: ec.EllipticCurvePublicKey) -> Broken | None:
    head = chain.last
    if head is None or line.number != head.number or chain.signed == head:
        return Broken("reordered", line.number, f"a signature of record {line.number} is not in its place")
    r, s = (int.from_bytes(half, "big") for half in (line.signature[:32], line.signature[32:]))
    try:
        key.verify(
            utils.encode_dss_signature(r, s),
            head_digest(head),
            ec.ECDSA(utils.Prehashed(hashes.SHA256())),
        )
    except InvalidSignature:
        since = 1 if chain.signed is None else chain.signed.number + 1
        which = f"record {since}" if since == head.number else f"records {since} to {head.number}"
        return Broken(
            "forged",
            head.number,
            f"the signature of {which} is not by this key: forged, or the key of another firmware",
        )
    chain.signed = head
    chain.signatures += 1
    chain.link = link_after(head, line.signature)
    return None


def _end(chain: _Chain) -> Broken | None:
    if chain.expected is not None:
        number = chain.expected.number
        message = f"record {number} was seen before and is not there: the log ends with {chain.link.number}"
        return Broken("cut", number, message)
    if chain.last is None:
        return Broken("cut", None, "there is no record: a log begins with the firmware's first start")
    if chain.signed != chain.last:
        since = 1 if chain.signed is None else chain.signed.number + 1
        return Broken(
            "unsigned",
            since,
            f"nothing signs what begins with record {since}: put in, or its signature was cut off",
        )
    return None
