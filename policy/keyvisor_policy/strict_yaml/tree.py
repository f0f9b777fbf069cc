"""A document's tree as findings between values look at it, while some of it may be wrong: what is no such thing is an empty one.

What is wrong with a single value has its finding already.
"""

from __future__ import annotations

__all__ = ["as_list", "as_mapping", "as_text"]


def as_mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    return value if isinstance(value, str) else ""
