"""What every message of a door is, and the shapes that their fields share. Knows no message but the emptiest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from keyvisor_guest.wire.names import APQN, GUEST_NAME

HEX_16 = r"^[0-9a-f]{32}$"
HEX_32 = r"^[0-9a-f]{64}$"

MAX_ADDRESS = 1 << 52  # no address and no length is larger: JSON's numbers are exact below 2^53

Address = Annotated[int, Field(ge=0, le=MAX_ADDRESS)]
Handle = Annotated[int, Field(ge=1, le=MAX_ADDRESS)]
GuestName = Annotated[str, Field(pattern=GUEST_NAME)]
ApqnText = Annotated[str, Field(pattern=APQN)]
SecretIdText = Annotated[str, Field(pattern=HEX_32)]
State = Literal["unbound", "bound", "pending", "associated", "failed"]


class Message(BaseModel):
    """A message of a door: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Done(Message):
    """The answer of what has nothing to tell."""
