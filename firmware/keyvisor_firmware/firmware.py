"""The firmware's synchronous core: every command of the three doors, one at a time, all or nothing.

The database is the truth; gates and what is in memory follow it. A command is checked and written in one
transaction, done to the gate within it, and committed last:

* An HSM is one guest's at a time because its row is: of two guests that race for it one inserts the row.
* What is kept of a guest stands in the storage that the host donated for it (`storage.holdings`), in the same database.
* A gate is taken its rights before the commit that says so, and given them only after every check.
* A crash before the commit leaves the old state, one after it the new: gates end with the daemon and are made
  anew from the database (`restore`). A failure without a crash undoes what was done to gates, in reverse order.
* What is in memory (a guest's secrets, its policy, that it runs) is replaced after the commit.

Knows no socket and no process; time, randomness, database, gates and keys are handed in.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from keyvisor_firmware.association.commands import Associations, At, Work, require_attached
from keyvisor_firmware.association.gates import Gates
from keyvisor_firmware.association.hsms import Hsms
from keyvisor_firmware.association.machine import State
from keyvisor_firmware.association.plans import PlanCommands
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.attestation.attest import AttestCall, Subject, attest
from keyvisor_firmware.audit import Audit
from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.audit_log.commands import AuditCommands
from keyvisor_firmware.audit_log.guest_refusals import refusal_view
from keyvisor_firmware.audit_log.refused_calls import RefusedCalls
from keyvisor_firmware.commands import Commands
from keyvisor_firmware.config import Limits
from keyvisor_firmware.errors import ApError, AssociationFailed, Conflict, NotFound, RowTaken
from keyvisor_firmware.guests.boot_commands import BootCommands
from keyvisor_firmware.guests.host_key import HostKeys
from keyvisor_firmware.guests.host_key_commands import HostKeyCommands
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.guests.register import Register
from keyvisor_firmware.guests.secret_stores import SecretStores
from keyvisor_firmware.secrets import Entry, KeyUse, Retrieved, SecretIndex, SecretStore
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import PolicyRow, Records
from keyvisor_firmware.storage.donation_commands import DonationCommands
from keyvisor_firmware.storage.guest_record import CUID_LENGTH, HeldHsm
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_firmware.storage.host_commands import HostCommands
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.paging_commands import PagingCommands
from keyvisor_firmware.views import GuestView, HsmView, MechanismView, PlanStep, RefusalView, SeenHsm
from keyvisor_guest.wire.attestation_file import Attestation
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn, ConfigurationData, UnknownHsm
from keyvisor_hsm.errors import PartitionUnusable


class Firmware:
    """The commands. Guests are addressed by name from the host's side, by instance from their own.

    A guest's door belongs to one instance, so a request that waited while its guest was stopped and started again
    finds nobody. Every command raises a subclass of Refused (or the secret store's UvError) and then has changed
    nothing. Safe to use from several threads. `at` is told each point between two steps of a command, for tests.
    """

    def __init__(
        self,
        *,
        database: Database,
        hsms: Hsms,
        gates: Gates,
        host_keys: HostKeys,
        secret_stores: SecretStores,
        holdings: Holdings,
        audit: Audit,
        randomness: Callable[[int], bytes],
        limits: Limits,
        refused_calls: RefusedCalls | None = None,
        at: At = lambda point: None,
    ) -> None:
        self._hsms = hsms
        self._host_keys = host_keys
        self._stores = secret_stores
        self._holdings = holdings
        self._limits = limits
        self._commands = Commands(database, holdings, audit, at)
        self._associations = Associations(hsms)
        self._guests = Register(hsms, gates, secret_stores, self._associations, audit)
        self._plans = PlanCommands(self._commands, self._guests, self._associations)
        self.audit = AuditCommands(
            self._commands, holdings, self._guests, hsms, audit, refused_calls or RefusedCalls(time.monotonic)
        )
        self.host_keys = HostKeyCommands(self._commands, host_keys, audit)
        self.donations = DonationCommands(self._commands, holdings, self._guests, randomness)
        self.booting = BootCommands(self._commands, holdings, self._guests, host_keys, audit)
        self.paging = PagingCommands(self._commands, holdings)
        self.host_storage = HostCommands(self._commands, holdings)

    # --- the daemon's start and end

    def restore(self) -> tuple[Instance, ...]:
        """Make everything again that the database says; which guests run. Raises OSError, StateUnusable.

        What the cards no longer allow (an HSM is gone or offline, its configuration data match no rule any more)
        is ended first, and recorded.
        """
        with self._commands.reading() as records:
            self._holdings.load(records)
        with self._commands.command("restore", None) as work:
            for row in work.records.guests():
                guest = work.storage.guest(row.handle)
                if guest.slot.state is GuestState.RUNNING:
                    self._guests.restore(guest, work)
        return tuple(guest.instance for guest in self._guests)

    def close(self) -> None:
        """End all gates. The database stays as it is, for the next start."""
        with self._commands.alone():
            for guest in tuple(self._guests):
                self._guests.remove(guest.instance.id)
                guest.gate.stop()

    # --- the host's commands

    def list_guests(self) -> tuple[GuestView, ...]:
        """The guests there are, in the order of their names."""
        with self._commands.reading() as records:
            attached = records.attachments()
            return tuple(
                _listed(self._holdings.guests[row.handle], attached.get(row.instance, ()))
                for row in records.guests()
            )

    def guest(self, handle: int) -> GuestView:
        """One of them. Raises StorageRefused."""
        with self._commands.reading() as records:
            guest = self._holdings.guest(handle)
            return _listed(guest, records.attached(guest.row.instance))

    def attach(self, name: str, apqn: Apqn) -> None:
        """Let a guest ask for an HSM. Raises NotFound, Conflict."""
        with self._commands.command("attach", name, apqn=str(apqn)) as work:
            guest = self._guests.named(name)
            hsm = self._known(apqn)
            if len(work.records.attached(guest.instance.id)) >= self._limits.hsms_per_guest:
                raise Conflict(
                    f"guest `{name}` has {self._limits.hsms_per_guest} HSMs, the limit: detach one first"
                )
            try:
                work.records.attach(guest.instance.id, apqn)
            except RowTaken:
                raise Conflict(f"HSM {apqn} is attached to guest `{name}` already") from None
            work.effects.attach(guest.gate, hsm)

    def detach(self, name: str, apqn: Apqn) -> None:
        """Take an HSM away from a guest; if the guest holds it, that ends. Raises NotFound."""
        with self._commands.command("detach", name, apqn=str(apqn)) as work:
            guest = self._guests.named(name)
            if apqn not in work.records.attached(guest.instance.id):
                raise NotFound(
                    f"HSM {apqn} is not attached to guest `{name}`; `keyvisor host list` shows what is"
                )
            binding = work.storage.bindings(guest.instance.id).get(apqn)
            if binding is not None:
                self._associations.release(work, guest, binding)
            work.records.detach(guest.instance.id, apqn)
            work.effects.detach(guest.gate, self._hsms.query(apqn))

    def machine_hsms(self) -> tuple[HsmView, ...]:
        """All HSMs as the host may see them: no MKVP, and nothing of who holds them."""
        return tuple(HsmView(dataclasses.replace(self._hsms.query(apqn), mkvp=None)) for apqn in self._hsms)

    def host_key_certificate(self) -> str:
        """The current host key's document, PEM."""
        return self._host_keys.ring.current.certificate

    # --- the operator's

    def held_hsms(self) -> tuple[HsmView, ...]:
        """All HSMs, and who holds them how."""
        with self._commands.reading() as records:
            names = {guest.instance: guest.name for guest in records.guests()}
            holders = records.holders()
            held = {apqn: self._holdings.bindings(instance)[apqn] for apqn, instance in holders.items()}
        return tuple(
            _seen(self._hsms.query(apqn), held.get(apqn), names[holders[apqn]] if apqn in holders else None)
            for apqn in self._hsms
        )

    def audit_log(self) -> tuple[Event, ...]:
        """The newest entries of the audit log, oldest first."""
        return self.audit.newest(self._limits.audit_entries)

    # --- a guest's own: all raise NotFound once it is stopped

    def identity(self, instance: InstanceId) -> Instance:
        """The guest as it was measured."""
        with self._commands.alone():
            return self._guests.of(instance).instance

    def is_open(self, instance: InstanceId) -> bool:
        """Whether the guest may bind anything yet."""
        with self._commands.alone():
            return self._guests.of(instance).open

    def list_hsms(self, instance: InstanceId) -> tuple[HsmView, ...]:
        """The HSMs attached to the guest."""
        with self._commands.reading() as records:
            self._guests.of(instance)
            return self._views(records, self._holdings.bindings(instance), instance)

    def bind(self, instance: InstanceId, apqn: Apqn) -> HsmView:
        """Bind an HSM. Raises ApError."""
        with self._commands.command("bind", self._name(instance), apqn=str(apqn)) as work:
            guest = self._guests.of(instance)
            self._associations.bind(work, guest, apqn, guest.policy)
            return self._view(work, instance, apqn)

    def unbind(self, instance: InstanceId, apqn: Apqn) -> HsmView:
        """Unbind an HSM. Raises ApError."""
        with self._commands.command("unbind", self._name(instance), apqn=str(apqn)) as work:
            self._associations.unbind(work, self._guests.of(instance), apqn)
            return self._view(work, instance, apqn)

    def associate(self, instance: InstanceId, apqn: Apqn, secret_id: SecretId) -> HsmView:
        """Associate a secret with a bound HSM. Raises ApError.

        Where the key partition does not open (36), that is recorded: the HSM's state is `failed` until unbind.
        """
        with self._commands.alone():
            try:
                return self._associate(instance, apqn, secret_id)
            except AssociationFailed:
                self._record_failure(instance, apqn)
                raise

    def mechanisms(self, instance: InstanceId, apqn: Apqn) -> tuple[MechanismView, ...]:
        """What the guest can do with a bound HSM. Raises ApError: 01 not attached, 0b not bound, 30 the gate cannot tell."""
        with self._commands.reading() as records:
            guest = self._guests.of(instance)
            require_attached(records, guest, apqn)
            held = self._holdings.bindings(instance).get(apqn)
            if held is None or held.state not in (State.BOUND, State.ASSOCIATED):
                raise ApError(
                    ApCode.NOT_BOUND,
                    f"HSM {apqn} tells its mechanisms to a guest that has bound it: bind it first",
                )
            try:
                found = guest.gate.mechanisms(apqn)
            except PartitionUnusable as error:
                raise ApError(ApCode.BIND_ERROR, f"the gate cannot serve HSM {apqn}; try again") from error
        return tuple(MechanismView(one, allowed=one.allowed) for one in found)

    def list_secrets(self, instance: InstanceId) -> tuple[tuple[Entry, ...], bool]:
        """The entries of the guest's store, and whether it is locked."""
        with self._commands.alone():
            secrets = self._guests.of(instance).secrets
            return tuple(secrets.list()), secrets.locked

    def add_secret(self, instance: InstanceId, request: bytes) -> None:
        """Hand an add-secret request to the guest's store. Raises UvError."""
        self._change_store("add secret", instance, lambda store: store.add(request))

    def lock_secrets(self, instance: InstanceId) -> None:
        """Lock the guest's store. Raises UvError."""
        self._change_store("lock secrets", instance, lambda store: store.lock())

    def retrieve_secret(self, instance: InstanceId, index: SecretIndex) -> Retrieved:
        """A secret in the form that its kind has; the retrieval is recorded. Raises UvError."""
        with self._commands.command("retrieve secret", self._name(instance), index=str(index)):
            return self._guests.of(instance).secrets.retrieve(index)

    def use_protected_key(self, instance: InstanceId, use: KeyUse) -> bytes:
        """Sign, verify, encrypt or decrypt with one of the guest's protected keys. Raises KeyRefused."""
        with self._commands.alone():
            secrets = self._guests.of(instance).secrets
        return secrets.use(use)  # a store is replaced and never changed, so others need not wait

    def get_policy(self, instance: InstanceId) -> PolicyRow:
        """The policy of the guest's image, or the one that it registered. Raises NotFound where there is none."""
        with self._commands.reading() as records:
            self._guests.of(instance)
            row = records.policy(instance)
        if row is None:
            raise NotFound("no policy is registered; apply one")
        return row

    def set_policy(self, instance: InstanceId, row: PolicyRow) -> None:
        """Register a policy; associations that it does not allow end at once. Raises Malformed, Conflict."""
        self._plans.set_policy(instance, row)

    def apply_plan(
        self,
        instance: InstanceId,
        row: PolicyRow,
        steps: Sequence[PlanStep],
        seen: Sequence[SeenHsm] | None = None,
    ) -> tuple[HsmView, ...]:
        """Register a policy and do all steps, or nothing of it; the HSMs then. Raises Malformed, ApError, Conflict.

        `seen` is what the planner went by, if that is to be looked at again.
        """
        with self._commands.alone():
            self._plans.apply(instance, row, steps, seen)
            return self.list_hsms(instance)

    def refusals(self, instance: InstanceId) -> tuple[tuple[RefusalView, ...], int]:
        """What the guest's gate refused, newest last, with what is missing now; and how many were dropped."""
        with self._commands.reading() as records:
            guest = self._guests.of(instance)
            calls, dropped = guest.gate.refusals()
            views = self._views(records, self._holdings.bindings(instance), instance)
            hsms = {str(view.data.apqn): view for view in views}
        return tuple(refusal_view(call, hsms.get(call.apqn or ""), guest) for call in calls), dropped

    def attest(self, instance: InstanceId, call: AttestCall) -> Attestation:
        """Measure the guest for whoever made the attestation request. Raises AttestationRefused."""
        with self._commands.command("attest", self._name(instance)):
            guest = self._guests.of(instance)
            subject = Subject(
                guest.instance.identity,
                guest.instance.cuid,
                guest.instance.host_key_hash,
                guest.secrets.secret_store_hash(),
            )
            return attest(call, subject, self._host_keys.private)

    # --- inside

    def _associate(self, instance: InstanceId, apqn: Apqn, secret_id: SecretId) -> HsmView:
        detail = {"apqn": str(apqn), "secret_id": secret_id.hex()}
        with self._commands.command("associate", self._name(instance), **detail) as work:
            guest = self._guests.of(instance)
            self._associations.associate(work, guest, apqn, secret_id, guest.policy)
            return self._view(work, instance, apqn)

    def _record_failure(self, instance: InstanceId, apqn: Apqn) -> None:
        guest = self._guests.of(instance)
        with self._commands.command("association failed", guest.instance.name, apqn=str(apqn)) as work:
            self._associations.fail(work, guest, apqn)

    def _change_store(
        self, event: str, instance: InstanceId, change: Callable[[SecretStore], object]
    ) -> None:
        with self._commands.alone():
            with self._commands.command(event, self._name(instance)) as work:
                guest = self._guests.of(instance)
                store = self._stores.changing(work.storage, work.storage.of(instance), guest.secrets.state)
                change(store)
            guest.secrets = store

    def _name(self, instance: InstanceId) -> str:
        with self._commands.alone():
            return self._guests.of(instance).instance.name

    def _known(self, apqn: Apqn) -> ConfigurationData:
        try:
            return self._hsms.query(apqn)
        except UnknownHsm as error:
            raise NotFound(str(error)) from None

    def _view(self, work: Work, instance: InstanceId, apqn: Apqn) -> HsmView:
        views = self._views(work.records, work.storage.bindings(instance), instance)
        return next(view for view in views if view.data.apqn == apqn)

    def _views(
        self, records: Records, held: Mapping[Apqn, HeldHsm], instance: InstanceId
    ) -> tuple[HsmView, ...]:
        attached = records.attached(instance)
        return tuple(_seen(self._hsms.query(apqn), held.get(apqn)) for apqn in attached)


def _listed(guest: Configuration, attached: tuple[Apqn, ...]) -> GuestView:
    """A guest as its host sees it."""
    record = guest.record
    cpus = () if record is None else record.cpus
    return GuestView(
        name=guest.row.name,
        cuid=bytes(CUID_LENGTH) if record is None else record.cuid,
        attached=attached,
        started="" if record is None else record.started,
        handle=guest.row.handle,
        state=guest.slot.state,
        cpus=tuple(cpu.number for cpu in cpus),
        cpu_handles=tuple(cpu.handle for cpu in cpus),
        storage_length=guest.slot.storage.length,
        asce=guest.slot.asce,
    )


def _seen(data: ConfigurationData, held: HeldHsm | None, holder: str | None = None) -> HsmView:
    """An HSM and what it is to its holder, who is named to those who may know."""
    return HsmView(data) if held is None else HsmView(data, held.state, held.secret_id, holder)
