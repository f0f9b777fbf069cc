"""The files of the owner's verbs: read up to a limit, written for the owner alone, at once, and never over others.

Knows how a boot identity and a secret's name stand in a file, and nothing of a request's bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keyvisor_guest.owner import Request
from keyvisor_guest.staged_files import stage
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.retrieved_secrets import KIND_NAMES
from keyvisor_guest.wire.secret_kinds import SecretKind

__all__ = [
    "identity_fields",
    "identity_json",
    "print_fields",
    "read_identity",
    "read_limited",
    "secret_yaml",
    "write_private",
    "yaml_file_name",
]

MAX_IDENTITY: Final = 0x10000  # bytes of an identity file
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class _IdentityFile(BaseModel):
    """A boot identity as a file has it, all hex."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pld: _Digest
    ald: _Digest
    tld: _Digest
    header_tag: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def identity_fields(identity: BootIdentity) -> dict[str, str]:
    """The identity as lower-case hex: `pld`, `ald`, `tld`, `header_tag`."""
    return {name: getattr(identity, name).hex() for name in _IdentityFile.model_fields}


def identity_json(identity: BootIdentity) -> str:
    """The identity as indented JSON with a final newline: what `read_identity` reads."""
    return _IdentityFile(**identity_fields(identity)).model_dump_json(indent=2) + "\n"


def read_identity(path: Path) -> BootIdentity:
    """The identity of a file that `keyvisor owner identity` wrote. Raises Malformed, OSError."""
    try:
        stored = _IdentityFile.model_validate_json(read_limited(path, MAX_IDENTITY, "an identity file"))
    except ValidationError as error:
        raise Malformed(
            f"`{path}` holds no boot identity: write one with `keyvisor owner identity`"
        ) from error
    return BootIdentity(
        *(bytes.fromhex(text) for text in (stored.pld, stored.ald, stored.tld, stored.header_tag))
    )


def secret_yaml(request: Request) -> str:
    """The document that `pvsecret create` leaves beside a request: what may be known of its secret (formats, G).

    Raises Unbuildable for a request whose secret has no name.
    """
    if request.secret_id is None or request.secret_name is None:
        raise Unbuildable("this request has no name and no id to describe")
    described = {"name": request.secret_name, "id": f"0x{request.secret_id.hex()}"}
    if request.kind is SecretKind.ASSOCIATION:
        return _tagged("Association", described)
    return _tagged("Retrievable", {"kind": f"{request.kind:d} ({KIND_NAMES[request.kind]})", **described})


def _tagged(tag: str, described: Mapping[str, str]) -> str:
    return f"!{tag}\n{yaml.safe_dump(dict(described), sort_keys=False, allow_unicode=True)}"


def yaml_file_name(name: str) -> str:
    """The file that goes with a secret's name: blanks become `_`, what follows the last dot becomes `yaml`.

    Slashes become `_` as well: the file stays beside the request, whatever the name is.
    """
    flat = "".join("_" if char.isspace() or char == "/" else char for char in name)
    return f"{flat.rpartition('.')[0] or flat}.yaml"


def read_limited(path: Path, limit: int, what: str) -> bytes:
    """The file's content, at most `limit` bytes. Raises Unbuildable for more, OSError."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unbuildable(f"`{path}` is too long for {what}: {limit} bytes at most")
    return content


def write_private(
    files: Sequence[tuple[Path, bytes]], *, force: bool, appended: tuple[Path, bytes] | None = None
) -> None:
    """Write all files, mode 0600, or none of them; each appears whole. Raises OSError.

    A file that exists is refused without `force`. With it, files are replaced one after the other, in order.
    `appended` is a line for the end of a file, which may exist: it is written last, when all others are there.
    """
    grown = [] if appended is None else [appended[0]]
    _refuse_clashes([path for path, _ in files], grown, force=force)
    with ExitStack() as staged, ExitStack() as published:
        ready: list[tuple[Path, Path]] = []
        for path, content in files:
            temporary = stage(path, content)
            staged.callback(temporary.unlink, missing_ok=True)
            ready.append((path, temporary))
        end = None if appended is None else _open_end(appended[0], published)
        if end is not None:
            staged.callback(os.close, end)
        for path, temporary in ready:
            if force:
                temporary.replace(path)
            else:
                _publish_new(temporary, path)
                published.callback(path.unlink)
        if appended is not None and end is not None:
            _append(end, appended[1])
        published.pop_all()


def _open_end(path: Path, published: ExitStack) -> int:
    """A descriptor for the end of the file, before anything is published; a file that is new goes with the rest."""
    new = not os.path.lexists(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if new:
        published.callback(path.unlink)
    return descriptor


def _append(descriptor: int, line: bytes) -> None:
    """One write at the end, so that two programs can do it at once; after a last line that has no end, one is made."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    unfinished = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    os.write(descriptor, b"\n" + line if unfinished else line)
    os.fsync(descriptor)


def _refuse_clashes(paths: Sequence[Path], grown: Sequence[Path], *, force: bool) -> None:
    every = [*paths, *grown]
    if len({path.parent.resolve() / path.name for path in every}) < len(every):
        names = ", ".join(f"`{path}`" for path in every)
        raise Unbuildable(f"two outputs are one file ({names}): give another name to one of them")
    for path in every:
        if not path.parent.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, "there is no such directory: make it first", str(path.parent)
            )
        if path in paths and os.path.lexists(path) and not force:
            raise _exists(path)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "exists already: give another name, or --force", str(path))


def _publish_new(temporary: Path, path: Path) -> None:
    # A link, unlike a rename, does not replace what came there since it was looked at.
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None


def print_fields(fields: Mapping[str, str]) -> None:
    """Print one field per line, names and values in columns; values are never cut: digests are there to be compared."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name:<{width}}  {value}")
