"""What the verbs of `keyvisor policy` take, and how they refuse files. What is heavy is imported when it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from keyvisor_policy.terminal import printable

if TYPE_CHECKING:
    from keyvisor_policy.errors import DocumentError, Finding
    from keyvisor_policy.hsms import SecretId
    from keyvisor_policy.inventory import Inventory as Read
    from keyvisor_policy.policy import Policy
    from keyvisor_policy.rules import Secret

File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A policy file.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Policy files.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
INVENTORY_HELP = "The HSMs, YAML or JSON; also what `keyvisor guest hsms --json` prints."
Inventory = Annotated[Path, typer.Option(exists=True, dir_okay=False, help=INVENTORY_HELP)]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        help="The secrets that the guest holds: names or ids, with commas or given again. All if left out."
    ),
]


def loaded(*files: Path) -> list[Policy]:
    """The policies in the files. Ends with exit code 1 and everything that is wrong in all of them."""
    from keyvisor_policy.errors import DocumentError
    from keyvisor_policy.loading import load

    policies: list[Policy] = []
    findings: list[Finding] = []
    for file in dict.fromkeys(files):
        try:
            policies.append(load(file))
        except DocumentError as error:
            findings += error.findings
    if findings:
        refuse(DocumentError(findings))
    by_file = dict(zip(dict.fromkeys(files), policies, strict=True))
    return [by_file[file] for file in files]


def there_are(inventory: Path) -> Read:
    """The HSMs in a file. Ends with exit code 1 and everything that is wrong in it."""
    from keyvisor_policy.errors import DocumentError
    from keyvisor_policy.inventory import parse_inventory
    from keyvisor_policy.strict_yaml import read_file

    try:
        return parse_inventory(read_file(inventory), str(inventory))
    except DocumentError as error:
        refuse(error)


def refuse(error: DocumentError) -> NoReturn:
    """Print every finding and end with exit code 1."""
    for finding in error.findings:
        print(f"error: {printable(str(finding))}", file=sys.stderr)
    raise typer.Exit(1)


def held(policies: Iterable[Policy], secrets: list[str] | None) -> set[SecretId]:
    """The ids of the secrets given; of every secret that the policies name where none are."""
    if secrets is None:
        return {rule.secret.id for policy in policies for rule in policy.rules if rule.secret is not None}
    parts = (part.strip() for text in secrets for part in text.split(","))
    return {secret_of(part, "--secrets").id for part in parts if part}


def secret_of(text: str, option: str) -> Secret:
    """The secret that an option names, or gives by an id behind `0x`."""
    from keyvisor_policy import fields
    from keyvisor_policy.hsms import secret_id
    from keyvisor_policy.rules import Secret

    try:
        return Secret(fields.secret_id(text)) if text.startswith("0x") else Secret(secret_id(text), text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
