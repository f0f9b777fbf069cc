"""`keyvisor owner request`: add-secret requests, made and looked at. Mirrors `pvsecret create` (formats, G).

Secrets come from files and go to files, never through the command line. The format is not known here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.owner_files import read_limited, secret_yaml, write_private, yaml_file_name
from keyvisor_guest.cli.request_inputs import SECRET_LENGTH, identity_for, options_for, secret_of_32
from keyvisor_guest.cli.request_options import (
    CommonOptions,
    ForceOption,
    HostKeysOption,
    NoVerifyOption,
    file_option,
    output_option,
    with_common_options,
)
from keyvisor_guest.cli.request_show import show_command
from keyvisor_guest.cli.request_verify import verify_command
from keyvisor_guest.names import GUEST_VARIABLE
from keyvisor_guest.owner import Owner, Request, SecretType
from keyvisor_guest.wire.errors import HostKeyUnusable
from keyvisor_guest.wire.secret_values import max_content
from keyvisor_policy.terminal import verb

__all__ = ["ForceOption", "HostKeysOption", "NoVerifyOption", "app"]

app = verb("Make add-secret requests, and look at them.", group=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The secret's name, as policies have it.")]
StdoutOption = Annotated[
    bool,
    typer.Option("--stdout", help="Print name and id instead of writing NAME.yaml beside the request."),
]


@app.command()
@with_common_options
def association(
    options: CommonOptions,
    name: NameArgument,
    input_secret: Annotated[
        Path | None, file_option("--input-secret", text="The secret, 32 bytes. Without it a random one.")
    ] = None,
    output_secret: Annotated[
        Path | None, output_option("--output-secret", text="Write the secret there, in clear.")
    ] = None,
    to_stdout: StdoutOption = False,
) -> None:
    """Make a request that adds an association secret; name and id go to NAME.yaml beside it."""
    made = _owner_of(options).association_request(
        name,
        identity_for(options),
        secret=secret_of_32(input_secret, "a secret"),
        use_name=options.use_name,
        **options_for(options),
    )
    kept = [] if output_secret is None else [(output_secret, made.reveal_secret())]
    _write(made, options, kept, to_stdout=to_stdout)


@app.command()
@with_common_options
def retrievable(
    options: CommonOptions,
    name: NameArgument,
    secret: Annotated[
        Path,
        file_option("--secret", text="The secret: any file, a raw key, or a private key in PEM or DER."),
    ],
    secret_type: Annotated[
        SecretType,
        typer.Option("--type", help="What the file holds; which kind of key it is, is seen in it."),
    ],
    to_stdout: StdoutOption = False,
) -> None:
    """Make a request that adds a secret which the guest gets back; kind, name and id go to NAME.yaml beside it.

    A plaintext secret comes back as it is, up to 8190 bytes; a key as a protected key, its bytes never.
    """
    made = _owner_of(options).retrievable_request(
        name,
        identity_for(options),
        read_limited(secret, max_content(secret_type), f"a secret of type `{secret_type}`"),
        secret_type,
        use_name=options.use_name,
        **options_for(options),
    )
    _write(made, options, to_stdout=to_stdout)


@app.command()
@with_common_options
def meta(options: CommonOptions) -> None:
    """Make a request that adds no secret: it fixes the extension secret and sets flags."""
    _write(_owner_of(options).meta_request(identity_for(options), **options_for(options)), options)


@app.command()
@with_common_options
def update_cck(
    options: CommonOptions,
    secret: Annotated[Path, file_option("--secret", text="The new customer communication key, 32 bytes.")],
) -> None:
    """Make a request that replaces the instance's customer communication key, where its image allows it."""
    new = read_limited(secret, SECRET_LENGTH, "a customer communication key")
    made = _owner_of(options).update_cck_request(identity_for(options), new, **options_for(options))
    _write(made, options)


app.command("verify")(verify_command)
app.command("show")(show_command)

# pvsecret has short names for two of its verbs.
app.command("retr", hidden=True)(retrievable)
app.command("cck", hidden=True)(update_cck)


def _write(
    made: Request,
    options: CommonOptions,
    kept: list[tuple[Path, bytes]] | None = None,
    *,
    to_stdout: bool = False,
) -> None:
    """Write the request and what belongs to it, all or nothing; a list of requests gets its tag last of all."""
    files = kept or []
    described = None if made.secret_name is None else secret_yaml(made)
    if made.secret_name is not None and described is not None and not to_stdout:
        files.append((options.output.parent / yaml_file_name(made.secret_name), described.encode()))
    line = None if options.toc_policy is None else (options.toc_policy, f"{made.tag.hex()}\n".encode())
    write_private([*files, (options.output, made.data)], force=options.force, appended=line)
    if described is not None and to_stdout:
        sys.stdout.write(described)


def _owner_of(options: CommonOptions) -> Owner:
    if GUEST_VARIABLE in os.environ:
        print(
            f"warning: {GUEST_VARIABLE} is set, so this seems to be a guest: make requests on a machine that "
            "you trust, not where their secrets are used",
            file=sys.stderr,
        )
    return _owner(options.host_key_documents, no_verify=options.no_verify)


def _owner(documents: list[Path], *, no_verify: bool) -> Owner:
    if not no_verify:
        raise HostKeyUnusable(
            "this release cannot check who made a host-key document: "
            "give --no-verify, and compare the hash that it prints with the operator's"
        )
    owner = Owner(documents)
    print(
        "warning: host-key documents are NOT verified: not their signature, not their validity, not their "
        "revocation; whoever made them can read this request",
        file=sys.stderr,
    )
    for path, key_hash in zip(documents, owner.host_key_hashes, strict=True):
        print(
            f"warning: `{path}` has the host key {key_hash.hex()}: compare it with the operator's",
            file=sys.stderr,
        )
    return owner
