"""When a guest opens: a file in its image can say that nothing opens before its secret store is locked (patents, 3.2, 21).

    # /etc/keyvisor/guest.yaml
    version: 1
    access: after-lock      # or always, as without the file

Whoever brings secrets to a guest that opens first could use it half personalized. Knows the file, and no guest.
"""

from __future__ import annotations

from typing import Annotated, Final

from keyvisor_policy.strict_yaml import StrictModel, one_of, read_document, validate

__all__ = ["AFTER_LOCK", "ALWAYS", "opens_after_lock"]

ALWAYS: Final = "always"
AFTER_LOCK: Final = "after-lock"


class _File(StrictModel):
    version: Annotated[str, one_of("1")]
    access: Annotated[str, one_of(ALWAYS, AFTER_LOCK)] = ALWAYS


def opens_after_lock(content: bytes, source: str) -> bool:
    """Whether the file says so. Raises DocumentError with every finding at its place."""
    return validate(read_document(content, source), _File).access == AFTER_LOCK
