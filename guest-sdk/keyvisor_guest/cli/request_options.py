"""The options that all requests share, as one table: those of `pvsecret create` (formats, G).

Each field is an option of every verb that makes a request; `with_common_options` makes them so. Knows their
names and which exclude each other, not what becomes of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.host_key_options import (
    CertsOption,
    CrlsOption,
    HostKeysOption,
    NoVerifyOption,
    OfflineOption,
    RootCaOption,
)
from keyvisor_guest.cli.option_sets import with_option_set
from keyvisor_guest.wire.asrcb_layout import CUID_LENGTH, Flag

__all__ = [
    "CommonOptions",
    "ForceOption",
    "file_option",
    "output_option",
    "with_common_options",
]


def file_option(*names: str, text: str) -> object:
    """An option that names a file to be read."""
    return typer.Option(*names, metavar="FILE", exists=True, dir_okay=False, readable=True, help=text)


def output_option(*names: str, text: str) -> object:
    """An option that names a file to be written."""
    return typer.Option(*names, metavar="FILE", dir_okay=False, help=text)


def _cuid(text: str | None) -> str | None:
    if text is None:
        return None
    digits = text.removeprefix("0x")
    if re.fullmatch(f"[0-9a-fA-F]{{{CUID_LENGTH * 2}}}", digits) is None:
        raise typer.BadParameter(f"a CUID is {CUID_LENGTH * 2} hex digits")
    return digits


HeaderOption = Annotated[
    Path | None, file_option("--hdr", text="The guest's image, or the header of it: for which guests.")
]
IdentityOption = Annotated[
    Path | None,
    file_option("--identity", text="The same as a file that `keyvisor owner identity` wrote."),
]
OutputOption = Annotated[Path, output_option("-o", "--output", text="Write the request there.")]
CuidFileOption = Annotated[
    Path | None,
    file_option(
        "--cuid",
        text="Bind to the instance with this CUID, not to any: 16 bytes, or YAML with an entry `cuid`.",
    ),
]
CuidOption = Annotated[
    str | None,
    typer.Option("--cuid-hex", metavar="HEX", callback=_cuid, help="The same as 32 hex digits."),
]
ExtensionOption = Annotated[
    Path | None,
    file_option("--extension-secret", text="32 bytes that all requests for one instance must share."),
]
CckOption = Annotated[
    Path | None,
    file_option("--cck", text="Customer communication key, 32 bytes, to derive the extension secret from."),
]
FlagsOption = Annotated[
    list[Flag] | None, typer.Option("--flags", help="What to ask for besides; can be repeated.")
]
UserDataOption = Annotated[
    Path | None,
    file_option("--user-data", text="For the guest's own code: 512 bytes, fewer where they are signed."),
]
PolicyOption = Annotated[
    Path | None,
    file_option("--policy", text="User data that names this policy: SHA-256 of the file, and its path."),
]
TocOption = Annotated[
    Path | None,
    output_option("--toc-policy", text="Append the request's tag to this list of requests to expect."),
]
UserSignKeyOption = Annotated[
    Path | None,
    file_option(
        "--user-sign-key",
        text="Sign the user data with the request: a private key of EC P-521, RSA-2048 or RSA-3072.",
    ),
]
UseNameOption = Annotated[bool, typer.Option("--use-name", help="The id is the name itself, not its hash.")]
ForceOption = Annotated[bool, typer.Option("-f", "--force", help="Replace files that exist.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What every verb that makes a request takes. Raises BadParameter for options that exclude each other."""

    host_key_documents: HostKeysOption
    output: OutputOption
    certs: CertsOption = None
    crls: CrlsOption = None
    root_ca: RootCaOption = None
    offline: OfflineOption = False
    no_verify: NoVerifyOption = False
    header: HeaderOption = None
    identity: IdentityOption = None
    cuid_file: CuidFileOption = None
    cuid: CuidOption = None
    extension_secret: ExtensionOption = None
    cck: CckOption = None
    flags: FlagsOption = None
    user_data: UserDataOption = None
    policy: PolicyOption = None
    toc_policy: TocOption = None
    user_sign_key: UserSignKeyOption = None
    use_name: UseNameOption = False
    force: ForceOption = False

    def __post_init__(self) -> None:
        for one, other in _EXCLUSIVE:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise typer.BadParameter(f"{_SPELLED[one]} and {_SPELLED[other]} exclude each other")
        if self.header is None and self.identity is None:
            raise typer.BadParameter("for which image? give --hdr FILE or --identity FILE")


_EXCLUSIVE = (
    ("extension_secret", "cck"),
    ("cuid_file", "cuid"),
    ("user_data", "policy"),
    ("policy", "user_sign_key"),  # a policy's reference takes all 512 bytes: no signature has room
    ("header", "identity"),
)
_SPELLED = {
    "extension_secret": "--extension-secret",
    "cck": "--cck",
    "cuid_file": "--cuid",
    "cuid": "--cuid-hex",
    "user_data": "--user-data",
    "policy": "--policy",
    "user_sign_key": "--user-sign-key",
    "header": "--hdr",
    "identity": "--identity",
}


with_common_options = with_option_set(CommonOptions)
