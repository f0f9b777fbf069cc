"""What names a guest and an HSM, checked before it becomes part of a path or of a request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from keyvisor_guest.errors import NameInvalid
from keyvisor_guest.wire.names import APQN, GUEST_NAME

__all__ = ["GUEST_VARIABLE", "apqn_text", "guest_name"]

GUEST_VARIABLE = "KEYVISOR_GUEST"


def guest_name(name: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """`name`, or KEYVISOR_GUEST where it is None. Raises NameInvalid for neither and for what names no guest."""
    given = name if name is not None else environ.get(GUEST_VARIABLE)
    if given is None:
        raise NameInvalid(f"which guest? give --guest NAME or {GUEST_VARIABLE}")
    if re.fullmatch(GUEST_NAME, given) is None:
        raise NameInvalid(
            f"`{given}` names no guest: 1 to 31 of a-z, 0-9 and -, the first one no -, as in `payments-1`"
        )
    return given


def apqn_text(text: str) -> str:
    """`text` as the doors spell it, lower case. Raises NameInvalid for what names no HSM."""
    if re.fullmatch(APQN, text.lower()) is None:
        raise NameInvalid(f"`{text}` is not an APQN: write card.domain in hex, as in `03.0011`")
    return text.lower()
