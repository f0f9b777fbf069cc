"""What is told when giving back fails: the first error, and that storage stays allocated on purpose.

Storage that the firmware did not let go of must not be used for anything else (patents, 1.6, 48).
"""

from __future__ import annotations

from keyvisor_guest.errors import Refused, SdkError

__all__ = ["with_note"]


def with_note(error: SdkError, note: str) -> SdkError:
    """The same error with one line more: of its kind, and with its code where it has one."""
    if isinstance(error, Refused):
        return Refused(error.kind, error.code, error.message, (*error.findings, note), error.handle)
    return type(error)(f"{error}\n{note}")
