"""`keyvisor doctor`: what this machine lacks, and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_firmware.cli.options import JsonOption, StateOption
from keyvisor_policy.terminal import verb

if TYPE_CHECKING:
    from keyvisor_firmware.cli.checkup import Finding

app = verb("Look for what is missing on this machine.")


@app.callback(invoke_without_command=True)
def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The configuration that `keyvisor up` would get."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for what is missing. Ends with 1 if it is something that is needed."""
    from keyvisor_firmware.cli.checkup import checkup

    findings = checkup(state, config)
    _show(findings, as_json=as_json)
    if any(finding.needed and not finding.fine for finding in findings):
        raise typer.Exit(1)


def _show(findings: tuple[Finding, ...], *, as_json: bool) -> None:
    from dataclasses import asdict

    from keyvisor_policy.terminal import print_json, print_table

    if as_json:
        print_json({"checks": [asdict(finding) for finding in findings]})
        return
    print_table(
        ("check", "result", "found"),
        [(finding.check, _result(finding), finding.found) for finding in findings],
    )


def _result(finding: Finding) -> str:
    if finding.fine:
        return "fine"
    return "missing" if finding.needed else "not there"
