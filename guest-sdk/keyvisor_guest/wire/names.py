"""How guests and HSMs are named on the wire. Knows no message, so that it costs nothing to import."""

from __future__ import annotations

GUEST_NAME = r"^[a-z0-9][a-z0-9-]{0,30}$"
APQN = r"^[0-9a-f]{2}\.[0-9a-f]{4}$"
