"""The firmware's values as the doors' messages."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keyvisor_firmware.audit_log.chain import Event, Head
from keyvisor_firmware.guests.host_key import Documents, IssuedDocument
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.secrets import Entry, Retrieved
from keyvisor_firmware.storage.ledger import LedgerView
from keyvisor_firmware.views import GuestView, HsmView, MechanismView, RefusalView
from keyvisor_guest.wire import messages, storage_messages
from keyvisor_guest.wire.attestation_file import Attestation
from keyvisor_hsm.cryptoki import CKM


def guest(view: GuestView) -> messages.Guest:
    """For the host."""
    return messages.Guest(
        name=view.name,
        cuid=view.cuid.hex(),
        attached=[str(apqn) for apqn in view.attached],
        started=view.started,
        handle=view.handle,
        state=view.state.value,
        cpus=list(view.cpus),
        cpu_handles=list(view.cpu_handles),
        storage_length=view.storage_length,
        asce=view.asce,
    )


def storage_block(rc: int, block: bytes) -> storage_messages.StorageBlock:
    """For the host: the query's answer."""
    return storage_messages.StorageBlock(rc=rc, block=base64.b64encode(block))


def storage_content(data: bytes) -> storage_messages.StorageContent:
    """For whoever may read it."""
    return storage_messages.StorageContent(data=base64.b64encode(data))


def ledger(view: LedgerView) -> storage_messages.Ledger:
    """For the host, whose storage it is."""
    return storage_messages.Ledger(
        size=view.size,
        initialised=view.initialised,
        secure=view.secure,
        free=view.free,
        largest_free=view.largest_free,
        held=[
            storage_messages.Held(
                holder=line.holder,
                use=line.use,
                secure=line.secure,
                length=line.length,
                pieces=line.pieces,
                first=line.first,
            )
            for line in view.held
        ],
    )


def hsm(view: HsmView) -> messages.Hsm:
    """For the guest and the host: `holder` is left out."""
    data = view.data
    return messages.Hsm(
        apqn=str(data.apqn),
        state=view.state.value,
        mode=data.mode.value,
        generation=data.generation.name,
        serial=data.serial,
        mkvp=None if data.mkvp is None else data.mkvp.hex(),
        firmware=f"{data.firmware[0]}.{data.firmware[1]}",
        api=data.api,
        compliance=sorted(data.compliance),
        online=data.online,
        secret_id=None if view.secret_id is None else view.secret_id.hex(),
    )


def held_hsm(view: HsmView) -> messages.HeldHsm:
    """For the operator."""
    return messages.HeldHsm(**hsm(view).model_dump(), holder=view.holder)


def identity(instance: Instance) -> messages.Identity:
    """For the guest."""
    measured = instance.identity
    return messages.Identity(
        pld=measured.pld.hex(),
        ald=measured.ald.hex(),
        tld=measured.tld.hex(),
        header_tag=measured.header_tag.hex(),
        cuid=instance.cuid.hex(),
    )


def host_key_documents(documents: Documents) -> messages.HostKeyDocuments:
    """For the host, who hands them on to owners."""
    return messages.HostKeyDocuments(
        current=documents.current,
        backup=documents.backup,
        signing=documents.signing,
        root=documents.root,
        revocations=documents.revocations,
        hashes=[one.hex() for one in documents.hashes],
    )


def issued_host_keys(issued: Sequence[IssuedDocument], root: str) -> messages.IssuedHostKeys:
    """For the operator."""
    return messages.IssuedHostKeys(
        documents=[
            messages.IssuedHostKey(
                serial=one.serial,
                use=one.use.value,
                hash=one.hash.hex(),
                expires=one.expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
                revoked=one.revoked,
            )
            for one in issued
        ],
        root_fingerprint=x509.load_pem_x509_certificate(root.encode()).fingerprint(hashes.SHA256()).hex(),
    )


def attestation(answer: Attestation) -> messages.AttestationAnswer:
    """For the guest."""
    return messages.AttestationAnswer(
        measurement=answer.measurement.hex(), additional=answer.additional.hex(), cuid=answer.cuid.hex()
    )


def secret(entry: Entry) -> messages.Secret:
    """For the guest: never the value."""
    return messages.Secret(index=entry.index, type=int(entry.kind), length=entry.length, id=entry.id.hex())


def retrieved_secret(secret: Retrieved) -> messages.RetrievedSecret:
    """For the guest: what its kind allows."""
    return messages.RetrievedSecret(
        index=secret.index,
        type=int(secret.kind),
        id=secret.id.hex(),
        value=base64.b64encode(secret.value),
    )


def mechanism(view: MechanismView) -> messages.Mechanism:
    """For the guest. One that PKCS#11 has no name for is called by its number."""
    about = view.mechanism
    known = about.type in CKM.__members__.values()
    return messages.Mechanism(
        type=about.type,
        name=f"CKM_{CKM(about.type).name}" if known else f"{about.type:#010x}",
        min_key_size=about.min_key_size,
        max_key_size=about.max_key_size,
        flags=about.flags,
        allowed=view.allowed,
    )


def refusal(view: RefusalView) -> messages.Refusal:
    """For the guest."""
    call = view.call
    return messages.Refusal(
        at=call.at,
        apqn=call.apqn,
        call=call.call,
        code=call.code,
        reason=call.reason,
        missing=view.missing,
        state=view.state,
        rule=view.rule,
        must_be=view.must_be,
        commands=list(view.commands),
    )


def audit_entry(event: Event) -> messages.AuditEntry:
    """For the operator."""
    return messages.AuditEntry(
        number=event.number, at=event.at, guest=event.guest, event=event.event, detail=dict(event.detail)
    )


def audit_key(public_key: bytes, head: Head | None) -> messages.AuditKey:
    """For whoever verifies the log. `public_key` is DER."""
    pem = load_der_public_key(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return messages.AuditKey(public_key=pem.decode("ascii"), head=None if head is None else str(head))
