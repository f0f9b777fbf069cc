"""Files that are whole and on the disk before they get their names. Knows nothing of what is in them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["stage"]


def stage(path: Path, content: bytes) -> Path:
    """A hidden file beside `path` with the content, on the disk, for its owner only: mkstemp makes it 0600. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".keyvisor-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
