"""`keyvisor host query`, `storage`, `memory`, `export`, `import`: the machine's storage as the host sees it."""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyvisor_guest.cli.host_start import show_held
from keyvisor_guest.cli.options import JsonOption, StateOption, show
from keyvisor_guest.cli.sizes import AddressArgument, LengthArgument, parse_size, size_text
from keyvisor_policy.terminal import print_json, verb

if TYPE_CHECKING:
    from keyvisor_guest.host import Host
    from keyvisor_guest.hosting.needs import Needs
    from keyvisor_guest.wire.qui import StorageQuery
    from keyvisor_guest.wire.storage_messages import Ledger

memory = verb("Read and write host-absolute storage; secure pages refuse it.", group=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The guest.")]
GuestAddress = Annotated[
    int, typer.Argument(parser=parse_size, metavar="ADDRESS", help="The guest's address of the first page.")
]
_PLAN: Final = re.compile(r"memory=([^,]+)(?:,cpus=([0-9]{1,5}))?")
_DUMPED: Final = 16  # bytes on a line of a dump
_BAR: Final = 60  # characters


class QueryFormat(enum.StrEnum):
    """How the answer to a query is written."""

    HUMAN = "human"
    BIN = "bin"


def _host(state: Path | None) -> Host:
    from keyvisor_guest.host import Host

    return Host(state=state)


def query(
    query_format: Annotated[
        QueryFormat, typer.Option("--format", help="For people, or the query block as the firmware gives it.")
    ] = QueryFormat.HUMAN,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Write the block there."),
    ] = None,
    length: Annotated[
        int, typer.Option("--length", metavar="N", min=0, max=1 << 16, help="Room for the block, bytes.")
    ] = 0x120,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """How much storage each thing needs, and the machine's limits. Changes nothing."""
    host = _host(state)
    if query_format is QueryFormat.BIN:
        block = host.query_block(length)[1]
        if output is None:
            sys.stdout.buffer.write(block)
        else:
            output.write_bytes(block)
        return
    if output is not None:
        raise typer.BadParameter("`-o` goes with `--format bin`")
    _show_query(host.query_storage(length), as_json=as_json)


# Fields of the query that are amounts of storage; what they are for.
_AMOUNTS: Final = {
    "zone_base": "firmware, once (absolute)",
    "guest_base": "each guest (absolute)",
    "guest_base_virtual": "each guest (virtual)",
    "guest_per_mib": "each guest, per MiB of its storage (virtual)",
    "cpu": "each CPU (absolute)",
    "max_address": "a guest's storage ends here at the latest",
}
_LIMITS: Final = {
    "max_guests": "guests at most",
    "max_cpu_id": "a guest's highest CPU number",
    "max_association_secrets": "association secrets of a guest at most",
    "max_retrievable_secrets": "retrievable secrets of a guest at most",
}


def _show_query(found: StorageQuery, *, as_json: bool) -> None:
    values: dict[str, int] = {
        field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "calls"
    }
    calls = sorted(found.calls)
    rows = [(text, size_text(values[name]), str(values[name])) for name, text in _AMOUNTS.items()]
    rows += [(text, str(values[name]), "") for name, text in _LIMITS.items()]
    rows += [
        (name.replace("_", " "), f"{value:016x}", "")
        for name, value in values.items()
        if name not in (*_AMOUNTS, *_LIMITS)
    ]
    rows.append(("installed calls", " ".join(f"{call:04x}" for call in calls), ""))
    show(
        {**values, "calls": [int(call) for call in calls]}, ("what", "value", "bytes"), rows, as_json=as_json
    )


def storage(
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="memory=SIZE,cpus=N",
            help="Show what one more guest would need, and whether it fits: ends with 1 where it does not.",
        ),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who holds which storage, and how much is free; or what a planned guest would need."""
    wanted = _planned(plan) if plan is not None else None
    host = _host(state)
    ledger = host.storage()
    if wanted is not None:
        _show_plan(host.query_storage(), ledger, *wanted, as_json=as_json)
        return
    show_held(ledger.model_dump(mode="json"), ledger.held, as_json=as_json)
    if not as_json:
        _show_totals(ledger)


def _planned(text: str) -> tuple[int, int]:
    """Memory (bytes) and CPUs of `memory=64G,cpus=8`; one CPU where none are said."""
    found = _PLAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"`{text}` is no plan: write it as in `memory=64G,cpus=8`")
    return parse_size(found[1]), int(found[2] or 1)


def _show_plan(query: StorageQuery, ledger: Ledger, size: int, cpus: int, *, as_json: bool) -> None:
    from keyvisor_guest.errors import DoesNotFit
    from keyvisor_guest.hosting.needs import missing, needs

    needed = needs(query, size, cpus)
    short = missing(needed, ledger)
    rows = _plan_rows(needed, ledger)
    total = sum(length for _, length in rows)
    show(
        {"needs": dataclasses.asdict(needed), "total": total, "free": ledger.free, "missing": short},
        ("for", "size", "bytes"),
        [(what, size_text(length), str(length)) for what, length in (*rows, ("in all", total))],
        as_json=as_json,
    )
    if short:
        raise DoesNotFit(
            f"such a guest needs {total} bytes in all, {ledger.free} are free: {short} are missing; stop guests, "
            "or give the machine more storage (`storage.size` of the configuration)",
            short,
        )


def _plan_rows(needed: Needs, ledger: Ledger) -> list[tuple[str, int]]:
    rows = [
        ("guest base", needed.base),
        ("guest variable", needed.variable),
        ("cpu", needed.cpus),
        ("guest memory", needed.storage),
        ("address space and SCA", needed.tables),
    ]
    return rows if ledger.initialised else [("zone base", needed.zone), *rows]


def _show_totals(ledger: Ledger) -> None:
    used = ledger.size - ledger.secure - ledger.free
    if sys.stdout.isatty():
        secure, host = (-(-part * _BAR // ledger.size) for part in (ledger.secure, used))
        print(
            "\n"
            + "#" * secure
            + "+" * host
            + "." * (_BAR - secure - host)
            + "  # secure  + the host's  . free"
        )
    print(
        f"{size_text(ledger.size)} in all: {size_text(ledger.secure)} secure, {size_text(used)} the host's, "
        f"{size_text(ledger.free)} free, the largest piece {size_text(ledger.largest_free)}"
    )
    if not ledger.initialised:
        print("the firmware has no storage yet: the first `keyvisor host start` gives it")


def export_pages(
    name: Name, address: GuestAddress, length: LengthArgument, state: StateOption = None
) -> None:
    """Have pages of a guest encrypted, so that the host can put them away; the guest cannot use them meanwhile."""
    _host(state).export_pages(name, address, length)


def import_pages(
    name: Name, address: GuestAddress, length: LengthArgument, state: StateOption = None
) -> None:
    """Give pages to a guest: exported ones back, or new ones, which are zeros."""
    _host(state).import_pages(name, address, length)


@memory.command()
def read(
    address: AddressArgument,
    length: LengthArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Write the bytes there."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read storage, as a dump in hex or into a file."""
    data = _host(state).memory.read(address, length)
    if output is not None:
        output.write_bytes(data)
    elif as_json:
        print_json({"address": address, "data": data.hex()})
    else:
        for offset in range(0, len(data), _DUMPED):
            line = data[offset : offset + _DUMPED]
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
            print(f"{address + offset:012x}  {line.hex(' '):<{3 * _DUMPED}} {text}")


@memory.command()
def write(
    address: AddressArgument,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="What to write."),
    ],
    state: StateOption = None,
) -> None:
    """Write a file's bytes to storage."""
    _host(state).memory.write(address, file.read_bytes())
