"""`keyvisor audit`: what the firmware has recorded, whether it is all there, and why it was decided so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyvisor_firmware.cli.options import JsonOption, StateOption
from keyvisor_policy.terminal import verb

if TYPE_CHECKING:
    from keyvisor_firmware.audit_log.chain import Head
    from keyvisor_guest.wire.messages import AuditKey

_LONGEST_HEAD: Final = 256  # bytes of a file that holds one

app = verb("Read what the firmware has recorded, verify it, and explain it.")

KeyOption = Annotated[
    Path,
    typer.Option(
        "--key",
        metavar="PEM",
        exists=True,
        dir_okay=False,
        readable=True,
        help="The log's public key, as `keyvisor audit key` printed it.",
    ),
]


@app.callback(invoke_without_command=True)
def audit(context: typer.Context, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Every command that was done or refused, and every call that a gate refused, oldest first; the newest
    `limits.audit_entries` of the configuration.

    `id` is what `keyvisor audit explain` takes.
    """
    if context.invoked_subcommand is not None:
        source = context.get_parameter_source("state")
        context.obj = state if source is not None and source.name == "COMMANDLINE" else None
        return
    from keyvisor_firmware.cli.operator_door import ask
    from keyvisor_guest.state_directory import operator_socket, state_directory
    from keyvisor_guest.wire.messages import AuditLog
    from keyvisor_policy.terminal import print_json, print_table

    answer = ask(operator_socket(state_directory(state)), "audit", AuditLog)
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    print_table(
        ("id", "at", "guest", "event", "detail"),
        [
            (
                str(one.number),
                one.at,
                one.guest or "none",
                one.event,
                " ".join(f"{key}={value}" for key, value in one.detail.items()),
            )
            for one in answer.entries
        ],
        empty="nothing is recorded yet",
    )


@app.command()
def key(context: typer.Context, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Print the public key that verifies the log, PEM. Keep it where the firmware's machine cannot change it."""
    from keyvisor_policy.terminal import print_json

    answer = _key(context, state)
    if as_json:
        print_json(answer.model_dump(mode="json"))
    else:
        print(answer.public_key, end="")


@app.command()
def head(context: typer.Context, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Print the last record's number and hash, NUMBER:HASH: for `verify --expect-head`, later and elsewhere."""
    from keyvisor_policy.terminal import fail, print_json

    answer = _key(context, state)
    if as_json:
        print_json({"head": answer.head})
    elif answer.head is None:
        fail("nothing is recorded yet: the first guest's start is")
    else:
        print(answer.head)


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not be there.")],
    state: StateOption = None,
) -> None:
    """Write the log to a file, a JSON line for each record and signature. Works beside the firmware and without it."""
    from keyvisor_firmware.audit_log.reading import write_export
    from keyvisor_policy.terminal import printable

    written = write_export(_directory(context, state), file)
    print(f"{written.records} records, {written.signatures} signatures in {printable(str(file))}")
    if written.head is not None:
        print(f"head {written.head}")


@app.command()
def verify(
    context: typer.Context,
    key: KeyOption,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="An exported log; without it the one in the state directory.",
            show_default=False,
        ),
    ] = None,
    expect_head: Annotated[
        str | None,
        typer.Option(
            "--expect-head",
            metavar="HEAD",
            help="A head that was seen before, NUMBER:HASH or a file that holds it: it must still be in the log.",
        ),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every record, its place in the chain, and every signature. Needs no firmware and no token.

    Exit code 0: nothing was changed, dropped, put in or reordered. 1: the first record where something was. 2: wrong
    command line. A log that ends early is found with --expect-head only.
    """
    from keyvisor_firmware.audit_log.reading import file_lines, records_of, state_lines
    from keyvisor_firmware.audit_log.verifying import public_key
    from keyvisor_firmware.audit_log.verifying import verify as verified
    from keyvisor_firmware.cli.audit_printing import print_report
    from keyvisor_firmware.errors import Malformed

    try:
        known = public_key(key.read_bytes())
        expected = None if expect_head is None else _head(expect_head)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from None
    if file is not None:
        report = verified(file_lines(file), known, expected)
    else:
        with records_of(_directory(context, state)) as records:
            report = verified(state_lines(records), known, expected)
    print_report(report, as_json=as_json)


@app.command()
def explain(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="The record's number.")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what was asked, the state then, the rule and its line, what would have to be true, and what to do for it."""
    from keyvisor_firmware.audit_log.explaining import explanations
    from keyvisor_firmware.audit_log.reading import records_of
    from keyvisor_firmware.cli.audit_printing import print_explanations

    with records_of(_directory(context, state)) as records:
        event, explained = explanations(records, number)
    print_explanations(event, explained, as_json=as_json)


@app.command()
def replay(
    context: typer.Context,
    policy: Annotated[
        Path,
        typer.Option(
            "--policy",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="The policy to decide by.",
        ),
    ],
    guest: Annotated[
        str | None, typer.Option("--guest", metavar="NAME", help="Only this guest's decisions.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide again, by another policy, what was decided: which recorded decisions would change, and why.

    Exit code 0: none would. 1: some would. 2: wrong command line.
    """
    from keyvisor_firmware.audit_log.reading import events_of, records_of
    from keyvisor_firmware.audit_log.replaying import replay as replayed
    from keyvisor_firmware.audit_log.replaying_calls import call_again
    from keyvisor_firmware.cli.audit_printing import print_replay
    from keyvisor_policy import load

    new = load(policy)
    with records_of(_directory(context, state)) as records:
        found = replayed(events_of(records, guest), new, call_again)
    print_replay(found, as_json=as_json)


def _directory(context: typer.Context, state: Path | None) -> Path:
    """The state directory, whether it is named before the command or behind it."""
    from keyvisor_guest.state_directory import state_directory

    return state_directory(context.obj or state)


def _key(context: typer.Context, state: Path | None) -> AuditKey:
    from keyvisor_firmware.cli.operator_door import ask
    from keyvisor_guest.state_directory import operator_socket
    from keyvisor_guest.wire.messages import AuditKey

    return ask(operator_socket(_directory(context, state)), "audit_key", AuditKey)


def _head(given: str) -> Head:
    """Raises Malformed for what is neither a head nor a file with one."""
    from keyvisor_firmware.audit_log.chain import Head

    path = Path(given)
    if ":" not in given and path.is_file():
        return Head.parse(path.read_bytes()[:_LONGEST_HEAD].decode("ascii", "replace"))
    return Head.parse(given)
