"""Each published attack, as the script that a reader would run: plain SoftHSM gives the key away, the broker does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conformance.attacks.__main__ import NAMES

from ..conftest import Guest

ROOT = Path(__file__).parents[4]
CLIENTS = sorted(Path("/usr/lib").glob("**/pkcs11/p11-kit-client.so"))


def run(name: str, module: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conformance.attacks", name, "--module", str(module), *more]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a plain token."""
    home = tmp_path_factory.mktemp("plain")
    (home / "tokens").mkdir()
    configuration = home / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {home / 'tokens'}\n")
    command = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "plain",
        "--pin",
        "1234",
        "--so-pin",
        "1234",
    ]
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return configuration


@pytest.mark.parametrize("name", NAMES)
def test_plain_softhsm_gives_the_key_away(name: str, softhsm: Path, plain: Path) -> None:
    tried = run(name, softhsm, "--pin", "1234", SOFTHSM2_CONF=str(plain))
    assert (tried.returncode, tried.stderr) == (0, ""), tried.stdout


@pytest.mark.skipif(not CLIENTS, reason="p11-kit's client is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_the_broker_does_not(name: str, shared: Guest) -> None:
    tried = run(name, CLIENTS[0], P11_KIT_SERVER_ADDRESS=f"unix:path={shared.keeper.door}")
    assert (tried.returncode, tried.stderr) == (1, "")
    assert "refused, C_" in tried.stdout
