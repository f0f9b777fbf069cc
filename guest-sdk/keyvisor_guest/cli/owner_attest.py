"""`keyvisor owner attest`: requests to have a guest measured, and what their answers prove. Mirrors `pvattest`.

The request's key stays with the owner, in a file of theirs; whoever has it can make up answers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer
import yaml

from keyvisor_guest.cli.host_key_options import (
    CertsOption,
    CrlsOption,
    HostKeysOption,
    NoVerifyOption,
    OfflineOption,
    RootCaOption,
    verified_owner,
)
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import identity_fields, read_limited, write_private
from keyvisor_guest.cli.request_inputs import image_identity
from keyvisor_guest.owner import HostKey, Owner
from keyvisor_guest.wire.arcb import AddData
from keyvisor_guest.wire.asrcb import parse
from keyvisor_guest.wire.asrcb_layout import MAX_REQUEST
from keyvisor_guest.wire.attestation import Expected, Verified, secret_store_hash, verify
from keyvisor_guest.wire.attestation_file import MAX_FILE, MAX_USER_DATA, AttestationFile
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import AttestationUnverified, Malformed
from keyvisor_guest.wire.key_slots import KEY_LENGTH
from keyvisor_policy.terminal import print_json, verb

app = verb("Have a guest measured, and verify what the firmware says.", group=True)


def _file(*names: str, text: str) -> object:
    return typer.Option(*names, metavar="FILE", exists=True, dir_okay=False, readable=True, help=text)


ForceOption = Annotated[bool, typer.Option("-f", "--force", help="Replace files that exist.")]


@app.command()
def create(
    host_key_documents: HostKeysOption,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Write the request there.")
    ],
    arpk: Annotated[
        Path,
        typer.Option(
            "-a",
            "--arpk",
            metavar="FILE",
            dir_okay=False,
            help="Write the request's protection key there, for `verify`. Keep it to yourself.",
        ),
    ],
    add_data: Annotated[
        list[AddData] | None,
        typer.Option("--add-data", help="What to have measured besides; can be repeated."),
    ] = None,
    certs: CertsOption = None,
    crls: CrlsOption = None,
    root_ca: RootCaOption = None,
    offline: OfflineOption = False,
    no_verify: NoVerifyOption = False,
    force: ForceOption = False,
) -> None:
    """Make a request that a guest hands to its firmware with `keyvisor guest attest`."""
    made = verified_owner(host_key_documents, certs, crls, root_ca, no_verify).attestation_request(
        add_data or ()
    )
    write_private([(arpk, made.key), (output, made.data)], force=force)


@app.command("verify")
def verify_answer(
    answer: Annotated[Path, _file("-i", "--input", text="The answer, from `keyvisor guest attest`.")],
    arpk: Annotated[Path, _file("-a", "--arpk", text="The request's protection key, from `create`.")],
    header: Annotated[
        Path | None, _file("--hdr", text="Your own copy of the image, or of its header.")
    ] = None,
    identity: Annotated[
        Path | None,
        _file("--identity", text="The same as a file that `keyvisor owner identity` wrote."),
    ] = None,
    user_data: Annotated[
        Path | None, _file("-u", "--user-data", text="The user data that the guest shall have put in.")
    ] = None,
    requests: Annotated[
        list[Path] | None,
        _file(
            "--request", text="An add-secret request that shall be in the store, in order; can be repeated."
        ),
    ] = None,
    locked: Annotated[
        bool | None,
        typer.Option("--locked/--open", help="Whether the secret store shall be locked."),
    ] = None,
    host_key_documents: Annotated[
        list[Path] | None,
        _file("-k", "--host-key-document", text="A host that shall have been used; can be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            dir_okay=False,
            help="Write the YAML there, as `--cuid` takes it.",
        ),
    ] = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Verify an answer, and print what it proves: the CUID of an instance of your own image, and what was asked for.

    Ends with 0 if it is proven and as expected, with 1 if it is not.
    """
    image = image_identity(header, identity)
    expected = Expected(
        None if user_data is None else read_limited(user_data, MAX_USER_DATA, "user data"),
        _store_hash(requests or [], locked),
        _host_key_hashes(host_key_documents),
    )
    try:
        found = verify(_answer(answer), _key(arpk), image, expected)
    except AttestationUnverified as error:
        raise AttestationUnverified(f"`{answer}` is NOT verified: {error}") from error
    fields = _fields(found, image, expected)
    text = yaml.safe_dump(fields, sort_keys=False)
    if output is not None:
        write_private([(output, text.encode())], force=force)
    if as_json:
        print_json(fields)
    elif output is None:
        sys.stdout.write(text)


def _answer(path: Path) -> AttestationFile:
    try:
        return AttestationFile.decode(read_limited(path, MAX_FILE, "an attestation answer"))
    except Malformed as error:
        raise Malformed(f"`{path}`: {error}") from error


def _key(path: Path) -> bytes:
    key = read_limited(path, KEY_LENGTH, "a request's protection key")
    if len(key) != KEY_LENGTH:
        raise Malformed(
            f"`{path}` has {len(key)} bytes, a request's protection key {KEY_LENGTH}: give the file of `--arpk`"
        )
    return key


def _store_hash(requests: list[Path], locked: bool | None) -> bytes | None:
    if locked is None:
        if requests:
            raise typer.BadParameter("--request goes with --locked or --open: both are part of the hash")
        return None
    tags = []
    for path in requests:
        try:
            tags.append(parse(read_limited(path, MAX_REQUEST, "a request")).tag)
        except Malformed as error:
            raise Malformed(f"`{path}` is no add-secret request: {error}") from error
    return secret_store_hash(tags, locked=locked)


def _host_key_hashes(documents: list[Path] | None) -> tuple[bytes, ...] | None:
    """Only compared with what the firmware says: whoever made the documents cannot gain by it."""
    if not documents:
        return None
    sources: list[HostKey] = list(documents)
    return Owner(sources).host_key_hashes


def _fields(found: Verified, image: BootIdentity, expected: Expected) -> dict[str, object]:
    """As `pvattest verify` prints it, and what was verified besides."""
    additional = {
        name: f"0x{value.hex()}"
        for name in ("image_host_key", "attestation_host_key", "secret_store_hash")
        if (value := getattr(found.additional, name)) is not None
    }
    fields: dict[str, object] = {"cuid": f"0x{found.cuid.hex()}"}
    if additional:
        fields["add_fields"] = {_YAML_NAMES[name]: value for name, value in additional.items()}
    if found.user_data:
        fields["user_data"] = f"0x{found.user_data.hex()}"
    fields["boot_identity"] = identity_fields(image)
    fields["verified"] = [
        "measurement",
        *(name for name in _EXPECTATIONS if getattr(expected, name) is not None),
    ]
    return fields


_YAML_NAMES: Final = {
    "image_host_key": "image_phkh",
    "attestation_host_key": "attestation_phkh",
    "secret_store_hash": "secret_store_hash",
}
_EXPECTATIONS: Final = ("user_data", "secret_store_hash", "host_keys")
