"""How fast blocks are sealed and opened in memory, beside `openssl speed` and `cp` in the same rounds. MB/s all of it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.run import Figures
from keyvisor_guest.containers.blocks import RUN_BLOCKS, layer_blocks
from keyvisor_guest.containers.keys import VolumeKey, image_id
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["OPENSSL", "OPENSSL_AEAD", "cipher_speeds", "copied", "parsed"]

OPENSSL: Final = "openssl speed -evp aes-256-gcm -bytes 4096"
OPENSSL_AEAD: Final = "openssl speed -aead -evp aes-256-gcm -bytes 4096"

_RUN: Final = RUN_BLOCKS * BLOCK
_KEY: Final = VolumeKey(bytes(range(32)))
_IMAGE: Final = image_id(b"bench-containers")
_RESULT: Final = re.compile(r"^AES-256-GCM\s+([0-9.]+)k$", re.MULTILINE)


def cipher_speeds(rounds: int, seconds: float) -> Figures:
    """A figure per round of each, in turn."""
    plain = os.urandom(_RUN)
    ciphers = {
        cipher: layer_blocks(_KEY, LayerPlan(1, _IMAGE, 0, 1 << 20, cipher, (), (), bytes(32)), bytes(32))
        for cipher in (Cipher.GCM, Cipher.XTS)
    }
    gcm, xts = ciphers[Cipher.GCM], ciphers[Cipher.XTS]
    sealed = {cipher: _sealed(blocks.seal(0, plain)) for cipher, blocks in ciphers.items()}
    ours: dict[str, Callable[[], object]] = {
        "seal": lambda: gcm.seal(0, plain),
        "open": lambda: gcm.open(0, *sealed[Cipher.GCM]),
        "xts seal": lambda: xts.seal(0, plain),
        "xts open": lambda: xts.open(0, *sealed[Cipher.XTS]),
        "sha256": lambda: hashlib.sha256(plain),
    }
    found: Figures = {name: [] for name in (OPENSSL, OPENSSL_AEAD, *ours)}
    for _ in range(rounds):
        found[OPENSSL].append(_openssl(OPENSSL))
        found[OPENSSL_AEAD].append(_openssl(OPENSSL_AEAD))
        for name, once in ours.items():
            found[name].append(_speed(once, seconds))
    return found


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


def _sealed(run: tuple[memoryview, bytes]) -> tuple[bytes, bytes]:
    return bytes(run[0]), run[1]


def _speed(once: Callable[[], object], seconds: float) -> float:
    done, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        once()
        done += _RUN
    return done / taken / 1e6
