"""A machine with the shipped cards, its firmware core and simulated gates; it can crash and start again."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.association.hsms import Hsms
from keyvisor_firmware.audit import Audit
from keyvisor_firmware.config import Config
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.host_key import HostKey, host_keys
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.guests.secret_stores import SecretStores
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.views import PlanStep
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.secret_ids import SecretId, id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.master_keys import OperatorToken

from ..images import an_image
from .simulator import Gates

HSM = Apqn.parse("03.0011")
SPARE = Apqn.parse("05.0011")
LEDGER = Apqn.parse("03.0012")
ACCELERATOR = Apqn.parse("07.0000")
CCA = Apqn.parse("09.0011")

SIGNING = id_from_name("payments-signing")
OTHER = id_from_name("another")
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


class Machine:
    """The firmware's core on one database file."""

    def __init__(self, path: Path, token: OperatorToken, config: Config) -> None:
        self.path = path
        self.token = token
        self.config = config
        self.log = Log()
        self.randomness: Callable[[int], bytes] = os.urandom
        self.now = NOON
        self._images: dict[str, bytes] = {}
        self.up()

    def up(self, config: Config | None = None) -> None:
        """Start the firmware on what the database says."""
        self.config = config or self.config
        self.gates = Gates()
        self.database = Database.open(self.path)
        with self.database.transaction() as records:
            self.host_keys = host_keys(records, self.token, lambda: self.now)
        self.firmware = Firmware(
            database=self.database,
            hsms=Hsms(self.config.inventory, self.token),
            gates=self.gates,
            host_keys=self.host_keys,
            secret_stores=SecretStores(self.token, self.host_keys, self.config.limits, os.urandom),
            audit=Audit(lambda: NOON, self.log),
            randomness=lambda length: self.randomness(length),
            limits=self.config.limits,
        )
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

    def guest(self, name: str, *hsms: Apqn, secrets: tuple[str, ...] = ()) -> Instance:
        """Start a guest with HSMs and secrets."""
        instance = self.firmware.start_guest(name, self.image(name))
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

    def rows(self) -> object:
        """All that the database says, but for sealed bytes (sealing the same again gives others) and the audit log."""
        with self.database.transaction() as records:
            guests = records.guests()
            return (
                guests,
                [records.attached(guest.id) for guest in guests],
                records.bindings(),
                [records.policy(guest.id) for guest in guests],
                [records.secret_store(guest.id) for guest in guests],
            )

    def memory(self) -> object:
        """What the guests would be told of their secrets, and what passes the gates."""
        return (
            [self.firmware.list_secrets(guest.id) for guest in self._instances()],
            {guest: dict(granted) for guest, granted in self.gates.grants.items()},
        )

    def picture(self) -> object:
        """Both."""
        return self.rows(), self.memory()

    def require_agreement(self) -> None:
        """Gates grant exactly what the database says."""
        with self.database.transaction() as records:
            wanted = {
                guest.name: {
                    str(apqn): (held.state.value if (held := records.bindings(guest.id).get(apqn)) else None)
                    for apqn in records.attached(guest.id)
                }
                for guest in records.guests()
            }
        assert {
            guest: {apqn: _word(granted) for apqn, granted in hsms.items()}
            for guest, hsms in self.gates.grants.items()
        } == {
            guest: {apqn: None if state == "failed" else state for apqn, state in hsms.items()}
            for guest, hsms in wanted.items()
        }

    def _instances(self) -> tuple[Instance, ...]:
        with self.database.transaction() as records:
            return records.guests()


def _word(granted: str | None) -> str | None:
    return granted if granted in (None, "bound") else "associated"
