"""The bounds of everything a guest can make the gate hold. Each length is held against one of these before memory is taken."""

from __future__ import annotations

from typing import Final

MAX_OPTIONS: Final = 4096  # bytes of a frame's options
MAX_BODY: Final = 1 << 25  # bytes of a frame's body
MAX_OUTPUT: Final = 1 << 24  # bytes of room that one call gets, whatever it asks for
MAX_ATTRIBUTES: Final = 512  # attributes of one call, those of nested templates among them
MAX_NESTING: Final = 4  # templates inside of templates
MAX_ULONGS: Final = 4096  # numbers of one array, and room for numbers
MAX_ATTRIBUTE_ROOM: Final = 1 << 20  # bytes of room for one attribute's value
MAX_SESSIONS: Final = 1024  # sessions of one connection
MAX_OBJECTS: Final = 1 << 16  # object handles of one connection
MAX_CONNECTIONS: Final = 1024  # connections of one guest
