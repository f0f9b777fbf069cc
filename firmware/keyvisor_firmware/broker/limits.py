"""The bounds of everything a guest can make its gate hold; each is looked at before memory is taken.

A guest's limits reach its gate when it starts. They are told and read here as JSON; where they come from, and what
an operator may set them to, is the configuration's.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class Limits:
    """What one guest's applications may take. Past a limit a call, or a connection, is refused and the rest goes on."""

    # A frame, and what is in it. Past these a connection ends: such bytes are not the protocol.
    frame_options: int = 4096  # bytes of a frame's options
    frame_body: int = 1 << 25  # bytes of a frame's body
    frame_seconds: float = 10.0  # from a frame's first byte to its last
    attributes: int = 512  # attributes of one call, those of nested templates among them
    nesting: int = 4  # templates inside of templates
    mechanisms: int = 4096  # mechanisms of one list
    # Answers are cut to these, or say how much there is.
    output: int = 1 << 24  # bytes of room that one call gets, whatever it asks for
    attribute_output: int = 1 << 20  # bytes of room for one attribute's value
    found_objects: int = 4096  # objects that one answer of a search names
    # Past these a call is refused with its CK_RV, and a connection with its end.
    connections: int = 1024  # connections of the guest
    sessions: int = 1024  # sessions of one connection
    objects: int = 1 << 16  # object handles of one connection
    partition_objects: int = 100_000  # objects of one key partition
    operations_in_flight: int = 4  # calls of one connection that are inside the module at a time

    def to_json(self) -> str:
        """What a gate is told."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` said. Raises ValueError, TypeError for anything else."""
        return cls(**json.loads(text))


DEFAULTS: Final = Limits()
