"""Builds the PKCS#11 module that crashes on demand, where there is a compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from keyvisor_hsm.cryptoki import FUNCTIONS

_SOURCE = Path(__file__).with_name("crashing_module.c")


def crashing_module(softhsm: Path, directory: Path) -> Path:
    """The module, built in `directory` on top of `softhsm`. Skips the test where no C compiler is installed."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler `cc` here: the module that crashes on demand cannot be built")
    index = [name for name, _ in FUNCTIONS].index("C_SeedRandom")
    module = directory / "crashing.so"
    words = [compiler, "-shared", "-fPIC", "-O1", f'-DREAL="{softhsm}"', f"-DSEED_RANDOM={index}"]
    built = subprocess.run(
        [*words, "-o", str(module), str(_SOURCE), "-ldl"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return module
