"""`keyvisor owner image`: images, built and looked at. Options are named as `pvimg create` has them (formats, G).

Keys come from files and go to files, never through the command line. The format is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

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
    identity_fields,
    identity_json,
    print_fields,
    read_limited,
    write_private,
)
from keyvisor_guest.cli.request_options import ForceOption, file_option, output_option
from keyvisor_guest.owner_images import ImageParts
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.messages import MAX_IMAGE, MAX_POLICY
from keyvisor_guest.wire.se_header import DEFAULT_PCF, Pcf, Scf, SeHeader
from keyvisor_guest.wire.se_image import MAX_CMDLINE, header_of
from keyvisor_guest.wire.se_image_layout import read_layout
from keyvisor_guest.wire.se_pages import ComponentKind, Placement
from keyvisor_guest.wire.secret_ids import CCK_LENGTH
from keyvisor_policy.terminal import print_json, verb

T = TypeVar("T")

_U64: Final = 1 << 64

app = verb("Build the images that guests start from, and look at them.", group=True)


def _flags(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        number = int(text, 16)
    except ValueError:
        number = _U64
    if not 0 <= number < _U64:
        raise typer.BadParameter("flags are a number of 64 bits, hex")
    return text


@app.command()
def build(
    host_key_documents: HostKeysOption,
    output: Annotated[Path, output_option("-o", "--output", text="Write the image there.")],
    certs: CertsOption = None,
    crls: CrlsOption = None,
    root_ca: RootCaOption = None,
    offline: OfflineOption = False,
    no_verify: NoVerifyOption = False,
    kernel: Annotated[
        Path | None, file_option("-i", "--kernel", "--image", text="The kernel: any file.")
    ] = None,
    ramdisk: Annotated[
        Path | None,
        file_option("-r", "--ramdisk", text="The ramdisk, ready: cpio (newc), plain or gzip; or any file."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            exists=True,
            file_okay=False,
            readable=True,
            help="The guest's file tree: it is packed into the ramdisk.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        file_option("--policy", text="The guest's policy: it is put at /etc/keyvisor/policy.yaml."),
    ] = None,
    cmdline: Annotated[
        str | None, typer.Option("--cmdline", metavar="TEXT", help="The kernel's command line.")
    ] = None,
    parmfile: Annotated[
        Path | None, file_option("-p", "--parmfile", text="A file with the command line, instead.")
    ] = None,
    cck: Annotated[
        Path | None,
        file_option("--cck", text="Customer communication key, 32 bytes. Without it a random one."),
    ] = None,
    output_cck: Annotated[
        Path | None,
        output_option("--output-cck", text="Write the customer communication key there, in clear."),
    ] = None,
    extension_from_cck: Annotated[
        bool,
        typer.Option(
            "--enable-cck-extension-secret", help="Requests must have an extension secret made from the CCK."
        ),
    ] = False,
    cck_update: Annotated[
        bool, typer.Option("--enable-cck-update", help="Requests may replace the CCK of the running guest.")
    ] = False,
    dump: Annotated[
        bool, typer.Option("--enable-dump", help="The host may dump the guest, encrypted.")
    ] = False,
    pcf: Annotated[
        str | None,
        typer.Option("--x-pcf", metavar="HEX", callback=_flags, help="All plaintext control flags at once."),
    ] = None,
    identity_out: Annotated[
        Path | None,
        output_option("--identity-out", text="Write the image's boot identity there, for requests."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Build an image that the firmware of these hosts can start, and nobody else can look into."""
    if extension_from_cck and cck_update:
        raise typer.BadParameter("--enable-cck-extension-secret and --enable-cck-update exclude each other")
    if cmdline is not None and parmfile is not None:
        raise typer.BadParameter("--cmdline and --parmfile exclude each other")
    parts = ImageParts(
        kernel=_read(kernel, MAX_IMAGE, "a kernel"),
        ramdisk=_read(ramdisk, MAX_IMAGE, "a ramdisk"),
        root=root,
        policy=_read(policy, MAX_POLICY, "a policy"),
        policy_source=str(policy),
        cmdline=cmdline if parmfile is None else _cmdline(parmfile),
    )
    made = verified_owner(host_key_documents, certs, crls, root_ca, no_verify).image_of(
        parts,
        cck=_read(cck, CCK_LENGTH, "a customer communication key"),
        scf=(Scf.EXTENSION_FROM_CCK if extension_from_cck else 0)
        | (Scf.CCK_UPDATE_ALLOWED if cck_update else 0),
        pcf=(DEFAULT_PCF if pcf is None else int(pcf, 16)) | (Pcf.DUMP_ALLOWED if dump else 0),
    )
    files = [] if output_cck is None else [(output_cck, made.reveal_cck())]
    if identity_out is not None:
        files.append((identity_out, identity_json(made.identity).encode()))
    write_private([*files, (output, made.data)], force=force)


@app.command()
def info(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="An image, or its header."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show what of an image can be read by everybody. Says nothing about its being authentic."""
    data = read_limited(file, MAX_IMAGE, "an image")
    header = understood(file, header_of, data)
    fields = {**_header_fields(header), "components": _components(data, header)}
    if as_json:
        print_json(fields)
    else:
        print_fields({name: _cell(value) for name, value in fields.items()})


def understood(file: Path, read: Callable[[bytes], T], data: bytes) -> T:
    """What `read` makes of the file's content. Raises Malformed with the file's name."""
    try:
        return read(data)
    except Malformed as error:
        raise Malformed(f"`{file}` is no image and no image's header: {error}") from error


def _read(path: Path | None, limit: int, what: str) -> bytes | None:
    return None if path is None else read_limited(path, limit, what)


def _cmdline(path: Path) -> str:
    text = read_limited(path, MAX_CMDLINE, "a command line")
    try:
        return text.decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise Malformed(f"`{path}` is no command line: it is not UTF-8") from error


def _header_fields(header: SeHeader) -> dict[str, object]:
    return {
        "host_keys": [slot.host_key_hash.hex() for slot in header.slots],
        "pcf": f"{header.pcf:016x}",
        "flags": [str(flag.name).lower() for flag in Pcf if header.pcf & flag],
        "pages": header.measured.page_count,
        **identity_fields(header.identity()),
        "header_size": len(header.encode()),
    }


def _components(data: bytes, header: SeHeader) -> list[dict[str, object]]:
    """None for a header file, and for an image whose components cannot be found: no firmware starts that."""
    try:
        places = read_layout(data, len(header.encode())).components
    except Malformed:
        return []
    return [_component(place) for place in places]


def _component(place: Placement) -> dict[str, object]:
    return {
        "kind": ComponentKind(place.kind).name.lower(),
        "address": place.address,
        "size": place.size,
        "tweak": place.tweak_prefix.hex(),
    }


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value) or "none"
    if isinstance(value, dict):
        return f"{value['kind']} {value['size']} bytes at {value['address']:#x}"
    return str(value)
