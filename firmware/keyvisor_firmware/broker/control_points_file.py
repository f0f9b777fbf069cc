"""The control points of a guest's policy on their way from the daemon to the gate: JSON in a file without a name.

The file is sealed: who reads it finds what was written, and nobody can change it afterwards.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Final

from keyvisor_policy.control_points import ControlPoints

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def points_file(points: ControlPoints) -> int:
    """The descriptor of a file with `points`; the caller's to close. Raises OSError."""
    descriptor = os.memfd_create("keyvisor-control-points", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(json.dumps(points.to_json(), separators=(",", ":")).encode())
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def read_points(descriptor: int) -> ControlPoints:
    """The points in such a file. Raises OSError, ValueError."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return ControlPoints.from_json(json.load(file))


def rules_named(points: ControlPoints) -> tuple[str, ...]:
    """The association rules that points are limited to, in an order that both sides have."""
    return tuple(sorted({point.on for point in points.points if point.on is not None}))
