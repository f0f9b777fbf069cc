"""`keyvisor owner request show`: what of a request everybody can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import print_fields, read_limited
from keyvisor_guest.wire.asrcb import parse
from keyvisor_guest.wire.asrcb_layout import ANY_INSTANCE, FLAG_BITS, MAX_REQUEST, ControlBlock
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_kinds import KINDS
from keyvisor_guest.wire.user_data import ROWS
from keyvisor_policy.terminal import print_json

__all__ = ["show_command"]


def show_command(
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
    return "none" if value is None or value == "" else str(value)


def _public_fields(block: ControlBlock) -> dict[str, object]:
    public = block.public
    user_data = ROWS[public.user_data.kind]
    return {
        "type": KINDS[public.secret.kind].title,
        "id": public.secret.id and public.secret.id.hex(),
        "secret_length": public.secret.length,
        "cuid": None if public.cuid == ANY_INSTANCE else public.cuid.hex(),
        "flags": [str(flag) for flag, bit in FLAG_BITS.items() if public.flags & bit],
        "host_keys": [slot.host_key_hash.hex() for slot in public.slots],
        "user_data_kind": user_data.title,
        "user_data": public.user_data.area[: user_data.capacity].rstrip(b"\x00").hex(),
        "pld": public.identity.pld.hex(),
        "ald": public.identity.ald.hex(),
        "tld": public.identity.tld.hex(),
        "header_tag": public.identity.header_tag.hex(),
        "request_tag": block.tag.hex(),
        "size": len(block.associated) + len(block.sealed) + len(block.tag),
    }
