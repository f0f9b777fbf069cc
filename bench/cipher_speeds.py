"""How fast blocks are sealed and opened in memory, beside `openssl speed` and `cp` in the same rounds. MB/s all of it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench.run import Figures
from keyvisor_guest.containers.blocks import RUN_BLOCKS, LayerBlocks, layer_blocks
from keyvisor_guest.containers.keys import VolumeKey, image_id
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.runners import IN_PYTHON, Runners, best_runners

__all__ = ["IN_PYTHON_ONLY", "OPENSSL", "OPENSSL_AEAD", "cipher_speeds", "copied", "parsed"]

OPENSSL: Final = "openssl speed -evp aes-256-gcm -bytes 4096"
OPENSSL_AEAD: Final = "openssl speed -aead -evp aes-256-gcm -bytes 4096"
IN_PYTHON_ONLY: Final = ", in Python"  # behind the name of what is measured once more without C

_RUN: Final = RUN_BLOCKS * BLOCK
_KEY: Final = VolumeKey(bytes(range(32)))
_IMAGE: Final = image_id(b"bench-containers")
_RESULT: Final = re.compile(r"^AES-256-GCM\s+([0-9.]+)k$", re.MULTILINE)


def cipher_speeds(rounds: int, seconds: float) -> Figures:
    """A figure per round of each, in turn."""
    plain = os.urandom(_RUN)
    ours: dict[str, Callable[[], object]] = {
        f"{name} {step}{suffix}": once
        for suffix, runners in (("", best_runners()), (IN_PYTHON_ONLY, IN_PYTHON))
        for name, cipher in (("gcm", Cipher.GCM), ("xts", Cipher.XTS))
        for step, once in _steps(_blocks(cipher, runners), plain)
    }
    ours["sha256"] = lambda: hashlib.sha256(plain)
    found: Figures = {name: [] for name in (OPENSSL, OPENSSL_AEAD, *ours)}
    for _ in range(rounds):
        found[OPENSSL].append(_openssl(OPENSSL))
        found[OPENSSL_AEAD].append(_openssl(OPENSSL_AEAD))
        for name, once in ours.items():
            found[name].append(_speed(once, seconds))
    return found


def _blocks(cipher: Cipher, runners: Runners) -> LayerBlocks:
    plan = LayerPlan(1, _IMAGE, 0, 1 << 20, cipher, (), (), bytes(32))
    return layer_blocks(_KEY, plan, bytes(32), runners)


def _steps(blocks: LayerBlocks, plain: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    stored, tags = blocks.seal(0, plain)
    sealed = bytes(stored)
    yield "seal", lambda: blocks.seal(0, plain)
    yield "open", lambda: blocks.open(0, sealed, tags)


def copied(source: Path, target: Path) -> float:
    """Seconds that `cp` takes, which waits for no disk: neither does what is measured beside it."""
    begun = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", "--sparse=never", source, target], check=True)
    taken = time.perf_counter() - begun
    target.unlink()
    return taken


def parsed(said: str) -> float:
    """MB/s out of what `openssl speed` says. Raises ValueError where it says none."""
    found = _RESULT.search(said)
    if found is None:
        raise ValueError("`openssl speed` says no speed")
    return float(found[1]) / 1000


def _openssl(command: str) -> float:
    words = command.split()
    done = subprocess.run(
        [*words[:2], "-elapsed", "-seconds", "1", *words[2:]], capture_output=True, text=True, check=True
    )
    return parsed(done.stdout)


def _speed(once: Callable[[], object], seconds: float) -> float:
    done, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        once()
        done += _RUN
    return done / taken / 1e6
