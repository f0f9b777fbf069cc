"""What others wrote, as an error's text may hold it: short, on one line, and nothing that a terminal acts on."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["quoted"]

_LONGEST: Final = 100  # characters


def quoted(text: Any) -> str:
    """The text in backticks; what cannot be printed, and a backtick, as `?`."""
    shown = "".join(one if one.isprintable() and one != "`" else "?" for one in str(text)[:_LONGEST])
    return f"`{shown}`"
