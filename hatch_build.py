"""Compiles what is in C while the distribution is built or installed, where there is a C compiler; without one it is left out.

It is plain C without the interpreter's headers, called through ctypes, so that any C compiler does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = (
    Path("firmware/keyvisor_firmware/broker/hot/hot_loop.c"),
    Path("guest-sdk/keyvisor_guest/containers/block_loop.c"),
)
_FLAGS = "-std=gnu11 -O2 -Wall -Wextra -Werror -fPIC -shared -fstack-protector-strong -D_FORTIFY_SOURCE=2 -Wl,-z,relro,-z,now"


class CompileSources(BuildHookInterface[Any]):
    """Puts a library beside each source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            print(
                "no C compiler: what is in C is left out, all works without it, only slower", file=sys.stderr
            )
            return
        for source in _SOURCES:
            library = self._compile(compiler, Path(self.root) / source)
            build_data["artifacts"].append(str(library.relative_to(self.root)))
        if version == "standard":
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    @staticmethod
    def _compile(compiler: str, source: Path) -> Path:
        library = source.with_suffix(".so")
        made = library.with_suffix(".new")
        subprocess.run([compiler, *_FLAGS.split(), "-o", str(made), str(source), "-pthread"], check=True)
        made.replace(library)  # whole or not at all: a process may be loading it
        return library
