"""What requests are made from, read from the files that the options name.

Knows how a CUID, a policy and a boot identity stand in files, and nothing of a request's bytes.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Final

import typer
import yaml

from keyvisor_guest.cli.owner_files import read_identity, read_limited
from keyvisor_guest.cli.request_options import CommonOptions
from keyvisor_guest.owner import RequestOptions
from keyvisor_guest.wire.asrcb_layout import CUID_LENGTH, USER_DATA_LENGTH
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.messages import MAX_IMAGE
from keyvisor_guest.wire.se_image import identity_of
from keyvisor_guest.wire.user_data import policy_reference

__all__ = ["SECRET_LENGTH", "identity_for", "options_for", "read_cuid", "secret_of_32"]

SECRET_LENGTH: Final = 32  # bytes of an association secret, of an extension secret and of a CCK
MAX_CUID_FILE: Final = 0x10000
MAX_DEPTH: Final = 8  # of mappings in a CUID's file, as pvsecret looks


def options_for(options: CommonOptions) -> RequestOptions:
    """What the files of `options` hold. Raises Unbuildable, Malformed, OSError."""
    return {
        "cuid": _cuid(options),
        "extension_secret": secret_of_32(options.extension_secret, "an extension secret"),
        "cck": secret_of_32(options.cck, "a customer communication key"),
        "flags": options.flags or (),
        "user_data": _user_data(options),
        "user_signing_key": options.user_sign_key,
    }


def secret_of_32(path: Path | None, what: str) -> bytes | None:
    """The file's content, no more than 32 bytes; that there are not fewer is seen where they are used."""
    return None if path is None else read_limited(path, SECRET_LENGTH, what)


def identity_for(options: CommonOptions) -> BootIdentity:
    """The boot identity that the request is for. Raises Malformed, Unbuildable, OSError."""
    return image_identity(options.header, options.identity)


def image_identity(header: Path | None, identity: Path | None) -> BootIdentity:
    """The boot identity of an image (or the header of one), or of a file that holds one: exactly one of them is given.

    Raises BadParameter, Malformed, Unbuildable, OSError.
    """
    if header is not None and identity is not None:
        raise typer.BadParameter("--hdr and --identity exclude each other")
    if identity is not None:
        return read_identity(identity)
    if header is None:
        raise typer.BadParameter("for which image? give --hdr FILE or --identity FILE")
    try:
        return identity_of(read_limited(header, MAX_IMAGE, "an image"))
    except Malformed as error:
        raise Malformed(f"`{header}` has no image header that could be taken: {error}") from error


def _cuid(options: CommonOptions) -> bytes | None:
    if options.cuid_file is not None:
        return read_cuid(options.cuid_file)
    return None if options.cuid is None else bytes.fromhex(options.cuid)


def read_cuid(path: Path) -> bytes:
    """The CUID of a file: its 16 bytes, or the first entry `cuid` of a YAML document, hex, with or without `0x`.

    An attestation's result has such an entry. Raises Malformed, Unbuildable, OSError.
    """
    content = read_limited(path, MAX_CUID_FILE, "a CUID")
    if len(content) == CUID_LENGTH:
        return content
    try:
        document = yaml.load(content, Loader=yaml.BaseLoader)  # noqa: S506 - strings, lists and mappings only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Malformed(f"`{path}` is neither {CUID_LENGTH} bytes nor YAML with an entry `cuid`") from error
    text = document if isinstance(document, str) else _entry(document)
    if text is None:
        raise Malformed(f"`{path}` has no entry `cuid`: give an attestation's result, or --cuid-hex")
    digits = text.removeprefix("0x")
    if re.fullmatch(f"[0-9a-fA-F]{{{CUID_LENGTH * 2}}}", digits) is None:
        raise Malformed(f"the CUID in `{path}` is not {CUID_LENGTH * 2} hex digits")
    return bytes.fromhex(digits)


def _entry(document: object) -> str | None:
    """The outermost entry `cuid`. Each mapping is looked at once, however often the document refers to it."""
    level, seen = [document], set[int]()
    for _ in range(MAX_DEPTH):
        mappings = [one for one in level if isinstance(one, dict) and id(one) not in seen]
        seen.update(map(id, mappings))
        for mapping in mappings:
            if isinstance(mapping.get("cuid"), str):
                return str(mapping["cuid"])
        level = [value for mapping in mappings for value in mapping.values()]
    return None


def _user_data(options: CommonOptions) -> bytes | None:
    if options.policy is not None:
        with options.policy.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        return policy_reference(digest, str(options.policy))
    if options.user_data is None:
        return None
    data = read_limited(options.user_data, USER_DATA_LENGTH, "user data")
    if not data:
        print(f"warning: `{options.user_data}` is empty: so is the user data", file=sys.stderr)
    return data
