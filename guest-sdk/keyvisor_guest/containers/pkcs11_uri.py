"""PKCS#11 URIs (RFC 7512): which key of a guest's HSM is meant.

Only what finds a key in a guest's door is taken. A module is never taken: the door is the only way to the HSM. A PIN is never
taken either, since command lines are seen by others: `pin-source` names a file. Knows no door.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_to_bytes

from keyvisor_guest.containers.errors import KeyRefused

__all__ = ["SCHEME", "Pkcs11Uri", "parse_uri"]

SCHEME: Final = "pkcs11:"
_MAX_URI: Final = 4096  # characters
_MAX_LABEL: Final = 255  # bytes
# RFC 7512, section 2.3: what may stand unescaped, in a path and in a query.
_PATH_VALUE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*", re.ASCII)
_QUERY_VALUE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*", re.ASCII)
_WAY_OUT: Final = "write `pkcs11:token=03.0011;object=LABEL` or `pkcs11:id=%01`"
_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pin-value": "a PIN in a command line is seen by others: name a file with `pin-source`, or leave it out",
        "module-path": "the guest's door is the only way to its HSM: leave `module-path` out",
        "module-name": "the guest's door is the only way to its HSM: leave `module-name` out",
        "type": "which of a pair's halves is needed is known here: leave `type` out",
    }
)
_PATH: Final = frozenset({"token", "object", "id"})
_QUERY: Final = frozenset({"pin-source"})


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """A key's label or id or both, and the token that it is in where it is said. `pin_source`: a file."""

    token: str | None = None
    label: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None

    def __str__(self) -> str:
        """For messages: what is looked for."""
        parts = [
            *([] if self.label is None else [f"the label `{self.label}`"]),
            *([] if self.id is None else [f"the id {self.id.hex()}"]),
        ]
        return " and ".join(parts)


def parse_uri(text: str) -> Pkcs11Uri:
    """The key that a URI names. Raises KeyRefused, and never repeats a value that might be a PIN."""
    if not text.startswith(SCHEME) or len(text) > _MAX_URI:
        raise KeyRefused(f"this is no PKCS#11 URI: {_WAY_OUT}")
    path, _, query = text.removeprefix(SCHEME).partition("?")
    found = _attributes(path, ";", _PATH_VALUE, _PATH) | _attributes(query, "&", _QUERY_VALUE, _QUERY)
    if not found.keys() & {"object", "id"}:
        raise KeyRefused(f"the URI says of no key which one: {_WAY_OUT}")
    if found.get("id") == b"":
        raise KeyRefused(f"the URI's `id` is empty: {_WAY_OUT}")
    source = found.get("pin-source")
    return Pkcs11Uri(
        _text(found, "token"),
        _text(found, "object"),
        found.get("id"),
        None if source is None else _file(source),
    )


def _attributes(
    part: str, between: str, spelling: re.Pattern[str], known: frozenset[str]
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for one in part.split(between) if part else []:
        name, equals, value = one.partition("=")
        if name in _REFUSED:
            raise KeyRefused(_REFUSED[name])
        if name not in known or not equals:
            shown = f"`{name}`" if re.fullmatch(r"[a-z-]{1,32}", name, re.ASCII) else "such a part"
            raise KeyRefused(f"{shown} finds no key in a guest's HSM: {_WAY_OUT}")
        if name in found:
            raise KeyRefused(f"the URI says `{name}` twice: say it once")
        if not spelling.fullmatch(value):
            raise KeyRefused(f"the URI's `{name}` has a character that is written as %XX in a URI")
        found[name] = unquote_to_bytes(value)
        if len(found[name]) > _MAX_LABEL and name != "pin-source":
            raise KeyRefused(f"the URI's `{name}` is longer than {_MAX_LABEL} bytes")
    return found


def _text(found: Mapping[str, bytes], name: str) -> str | None:
    value = found.get(name)
    try:
        text = None if value is None else value.decode()
    except UnicodeDecodeError:
        text = ""
    if text is None:
        return None
    if not text or not text.isprintable():
        raise KeyRefused(f"the URI's `{name}` is no text: {_WAY_OUT}")
    return text


def _file(source: bytes) -> Path:
    try:
        name = source.decode().removeprefix("file:")
    except UnicodeDecodeError:
        name = ""
    if name.startswith("///"):
        name = name[2:]
    if not name.startswith("/") or name.startswith("//") or not name.isprintable():
        raise KeyRefused("`pin-source` names a file from the root: `pin-source=file:/run/pin`")
    return Path(name)
