"""`keyvisor host`: the host engineer's verbs. Shows nothing of what guests keep: the door has it not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_guest.cli import host_storage
from keyvisor_guest.cli.host_start import start
from keyvisor_guest.cli.options import ApqnArgument, JsonOption, StateOption, show
from keyvisor_guest.cli.sizes import size_text
from keyvisor_policy.terminal import verb

if TYPE_CHECKING:
    from keyvisor_guest.host import Host

app = verb("Start and stop guests, give them storage and HSMs.", group=True)
app.command()(start)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The guest.")]


def _host(state: Path | None) -> Host:
    from keyvisor_guest.host import Host

    return Host(state=state)


@app.command()
def stop(name: Name, state: StateOption = None) -> None:
    """Stop a guest: its secrets go with it, its storage is free again. Also what a host left half made."""
    _host(state).stop(name)


@app.command("list")
def list_guests(state: StateOption = None, as_json: JsonOption = False) -> None:
    """The guests there are: those that run, and those that are being made or were left half made."""
    guests = _host(state).guests()
    show(
        {"guests": [guest.model_dump(mode="json") for guest in guests]},
        ("guest", "state", "CPUs", "memory", "HSMs", "CUID", "started"),
        [
            (
                guest.name,
                guest.state,
                str(len(guest.cpus)),
                size_text(guest.storage_length),
                " ".join(guest.attached) or "none",
                guest.cuid,
                guest.started or "not yet",
            )
            for guest in guests
        ],
        as_json=as_json,
        empty="no guest is there; `keyvisor host start NAME --image FILE` starts one",
    )


app.command()(host_storage.query)
app.command()(host_storage.storage)
app.command("export")(host_storage.export_pages)
app.command("import")(host_storage.import_pages)
app.add_typer(host_storage.memory, name="memory")


@app.command()
def attach(
    name: Name,
    apqns: Annotated[
        list[str], typer.Argument(metavar="APQN", help="The HSMs: card.domain in hex, as in 03.0011.")
    ],
    state: StateOption = None,
) -> None:
    """Give HSMs to a guest, one after the other; the first refusal ends it."""
    host = _host(state)
    for apqn in apqns:
        host.attach(name, apqn)


@app.command()
def detach(name: Name, apqn: ApqnArgument, state: StateOption = None) -> None:
    """Take an HSM away from a guest; what was associated there ends."""
    _host(state).detach(name, apqn)


@app.command()
def hsms(state: StateOption = None, as_json: JsonOption = False) -> None:
    """The HSMs of this machine. A host is not told their master keys' patterns."""
    found = _host(state).hsms()
    show(
        {"hsms": [hsm.model_dump(mode="json") for hsm in found]},
        ("HSM", "mode", "generation", "serial", "firmware", "API", "online"),
        [
            (
                hsm.apqn,
                hsm.mode,
                hsm.generation,
                hsm.serial,
                hsm.firmware,
                str(hsm.api),
                "yes" if hsm.online else "no",
            )
            for hsm in found
        ],
        as_json=as_json,
        empty="no HSM on this machine",
    )


@app.command("host-key")
def host_key(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write it there, not to standard output."),
    ] = None,
    state: StateOption = None,
) -> None:
    """The host key's certificate (PEM), which a guest's owner encrypts for."""
    document = _host(state).host_key_document()
    if output is None:
        sys.stdout.write(document.decode())
    else:
        output.write_bytes(document)


# What an owner verifies a host by, as files: the name of each, and the message's field.
DOCUMENT_FILES = {
    "host-key.crt": "current",
    "host-key-backup.crt": "backup",
    "signing-key.crt": "signing",
    "root-ca.crt": "root",
    "signing-key.crl": "revocations",
}


@app.command("host-keys")
def host_keys(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            file_okay=False,
            help="Write all documents there, as PEM files; what is there under their names is replaced.",
        ),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """All host-key documents (current and backup), and what owners verify them by: signing key, root CA, CRL.

    Compare the root CA's fingerprint with that of `keyvisor hsm host-key list`: these files come from the host.
    """
    documents = _host(state).host_keys().model_dump(mode="json")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name, field in DOCUMENT_FILES.items():
            (output / name).write_text(documents[field], encoding="ascii")
    used = ("current", "backup")
    show(
        documents,
        ("host key", "SHA-256 of its public key"),
        list(zip(used, documents["hashes"], strict=False)),
        as_json=as_json,
    )
