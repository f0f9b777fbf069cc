"""A machine with the shipped cards, its firmware core and simulated gates; it can crash and start again."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.association.hsms import Hsms
from keyvisor_firmware.association.machine import State
from keyvisor_firmware.audit import AUDIT_KEY, Audit
from keyvisor_firmware.config import Config
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.host_key import HostKey, host_keys
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.guests.secret_stores import SecretStores
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.state.schema import AUDIT, AUDIT_POLICIES, AUDIT_SIGNATURES, METADATA
from keyvisor_firmware.storage.guest_record import HeldHsm
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.views import PlanStep
from keyvisor_guest.errors import Refused as HostRefused
from keyvisor_guest.hosting.memory import HostMemory
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.secret_ids import SecretId, id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.master_keys import OperatorToken

from ..images import an_image
from ..in_process_host import InProcessDoor, InProcessHost
from .simulator import Gates

HSM = Apqn.parse("03.0011")
SPARE = Apqn.parse("05.0011")
LEDGER = Apqn.parse("03.0012")
ACCELERATOR = Apqn.parse("07.0000")
CCA = Apqn.parse("09.0011")

SIGNING = id_from_name("payments-signing")
OTHER = id_from_name("another")
MEMORY = 32 << 20  # bytes of a guest
# What is recorded of the first start on a machine, of an image with a kernel alone.
STARTED = [
    "initialise storage",
    "donate storage for guest",
    "create guest",
    "create cpu",
    "set parameters",
    "unpack",
    "unpack",
    "verify",
    "start guest",
]
NOON = datetime.datetime(2026, 2, 3, 12, 0, tzinfo=datetime.UTC)


@dataclass
class Log:
    """Keeps log lines."""

    lines: list[str] = field(default_factory=list)

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(f"{event} {fields}")

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(f"{event} {fields}")


def policy(*secrets: str, hsm: str = "{mode: ep11}", count: str = "all") -> PolicyRow:
    """One rule for each secret, each for any ep11 HSM."""
    rules = [
        f"  - {{name: rule-of-{secret}, secret: {secret}, hsm: {hsm}, count: {count}}}\n"
        for secret in secrets
    ]
    return PolicyRow("policy.yaml", "version: 1\nassociations:\n" + "".join(rules))


def step(action: str, apqn: Apqn, secret: SecretId | None = None) -> PlanStep:
    return PlanStep(action, apqn, secret)  # type: ignore[arg-type]  # tests give bad ones too


class MortalDoor(InProcessDoor):
    """The door of a host that dies before one of its calls."""

    def __init__(self, firmware: Firmware, last: str) -> None:
        super().__init__(firmware)
        self._last = last
        self._dead = False

    def call(self, name: str, *given: Any, **parameters: str) -> Any:
        self._dead = self._dead or name == self._last
        if self._dead:
            raise HostRefused("http", 503, "the host is dead")
        return super().call(name, *given, **parameters)


class Machine:
    """The firmware's core on one database file."""

    def __init__(self, path: Path, token: OperatorToken, config: Config) -> None:
        self.path = path
        self.token = token
        self.config = config
        self.log = Log()
        self.randomness: Callable[[int], bytes] = os.urandom
        self.now = NOON
        self.at: Callable[[str], None] = lambda point: None  # each point between two steps of a command
        self._images: dict[str, bytes] = {}
        self.up()

    def up(self, config: Config | None = None) -> None:
        """Start the firmware on what the database says."""
        self.config = config or self.config
        self.gates = Gates()
        self.database = Database.open(self.path)
        with self.database.transaction() as records:
            self.host_keys = host_keys(records, self.token, lambda: self.now)
        self.holdings = Holdings(self.config.limits, self.config.storage, self.token)
        self.audit = Audit(lambda: NOON, self.log, self.token.signing_key(AUDIT_KEY))
        self.firmware = Firmware(
            database=self.database,
            hsms=Hsms(self.config.inventory, self.token),
            gates=self.gates,
            host_keys=self.host_keys,
            secret_stores=SecretStores(self.holdings, self.token, self.host_keys, os.urandom),
            holdings=self.holdings,
            audit=self.audit,
            randomness=lambda length: self.randomness(length),
            limits=self.config.limits,
            at=lambda point: self.at(point),
        )
        self.host = InProcessHost(self.firmware)
        self.firmware.restore()

    def again(self, config: Config | None = None) -> None:
        """What a crash and a new start leave: the database, and nothing else."""
        self.database.close()
        self.up(config)

    @property
    def host_key(self) -> HostKey:
        """The current host key."""
        return self.host_keys.ring.current

    # --- short ways

    def image(self, name: str) -> bytes:
        """The image of the guests with that name: one and the same for all their starts."""
        if name not in self._images:
            self._images[name] = an_image(self.host_key.private, name).data
        return self._images[name]

    def start(self, name: str, image: bytes | None = None, *, cpus: int = 1) -> Instance:
        """Do as a host does to start a guest, from the image of that name if no other is given."""
        self.host.start(name, self.image(name) if image is None else image, memory=MEMORY, cpus=cpus)
        return self.configuration(name).instance

    def start_until(self, call: str, name: str, image: bytes | None = None) -> int:
        """Do as a host that dies before it makes the first `call`; the handle of the guest that is there then."""
        dying = InProcessHost(self.firmware)
        dying._door = MortalDoor(self.firmware, call)  # type: ignore[assignment]
        dying.memory = HostMemory(dying._door)
        with contextlib.suppress(HostRefused):
            dying.start(name, self.image(name) if image is None else image, memory=MEMORY)
        return self.configuration(name).row.handle

    def stop(self, name: str) -> None:
        """Do as a host does to stop one."""
        self.host.stop(name)

    def configuration(self, name: str) -> Configuration:
        """A guest as the firmware keeps it."""
        return next(guest for guest in self.holdings.guests.values() if guest.row.name == name)

    def guest(self, name: str, *hsms: Apqn, secrets: tuple[str, ...] = ()) -> Instance:
        """Start a guest with HSMs and secrets."""
        instance = self.start(name)
        for apqn in hsms:
            self.firmware.attach(name, apqn)
        for secret in secrets:
            self.firmware.add_secret(instance.id, self.request(instance, secret))
        return instance

    def ready(self, name: str, *hsms: Apqn) -> Instance:
        """Start a guest that has its secret associated with all of its HSMs."""
        instance = self.guest(name, *hsms, secrets=("payments-signing",))
        self.firmware.set_policy(instance.id, policy("payments-signing"))
        for apqn in hsms:
            self.firmware.bind(instance.id, apqn)
            self.firmware.associate(instance.id, apqn, SIGNING)
        return instance

    def request(
        self,
        instance: Instance,
        secret: str | None,
        value: bytes = b"\x5e" * 32,
        kind: SecretKind = SecretKind.ASSOCIATION,
    ) -> bytes:
        """An add-secret request for the guest; a null request where `secret` is None."""
        if secret is None:
            draft = Draft(SecretKind.NULL, instance.identity)
        else:
            draft = Draft(kind, instance.identity, id_from_name(secret), value)
        fresh = FreshKeys(ec.generate_private_key(ec.SECP521R1()), os.urandom(32), os.urandom(12))
        certificate = x509.load_pem_x509_certificate(self.firmware.host_key_certificate().encode())
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return build(draft, fresh, [key])

    # --- what is compared

    def state(self, instance: Instance, apqn: Apqn) -> str:
        """The state of an attached HSM in its guest's eyes."""
        views = {view.data.apqn: view for view in self.firmware.list_hsms(instance.id)}
        return views[apqn].state.value

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """All that the database says but for the audit log, by the tables' names: every page of storage too."""
        with self.database._engine.begin() as connection:
            return {
                table.name: [tuple(row) for row in connection.execute(table.select())]
                for table in METADATA.sorted_tables
                if table not in (AUDIT, AUDIT_POLICIES, AUDIT_SIGNATURES)
            }

    def tables(self) -> object:
        """What is kept of storage in memory."""
        return _tables(self.holdings)

    def memory(self) -> object:
        """That, what the guests would be told of their secrets, and what passes the gates."""
        return (
            self.tables(),
            [self.firmware.list_secrets(guest.id) for guest in self._instances()],
            {guest: dict(granted) for guest, granted in self.gates.grants.items()},
        )

    def picture(self) -> object:
        """Both."""
        return self.rows(), self.memory()

    def require_agreement(self) -> None:
        """Gates grant exactly what the guests' storage says, and memory has exactly what the database has."""
        kept = Holdings(self.config.limits, self.config.storage, self.token)
        with self.database.transaction() as records:
            kept.load(records)
            holders = records.holders()
            attached = {guest.name: records.attached(guest.instance) for guest in records.guests()}
        assert self.tables() == _tables(kept)
        running = [guest for guest in kept.guests.values() if guest.slot.state is GuestState.RUNNING]
        assert holders == {apqn: guest.row.instance for guest in kept.guests.values() for apqn in guest.held}
        wanted = {
            guest.row.name: {str(apqn): _passes(guest.held.get(apqn)) for apqn in attached[guest.row.name]}
            for guest in running
        }
        granted = {
            guest: {apqn: _word(granted) for apqn, granted in hsms.items()}
            for guest, hsms in self.gates.grants.items()
        }
        assert granted == wanted

    def _instances(self) -> tuple[Instance, ...]:
        return tuple(sorted((guest.instance for guest in self.firmware._guests), key=lambda one: one.name))


def _tables(holdings: Holdings) -> object:
    host = holdings.host
    return (
        holdings.zone,
        holdings.header,
        holdings.slots._slots,
        holdings.guests,
        list(host.zone),
        {asce: list(host.spaces.intervals(asce)) for asce in host.spaces.spaces()},
        list(host.frames),
    )


def _passes(held: HeldHsm | None) -> str | None:
    return None if held is None or held.state is State.FAILED else held.state.value


def _word(granted: str | None) -> str | None:
    return granted if granted in (None, "bound") else "associated"
