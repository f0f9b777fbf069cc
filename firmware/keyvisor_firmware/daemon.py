"""The daemon: opens the state and the operator token, makes everything again that ran, and serves the doors.

The only module that puts the parts together. Everything that it starts ends with it.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from keyvisor_firmware.association.commands import At
from keyvisor_firmware.association.hsms import Hsms
from keyvisor_firmware.audit import AUDIT_KEY, Audit, Log, configure_log
from keyvisor_firmware.audit_log.keeping import AuditKeeper, taking_in
from keyvisor_firmware.audit_log.refused_calls import RefusedCalls
from keyvisor_firmware.broker.gatekeeper import Gatekeepers
from keyvisor_firmware.config import Config
from keyvisor_firmware.doors.doors import Doors
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.host_key import host_keys
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.guests.secret_stores import SecretStores
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.directory import StateDirectory
from keyvisor_firmware.storage.holdings import Holdings
from keyvisor_guest.state_directory import host_socket, operator_socket, pkcs11_socket, run_directory
from keyvisor_hsm.master_keys import OperatorToken

_SHORTEST_NAME = "g"


def run(state: Path, config: Config, at: At = lambda point: None) -> None:
    """Run the firmware on the absolute path `state` until SIGINT, SIGTERM or SIGHUP, then end all that it started.

    `at` is told each point between two steps of a command, for tests that let the process die there.
    Raises FirmwareError, keyvisor_hsm's HsmError, keyvisor_guest's StateDirectoryUnusable, OSError.
    """
    _require_doors_possible(state)
    module = config.module_path()
    log = configure_log()
    with ExitStack() as open_parts:
        directory = StateDirectory.open(state)
        open_parts.callback(directory.close)
        firmware, keeper = _firmware(directory, module, config, log, open_parts, at)
        guests = firmware.restore()
        keeper.start()
        asyncio.run(_serve(state, firmware, guests, log))


def _require_doors_possible(state: Path) -> None:
    """Raises StateDirectoryUnusable where not even a guest with the shortest name could have its doors."""
    host_socket(state)
    operator_socket(state)
    pkcs11_socket(state, _SHORTEST_NAME)


def _firmware(
    directory: StateDirectory, module: Path, config: Config, log: Log, open_parts: ExitStack, at: At
) -> tuple[Firmware, AuditKeeper]:
    """The core with all that it needs, and what keeps its audit log; what has to be closed is noted in `open_parts`."""
    database = Database.open(directory.database)
    open_parts.callback(database.close)
    token = OperatorToken.open(directory.operator_token, module)
    open_parts.callback(token.close)
    with database.transaction() as records:
        keys = host_keys(records, token, _now)
    holdings = Holdings(config.limits, config.storage, token)
    refused_calls = RefusedCalls(time.monotonic)
    firmware = Firmware(
        database=database,
        hsms=Hsms(config.inventory, token),
        gates=Gatekeepers(
            run_directory=run_directory(directory.path),
            partitions=directory.partitions,
            module=module,
            idle_seconds=config.gate_idle_seconds,
            limits=config.broker_limits,
            guest_limits=config.guest_broker_limits,
            on_refusal=taking_in(refused_calls),
        ),
        host_keys=keys,
        secret_stores=SecretStores(holdings, token, keys, os.urandom),
        holdings=holdings,
        audit=Audit(_now, log, token.signing_key(AUDIT_KEY)),
        randomness=os.urandom,
        limits=config.limits,
        refused_calls=refused_calls,
        at=at,
    )
    open_parts.callback(firmware.close)
    keeper = AuditKeeper(firmware.audit, token, log)
    open_parts.callback(keeper.stop)
    return firmware, keeper


async def _serve(state: Path, firmware: Firmware, guests: tuple[Instance, ...], log: Log) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    doors = Doors(state, firmware, log)
    try:
        await doors.open_all(guests)
        print(f"keyvisor: ready, state {state}", flush=True)
        await stop.wait()
    finally:
        await doors.close_all()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
