"""Bytes to characters to document: what a file must be before it is looked at as YAML."""

from __future__ import annotations

import os
import re
from pathlib import Path

from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.strict_yaml.composing import LIMITS, Composer, Limits
from keyvisor_policy.strict_yaml.document import Document, place_behind
from keyvisor_policy.strict_yaml.wording import shown

# Line breaks to YAML but not to every editor: with them, two readers would see two files.
_HIDDEN_BREAK = re.compile("[\x85\u2028\u2029]")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_FORBIDDEN = ((_HALF_CHARACTER, "half a character"), (_HIDDEN_BREAK, "a line break that editors hide"))


def read_file(path: str | os.PathLike[str], *, limits: Limits = LIMITS) -> bytes:
    """The file's bytes, one more than the limit at most. Raises DocumentError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(limits.length + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DocumentError([Finding(os.fspath(path), 1, 1, f"cannot be read: {why.lower()}")]) from None


def read_document(text: str | bytes, source: str, *, limits: Limits = LIMITS) -> Document:
    """Read one YAML document; `source` is the name that its findings begin with.

    Raises DocumentError where no tree can be made: not UTF-8, too long, too deep, not YAML, empty. What can be
    read around, such as a key given twice, is in the document's `findings`.
    """
    length = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if length > limits.length:
        raise DocumentError(
            [Finding(source, 1, 1, f"longer than the {limits.length} bytes that a file may have")]
        )
    characters = _decoded(text, source) if isinstance(text, bytes) else text
    characters = characters.removeprefix("\ufeff")
    for pattern, what in _FORBIDDEN:
        match = pattern.search(characters)
        if match is not None:
            message = f"{shown(match[0])} is {what}; remove it, or write it as an escape in double quotes"
            raise DocumentError([Finding(source, *place_behind(characters[: match.start()]), message)])
    return Composer(characters, source, limits).document()


def _decoded(text: bytes, source: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        place = place_behind(text[: error.start].decode("utf-8"))
        message = f"byte {text[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise DocumentError([Finding(source, *place, message)]) from None
