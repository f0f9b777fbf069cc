"""How a name out of an image, which can be any bytes, stands in an error: in backticks, in one line, and not too long."""

from __future__ import annotations

__all__ = ["shown"]

_LONGEST = 120


def shown(name: bytes | tuple[bytes, ...]) -> str:
    """A name as it stands in an archive, or the parts of a path, which is meant from the root."""
    whole = name if isinstance(name, bytes) else b"/" + b"/".join(name)
    text = whole.decode("utf-8", "backslashreplace")
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return f"`{text[:_LONGEST]}...`" if len(text) > _LONGEST else f"`{text}`"
