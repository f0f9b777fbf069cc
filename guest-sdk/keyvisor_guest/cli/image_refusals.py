"""Says of blocks that were refused while a container runs or a volume is served: each once, and not without an end."""

from __future__ import annotations

import sys
import threading
from typing import Final

from keyvisor_guest.containers.errors import ContainerError
from keyvisor_policy.terminal import printable

__all__ = ["Refusals"]

_MOST: Final = 100


class Refusals:
    """Called with each refusal, by any thread."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, error: ContainerError) -> None:
        """Print it, if it is the first like it. Whoever reads such a block asks again at once, as kernels do."""
        text = str(error)
        with self._lock:
            if text in self._told or len(self._told) > _MOST:
                return
            self._told.add(text)
            if len(self._told) > _MOST:
                text = f"{_MOST} blocks were refused; what follows is not told"
        print(f"error: {printable(text)}", file=sys.stderr)
