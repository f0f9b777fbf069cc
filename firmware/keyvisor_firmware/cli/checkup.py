"""The checks of `keyvisor doctor`: each looks at one thing and says what it found, or how to get it. Changes nothing."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyvisor_firmware.broker.hot.loop import HotLoop, HotLoopMissing
from keyvisor_firmware.config import Config, load
from keyvisor_firmware.errors import FirmwareError
from keyvisor_guest import client_release, stock_client
from keyvisor_guest.containers.block_runs import BlockRuns, BlockRunsMissing
from keyvisor_guest.errors import SdkError
from keyvisor_guest.state_directory import host_socket, pkcs11_socket, state_directory
from keyvisor_guest.wire.client_releases import since
from keyvisor_hsm.cryptoki.mechanism_list import list_mechanisms
from keyvisor_hsm.errors import HsmError
from keyvisor_hsm.partitions import Partition, PartitionKeys


class _Lacking(Exception):
    """What a check did not find; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. Only what is `needed` keeps keyvisor from working."""

    check: str
    fine: bool
    needed: bool
    found: str


def checkup(state: Path | None, config: Path | None) -> tuple[Finding, ...]:
    """All checks, in the order in which things are needed. `state` and `config` as `keyvisor up` would get them."""
    checks: tuple[tuple[str, bool, Callable[[], str]], ...] = (
        ("Python", True, _python),
        ("PKCS#11 module (SoftHSM 2)", True, lambda: str(_config(config).module_path())),
        ("stock client (p11-kit)", True, _client),
        ("compiled hot loop", False, _hot_loop),
        ("compiled sealing of blocks", False, _block_runs),
        ("all mechanisms", False, lambda: _mechanisms(_config(config).module_path())),
        (
            "pkcs11-tool",
            False,
            lambda: _program("pkcs11-tool", "opensc", "for `make demo` and to try things out"),
        ),
        ("openssl", False, lambda: _program("openssl", "openssl", "for `make demo`")),
        ("bubblewrap", False, lambda: _program("bwrap", "bubblewrap", "for `keyvisor guest exec --sandbox`")),
        ("state directory", True, lambda: _writable(state_directory(state))),
        ("socket paths", True, lambda: _short_enough(state_directory(state))),
        ("daemon", False, lambda: _reachable(state_directory(state))),
    )
    return tuple(_finding(*check) for check in checks)


def _finding(check: str, needed: bool, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, needed, look())
    except (FirmwareError, SdkError, HsmError, OSError, _Lacking) as error:
        return Finding(check, False, needed, str(error))


def _python() -> str:
    # An older one cannot install the distribution; which one it is helps whoever is asked for help.
    return f"{sys.version.split()[0]}, {sys.executable}"


def _config(path: Path | None) -> Config:
    return Config() if path is None else load(path)


def _client() -> str:
    library = stock_client.find()
    return f"{library}, release {client_release.release(library)}"


def _hot_loop() -> str:
    try:
        HotLoop()
    except HotLoopMissing as missing:
        raise _Lacking(f"{missing}; without it gates work, only slower") from None
    return "built; gates use it"


def _block_runs() -> str:
    try:
        BlockRuns()
    except BlockRunsMissing as missing:
        raise _Lacking(
            f"{missing}; without it secure images are built and read all the same, only slower"
        ) from None
    return "built; secure images use it"


def _mechanisms(module: Path) -> str:
    """What the client loses of what the module has; fine where it loses nothing."""
    types = _listed(module)
    installed = client_release.release(stock_client.find())
    if installed == client_release.UNKNOWN:
        raise _Lacking(
            f"which of the module's {len(types)} the client carries cannot be told from its release"
        )
    lost = [type_ for type_ in types if not client_release.carries(type_, installed)]
    carried = f"the client carries {len(types) - len(lost)} of the module's {len(types)}"
    if lost:
        raise _Lacking(f"{carried}; {_losses(lost)}; `keyvisor guest mechanisms` lists them")
    return carried


def _losses(lost: Sequence[int]) -> str:
    """How many of the lost each later release would carry."""
    counts = Counter(since(type_) for type_ in lost)
    none = counts.pop(None, 0)
    by_release = [f"release {name} carries {count} more" for name, count in sorted(counts.items()) if name]
    return ", ".join([*by_release, *([f"no release carries the other {none}"] if none else [])])


def _listed(module: Path) -> tuple[int, ...]:
    """The types of the mechanisms that a token of the module has: of one that is made for this and thrown away."""
    keys = PartitionKeys("doctor", *(secrets.token_hex(16).encode() for _ in range(2)))
    with tempfile.TemporaryDirectory(prefix="keyvisor-") as directory:
        partition = Partition.open(Path(directory) / "token", keys, module)
        try:
            return tuple(list_mechanisms(partition.module, partition.slot))
        finally:
            partition.close()


def _program(name: str, package: str, purpose: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise _Lacking(f"install `{package}` {purpose}")
    return found


def _writable(state: Path) -> str:
    """The nearest directory that exists is where the state directory would be made."""
    existing = next(path for path in (state, *state.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise _Lacking(f"`{existing}` cannot be written to: choose another --state")
    if existing == state and (state.stat().st_uid != os.geteuid() or state.stat().st_mode & 0o077):
        raise _Lacking(f"`{state}` is open to others: `chmod 700 {state}`, or choose another --state")
    return f"{state}" if existing == state else f"{state}, to be made"


def _short_enough(state: Path) -> str:
    longest = pkcs11_socket(state, "g")
    room = 107 - len(os.fsencode(longest)) + 1
    return f"names of guests may have up to {min(room, 31)} characters"


def _reachable(state: Path) -> str:
    path = host_socket(state)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(5)
            channel.connect(str(path))
    except OSError:
        raise _Lacking(f"nobody listens at `{path}`: `keyvisor up` starts it") from None
    return f"listens at {path}"
