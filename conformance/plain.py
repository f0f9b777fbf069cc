"""The plain side: SoftHSM behind `p11-kit server`, so that the same client speaks the same protocol."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from conformance.programs import clean_environment, serving
from conformance.sides import LABEL, PINS, PLAIN, Side
from keyvisor_firmware.config import Config
from keyvisor_guest import stock_client


@contextlib.contextmanager
def plain_side(directory: Path) -> Iterator[Side]:
    """A new SoftHSM token and its server. `directory` is empty and its path short: a socket will be in it."""
    softhsm = Config().module_path()
    tokens, work, socket = directory / "tokens", directory / "work", directory / "p.sock"
    tokens.mkdir()
    work.mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n", encoding="utf-8"
    )
    environment = clean_environment(SOFTHSM2_CONF=str(configuration))
    make = ("softhsm2-util", "--init-token", "--free", "--label", LABEL)
    pins = ("--pin", PINS.user, "--so-pin", PINS.so)
    subprocess.run([*make, *pins], env=environment, check=True, capture_output=True)
    serve = ("p11-kit", "server", "-f", "-n", socket, "--provider", softhsm, "pkcs11:")
    with serving(serve, environment, directory / "server.log", stock_client.ADDRESS_VARIABLE):
        leading = {stock_client.ADDRESS_VARIABLE: stock_client.address(socket)}
        yield Side(PLAIN, work, {**environment, **leading}, stock_client.find())
