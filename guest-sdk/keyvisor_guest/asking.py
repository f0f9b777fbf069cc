"""A caller's values made into a door's message: what the message does not take is told before anybody is asked."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from keyvisor_guest.errors import SdkError
from keyvisor_guest.wire.message import Message

__all__ = ["asking"]

M = TypeVar("M", bound=Message)


def asking(kind: type[M], **values: Any) -> M:
    """The message with these values. Raises SdkError, which names the first value that cannot be."""
    try:
        return kind(**values)
    except ValidationError as error:
        finding = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in finding["loc"])
        raise SdkError(f"`{where}` cannot be that: {finding['msg'].lower()}") from None
