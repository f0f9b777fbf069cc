"""How a guest is furnished with its secrets: one strict YAML file, in the image or beside the requests.

    version: 1
    user: etc/user.crt            # whose requests are taken; relative to this file
    contents: etc/contents.txt    # tags of all requests that must come, a line of hex each (`--toc-policy`)
    files:                        # plaintext secrets, placed below the root that is given
      - {secret: tls-certificate, path: tls/server.crt, mode: "0644"}
    keys:                         # protected keys, as PEM
      - {secret: tls-key, path: tls/server.key, mode: "0600"}
    apply: true                   # bind and associate what the policy asks for, once the store is locked
    command: [./start]            # run in the root at the end

Knows no door and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import Field

from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.strict_yaml import (
    Boolean,
    Document,
    StrictModel,
    Verbatim,
    examine,
    from_text,
    one_of,
    ordered,
    read_document,
    read_file,
)

__all__ = ["Description", "PlacedSecret", "load", "parse", "read_contents"]

MAX_ENTRIES: Final = 1024
_TAG: Final = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class PlacedSecret:
    """A secret and the file that it becomes, below the root. `mode` has permission bits only."""

    secret: str
    path: PurePosixPath
    mode: int


@dataclass(frozen=True, slots=True)
class Description:
    """What one file says. `user` and `contents` are absolute; None where the file does not name them.

    `files` are plaintext secrets; `keys` are keys, of which the protected form is placed.
    """

    user: Path | None = None
    contents: Path | None = None
    files: tuple[PlacedSecret, ...] = ()
    keys: tuple[PlacedSecret, ...] = ()
    apply: bool = False
    command: tuple[str, ...] = ()


def load(path: Path) -> Description:
    """Read a description. Raises DocumentError with every finding at its place."""
    return parse(read_file(path), str(path), path.parent)


def parse(text: str | bytes, source: str, home: Path) -> Description:
    """The description that `text` says; names in it are relative to `home`. Raises DocumentError."""
    document = read_document(text, source)
    model, findings = examine(document, _File)
    found = ordered([*findings, *(_clashes(document, model) if model is not None else ())])
    if model is None or found:
        raise DocumentError(found)
    return model.description(home.resolve())


def read_contents(text: str) -> tuple[bytes, ...]:
    """The tags of a table of contents, 16 bytes each. Raises ValueError with the line that is none."""
    tags = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (stripped := line.strip()):
            continue
        if _TAG.fullmatch(stripped) is None:
            raise ValueError(f"line {number} is no request's tag: 32 hex digits")
        tags.append(bytes.fromhex(stripped))
    return tuple(tags)


# --- the file


def _mode(text: str) -> int:
    if re.fullmatch(r"0[0-7]{3}", text) is None:
        raise ValueError(f"expected a mode in quotes, four octal digits as in `0640`, found `{text}`")
    return int(text, 8)


def _below(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise ValueError(f"expected a path below the root, without `..`, found `{text}`")
    return path


class _Placed(StrictModel):
    secret: Annotated[Verbatim, Field(min_length=1, max_length=4096)]
    path: Annotated[PurePosixPath, from_text(_below)]
    mode: Annotated[int, from_text(_mode)] = 0o600


class _File(StrictModel):
    version: Annotated[str, one_of("1")]
    user: Verbatim | None = None
    contents: Verbatim | None = None
    files: Annotated[list[_Placed], Field(max_length=MAX_ENTRIES)] = Field(default_factory=list)
    keys: Annotated[list[_Placed], Field(max_length=MAX_ENTRIES)] = Field(default_factory=list)
    apply: Boolean = False
    command: Annotated[list[Verbatim], Field(max_length=MAX_ENTRIES)] = Field(default_factory=list)

    def description(self, home: Path) -> Description:
        return Description(
            user=None if self.user is None else home / self.user,
            contents=None if self.contents is None else home / self.contents,
            files=tuple(PlacedSecret(one.secret, one.path, one.mode) for one in self.files),
            keys=tuple(PlacedSecret(one.secret, one.path, one.mode) for one in self.keys),
            apply=self.apply,
            command=tuple(self.command),
        )


def _clashes(document: Document, file: _File) -> Iterator[Finding]:
    """Two secrets in one file, and a file where a directory has to be."""
    taken: dict[PurePosixPath, str] = {}
    for kind, entries in (("files", file.files), ("keys", file.keys)):
        for at, entry in enumerate(entries):
            for path, secret in taken.items():
                if entry.path == path or entry.path in path.parents or path in entry.path.parents:
                    message = (
                        f"`{entry.path}` cannot stand beside `{path}`, which the secret `{secret}` becomes"
                    )
                    yield document.finding((kind, at, "path"), message)
            taken[entry.path] = entry.secret
