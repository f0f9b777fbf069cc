"""`keyvisor owner request`: add-secret requests, made and looked at. Mirrors `pvsecret create` (formats, G).

Secrets come from files and go to files, never through the command line. The format is not known here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

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
from keyvisor_guest.cli.owner_files import (
    association_yaml,
    print_fields,
    read_identity,
    read_limited,
    write_private,
    yaml_file_name,
)
from keyvisor_guest.wire.asrcb import parse
from keyvisor_guest.wire.asrcb_layout import (
    ANY_INSTANCE,
    CUID_LENGTH,
    FLAG_BITS,
    MAX_REQUEST,
    ControlBlock,
    Flag,
)
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_kinds import KINDS
from keyvisor_policy.terminal import print_json, verb

SECRET_LENGTH: Final = 32  # bytes of an association secret, of an extension secret and of a CCK

app = verb("Make add-secret requests, and look at them.", group=True)


def _input(*names: str, text: str) -> object:
    return typer.Option(*names, metavar="FILE", exists=True, dir_okay=False, readable=True, help=text)


def _cuid(text: str | None) -> str | None:
    if text is None:
        return None
    digits = text.removeprefix("0x")
    if re.fullmatch(f"[0-9a-fA-F]{{{CUID_LENGTH * 2}}}", digits) is None:
        raise typer.BadParameter(f"a CUID is {CUID_LENGTH * 2} hex digits")
    return digits


IdentityOption = Annotated[
    Path, _input("--identity", text="The guest's boot identity, from `keyvisor owner identity`.")
]
OutputOption = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Write the request there.")
]
CuidOption = Annotated[
    str | None,
    typer.Option(
        "--cuid-hex", metavar="HEX", callback=_cuid, help="Bind to the instance with this CUID, not to any."
    ),
]
ExtensionOption = Annotated[
    Path | None, _input("--extension-secret", text="32 bytes that all requests for one instance must share.")
]
CckOption = Annotated[
    Path | None,
    _input("--cck", text="Customer communication key, 32 bytes, to derive the extension secret from."),
]
FlagsOption = Annotated[
    list[Flag] | None, typer.Option("--flags", help="What to ask for besides; can be repeated.")
]
ForceOption = Annotated[bool, typer.Option("-f", "--force", help="Replace files that exist.")]


@app.command()
def association(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The secret's name, as policies have it.")],
    host_key_documents: HostKeysOption,
    identity: IdentityOption,
    output: OutputOption,
    certs: CertsOption = None,
    crls: CrlsOption = None,
    root_ca: RootCaOption = None,
    offline: OfflineOption = False,
    no_verify: NoVerifyOption = False,
    cuid: CuidOption = None,
    extension_secret: ExtensionOption = None,
    cck: CckOption = None,
    input_secret: Annotated[
        Path | None, _input("--input-secret", text="The secret, 32 bytes. Without it a random one.")
    ] = None,
    output_secret: Annotated[
        Path | None,
        typer.Option(
            "--output-secret", metavar="FILE", dir_okay=False, help="Write the secret there, in clear."
        ),
    ] = None,
    use_name: Annotated[
        bool, typer.Option("--use-name", help="The id is the name itself, not its hash.")
    ] = False,
    flags: FlagsOption = None,
    to_stdout: Annotated[
        bool,
        typer.Option("--stdout", help="Print name and id instead of writing NAME.yaml beside the request."),
    ] = False,
    force: ForceOption = False,
) -> None:
    """Make a request that adds an association secret; name and id go to NAME.yaml beside it."""
    made = verified_owner(host_key_documents, certs, crls, root_ca, no_verify).association_request(
        name,
        read_identity(identity),
        cuid=_from_hex(cuid),
        secret=_secret(input_secret, "a secret"),
        **_extension(extension_secret, cck),
        use_name=use_name,
        flags=flags or (),
    )
    files = [] if output_secret is None else [(output_secret, made.reveal_secret())]
    described = association_yaml(made)
    if not to_stdout:
        files.append((output.parent / yaml_file_name(name), described.encode()))
    write_private([*files, (output, made.data)], force=force)
    if to_stdout:
        sys.stdout.write(described)


@app.command()
def meta(
    host_key_documents: HostKeysOption,
    identity: IdentityOption,
    output: OutputOption,
    certs: CertsOption = None,
    crls: CrlsOption = None,
    root_ca: RootCaOption = None,
    offline: OfflineOption = False,
    no_verify: NoVerifyOption = False,
    cuid: CuidOption = None,
    extension_secret: ExtensionOption = None,
    cck: CckOption = None,
    flags: FlagsOption = None,
    force: ForceOption = False,
) -> None:
    """Make a request that adds no secret: it fixes the extension secret and sets flags."""
    made = verified_owner(host_key_documents, certs, crls, root_ca, no_verify).meta_request(
        read_identity(identity),
        cuid=_from_hex(cuid),
        **_extension(extension_secret, cck),
        flags=flags or (),
    )
    write_private([(output, made.data)], force=force)


def _extension(extension_secret: Path | None, cck: Path | None) -> dict[str, bytes | None]:
    if extension_secret is not None and cck is not None:
        raise typer.BadParameter("--extension-secret and --cck exclude each other")
    return {
        "extension_secret": _secret(extension_secret, "an extension secret"),
        "cck": _secret(cck, "a customer communication key"),
    }


def _secret(path: Path | None, what: str) -> bytes | None:
    return None if path is None else read_limited(path, SECRET_LENGTH, what)


def _from_hex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)],
    as_json: JsonOption = False,
) -> None:
    """Show what of a request can be read by everybody. Says nothing about its being authentic."""
    fields = _public_fields(_parsed(file))
    if as_json:
        print_json(fields)
    else:
        print_fields({name: _cell(value) for name, value in fields.items()})


def _parsed(file: Path) -> ControlBlock:
    try:
        return parse(read_limited(file, MAX_REQUEST, "a request"))
    except Malformed as error:
        raise Malformed(f"`{file}` is no add-secret request that could be taken: {error}") from error


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)


def _public_fields(block: ControlBlock) -> dict[str, object]:
    public = block.public
    return {
        "type": KINDS[public.secret.kind].title,
        "id": public.secret.id and public.secret.id.hex(),
        "cuid": None if public.cuid == ANY_INSTANCE else public.cuid.hex(),
        "flags": [str(flag) for flag, bit in FLAG_BITS.items() if public.flags & bit],
        "host_keys": [slot.host_key_hash.hex() for slot in public.slots],
        "user_data_kind": public.user_data.kind,
        "pld": public.identity.pld.hex(),
        "ald": public.identity.ald.hex(),
        "tld": public.identity.tld.hex(),
        "header_tag": public.identity.header_tag.hex(),
        "request_tag": block.tag.hex(),
        "size": len(block.associated) + len(block.sealed) + len(block.tag),
    }
