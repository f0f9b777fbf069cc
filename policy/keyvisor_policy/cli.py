"""The verb `keyvisor policy`: check policies and see what they would do, without a firmware.

Prints what the package's functions answer and ends with their exit code; decides nothing. What is heavy is
imported by the verb that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyvisor_policy.cli_arguments import Files, Json
from keyvisor_policy.cli_convert import convert
from keyvisor_policy.cli_explain import explain
from keyvisor_policy.cli_plan import plan
from keyvisor_policy.cli_profile import profile
from keyvisor_policy.cli_prove import diff, prove
from keyvisor_policy.cli_schema import schema
from keyvisor_policy.cli_test import run_cases
from keyvisor_policy.terminal import print_json, verb

if TYPE_CHECKING:
    from keyvisor_policy.lint import Remark

app = verb("Check policies and see what they would do, without a firmware.", group=True)


@app.command()
def check(
    files: Files,
    as_json: Json = False,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for editors and CI.")] = False,
) -> None:
    """Say what is wrong with policies: syntax, types, and rules that can surely not do what they say.

    Exit code 0: nothing. 1: findings. 2: wrong command line.
    """
    if as_json and as_sarif:
        raise typer.BadParameter("give one of them", param_hint="--json, --sarif")
    remarks = [remark for file in files for remark in _remarks(file)]
    if as_sarif:
        from keyvisor_policy.sarif import log

        print_json(log(remarks))
    elif as_json:
        print_json([_remark_json(remark) for remark in remarks])
    else:
        for remark in remarks:
            print(remark)
    if remarks:
        raise typer.Exit(1)


app.command()(plan)
app.command("test")(run_cases)
app.command()(explain)
app.command()(prove)
app.command()(diff)
app.command()(profile)
app.command()(convert)
app.command()(schema)


def _remarks(file: Path) -> list[Remark]:
    from keyvisor_policy.errors import DocumentError
    from keyvisor_policy.lint import Remark, check
    from keyvisor_policy.loading import load

    try:
        return list(check(load(file)))
    except DocumentError as error:
        return [Remark("invalid", finding) for finding in error.findings]


def _remark_json(remark: Remark) -> dict[str, Any]:
    finding = remark.finding
    return {
        "file": finding.source,
        "line": finding.line,
        "column": finding.column,
        "code": remark.code,
        "message": finding.message,
    }
