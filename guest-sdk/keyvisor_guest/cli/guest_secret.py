"""`keyvisor guest secret`: a guest's secret store. Mirrors `pvsecret add`, `list`, `lock`, `retrieve` and
`verify` (formats, G).

What the firmware refuses is said as pvsecret says it, with the ultravisor's code. Knows the list's and the documents'
formats by their modules only.
"""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyvisor_guest.cli.list_formats import ListFormat, written
from keyvisor_guest.cli.options import GuestOption, JsonOption, StateOption
from keyvisor_guest.errors import Refused, SdkError
from keyvisor_policy.terminal import print_json, verb

if TYPE_CHECKING:
    from keyvisor_guest.secrets import Secrets
    from keyvisor_guest.wire.messages import Secret

app = verb("The guest's secret store: what an owner's requests put in, and what comes back.", group=True)

MAX_YAML: Final = 0x10000  # bytes of the file that goes with a request


class InForm(enum.StrEnum):
    """What ID is: the file that was written beside the request, hex digits, the secret's name, or its index."""

    YAML = "yaml"
    HEX = "hex"
    NAME = "name"
    IDX = "idx"


class OutForm(enum.StrEnum):
    """How a retrieved secret is written: as a document, or its bytes."""

    PEM = "pem"
    BIN = "bin"


OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        dir_okay=False,
        help="Write it there, for the owner of the file only.",
    ),
]
ForceOption = Annotated[bool, typer.Option("-f", "--force", help="Replace a file that exists.")]


def _secrets(guest: str, state: Path | None) -> Secrets:
    from keyvisor_guest.guest import Guest

    return Guest(guest, state=state).secrets


@contextmanager
def _ultravisor() -> Iterator[None]:
    """Says a refusal as pvsecret does. No public source explains rrc, the second number: it is always 0 here."""
    try:
        yield
    except Refused as refused:
        if refused.kind != "uv":
            raise
        text = refused.message.removesuffix(f" ({refused.code:#06x})")
        raise SdkError(f"Ultravisor: '{text}' ({refused.code:#06x},0x0000)") from None


@app.command()
def add(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", exists=True, dir_okay=False, readable=True, help="Requests that an owner made."
        ),
    ],
    guest: GuestOption,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Add a secret whose id is in the store already.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Hand add-secret requests to the firmware, in this order; the first that is refused ends it."""
    secrets = _secrets(guest, state)
    added: list[Path] = []
    for file in files:
        request = _read_request(file)
        try:
            if not force:
                _refuse_known_id(file, request, secrets.list())
            with _ultravisor():
                secrets.add(request)
        except SdkError as error:
            if len(files) == 1:
                raise
            done = ", ".join(f"`{each}`" for each in added) or "none"
            raise SdkError(f"{error}\n`{file}` was not added; before it: {done}") from None
        added.append(file)


def _read_request(file: Path) -> bytes:
    """Up to one byte more than a request may have: the client refuses that with the reason."""
    from keyvisor_guest.wire.messages import MAX_REQUEST

    with file.open("rb") as opened:
        return opened.read(MAX_REQUEST + 1)


def _refuse_known_id(file: Path, request: bytes, entries: Sequence[Secret]) -> None:
    from keyvisor_guest.wire.asrcb import parse
    from keyvisor_guest.wire.errors import Malformed

    try:
        secret_id = parse(request).public.secret.id
    except Malformed:
        return  # what is wrong with it is the firmware's to say, with its code
    if secret_id is not None and secret_id.hex() in {entry.id for entry in entries}:
        raise SdkError(
            f"`{file}`: a secret with the id 0x{secret_id.hex()} is in the store: `--force` adds it too"
        )


@app.command("list")
def list_secrets(
    guest: GuestOption,
    output: OutputOption = None,
    list_format: Annotated[ListFormat, typer.Option("--format", help="How to write it.")] = ListFormat.HUMAN,
    force: ForceOption = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """The secrets of the guest, without their values."""
    found = _secrets(guest, state).contents()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    content = written(found, list_format)
    _write(content, output, force=force)


@app.command()
def lock(guest: GuestOption, state: StateOption = None) -> None:
    """Lock the secret store until the guest stops."""
    with _ultravisor():
        _secrets(guest, state).lock()


@app.command("retr", hidden=True)
@app.command()
def retrieve(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="Which secret; --inform says how it is named.")],
    guest: GuestOption,
    inform: Annotated[InForm, typer.Option("--inform", help="What ID is.")] = InForm.YAML,
    outform: Annotated[OutForm, typer.Option("--outform", help="How to write the secret.")] = OutForm.PEM,
    output: OutputOption = None,
    force: ForceOption = False,
    state: StateOption = None,
) -> None:
    """Get a secret back: a plaintext secret in clear, a key as a protected key of this guest's start.

    Protected keys are the emulator's own: no real machine takes them. Programs use them with the SDK, as in
    Guest().secrets.retrieve("name").key().sign(data).

    \b
    --inform yaml  ID is the file that `keyvisor owner request` wrote beside the request
    --inform hex   ID is the secret's id, 64 hex digits
    --inform name  ID is the secret's name
    --inform idx   ID is the secret's index in the list
    """
    from keyvisor_guest.wire.retrieved_secrets import pem_document
    from keyvisor_guest.wire.secret_kinds import KINDS

    with _ultravisor():
        found = _secrets(guest, state).retrieve(_which(wanted, inform))
    value = found.protected if KINDS[found.kind].is_key else found.plaintext()
    content = value if outform is OutForm.BIN else pem_document(found.kind, value).encode()
    _write(content, output, force=force)


@app.command()
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="The request."),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "-i",
            "--input",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The request; or give it as FILE.",
        ),
    ] = None,
    user_cert: Annotated[
        Path | None,
        typer.Option(
            "--user-cert",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The certificate or public key of who must have signed the request.",
        ),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Verify who signed a request before it is added, and print its user data; `owner request verify` in the guest.

    Without --user-cert only a request whose user data is not signed passes: its form is looked at, and said so.
    """
    from keyvisor_guest.cli.request_verify import verify_command

    verify_command(file, input_file, user_cert, output, force)


def _which(wanted: str, inform: InForm) -> str | bytes | int:
    match inform:
        case InForm.NAME:
            return wanted
        case InForm.IDX:
            if re.fullmatch(r"[0-9]{1,5}", wanted, re.ASCII) is None:
                raise typer.BadParameter(f"`{wanted}` is no index: give its number, as in `0`")
            return int(wanted)
        case InForm.HEX:
            return _id_of(wanted, "64 hex digits are an id")
        case InForm.YAML:
            return _id_of(_yaml_id(Path(wanted)), f"`{wanted}` has no `id` of 64 hex digits")


def _id_of(text: str, otherwise: str) -> bytes:
    if re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text, re.ASCII) is None:
        raise typer.BadParameter(f"{otherwise}: `--inform` says what ID is, a file without it")
    return bytes.fromhex(text.removeprefix("0x"))


def _yaml_id(file: Path) -> str:
    """The `id` of the file that goes with a request. Its tag (`!Retrievable`) is a kind and no type, so it is not read."""
    import yaml

    from keyvisor_guest.cli.owner_files import read_limited

    text = read_limited(file, MAX_YAML, "a secret's file")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        node = None
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "id" and isinstance(value, yaml.ScalarNode):
                return str(value.value)
    return ""


def _write(content: bytes, output: Path | None, *, force: bool) -> None:
    from keyvisor_guest.cli.owner_files import write_private

    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_private([(output, content)], force=force)
