"""Debian's docker-registry on loopback, for as long as a block lasts."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIG = """version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@contextmanager
def a_registry(directory: Path, binary: str, more: str = "") -> Iterator[str]:
    """A registry of this test's own, with `more` in its configuration; its `HOST:PORT`."""
    config = directory / "registry.yml"
    config.write_text(CONFIG.format(root=directory / "registry") + more)
    command = [binary, "serve", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout
        # What it logs is read on and on: it would stand still in front of a full pipe.
        drain = threading.Thread(target=lambda: sum(1 for _ in lines))
        try:
            for line in lines:
                if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                    break
            else:
                pytest.fail("the registry did not start")
            drain.start()
            yield found[1]
        finally:
            process.kill()
            if drain.is_alive():
                drain.join()
