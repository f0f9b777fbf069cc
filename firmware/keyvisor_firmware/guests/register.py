"""The guests that run, and how one is made again from what the database says."""

from __future__ import annotations

from collections.abc import Iterator

from keyvisor_firmware.association.commands import Associations, Work
from keyvisor_firmware.association.gates import Gates
from keyvisor_firmware.association.hsms import Hsms
from keyvisor_firmware.association.policies import read
from keyvisor_firmware.audit import Audit, Decided
from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import Malformed, NotFound
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.guests.running import Running
from keyvisor_firmware.guests.secret_stores import SecretStores
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage.holdings import Configuration
from keyvisor_policy import Policy


class Register:
    """Looked up by instance; by name for the host, who knows no instances."""

    def __init__(
        self,
        hsms: Hsms,
        gates: Gates,
        stores: SecretStores,
        associations: Associations,
        audit: Audit,
    ) -> None:
        self._hsms = hsms
        self._gates = gates
        self._stores = stores
        self._associations = associations
        self._audit = audit
        self._guests: dict[InstanceId, Running] = {}

    def __iter__(self) -> Iterator[Running]:
        return iter(self._guests.values())

    def __len__(self) -> int:
        return len(self._guests)

    def of(self, instance: InstanceId) -> Running:
        """Raises NotFound."""
        try:
            return self._guests[instance]
        except KeyError:
            raise NotFound("this guest was stopped") from None

    def find(self, instance: InstanceId) -> Running | None:
        """The guest, if it runs."""
        return self._guests.get(instance)

    def named(self, name: str) -> Running:
        """Raises NotFound."""
        for guest in self._guests.values():
            if guest.instance.name == name:
                return guest
        raise NotFound(f"no guest `{name}` runs; `keyvisor host list` shows those that do")

    def add(self, guest: Running) -> None:
        """It runs from now on."""
        self._guests[guest.instance.id] = guest

    def remove(self, instance: InstanceId) -> None:
        """It does not run any more."""
        del self._guests[instance]

    def open(self, guest: Configuration, records: Records) -> Running:
        """A guest with a gate of its own and the secrets and policy that it has. Raises OSError, StateUnusable."""
        instance = guest.instance
        secrets = self._stores.kept(records, guest)
        policy = self._policy(records, instance)
        gate = self._gates.open(instance.name)
        if policy is not None:
            gate.govern(policy.control_points, {})
        return Running(instance, gate, secrets, policy)

    def restore(self, guest: Configuration, work: Work) -> None:
        """Make a guest again as storage says; what does not stand any more is ended and recorded.

        Its partitions are opened when its gate first runs. Raises OSError, StateUnusable.
        """
        running = self.open(guest, work.records)
        try:
            self.reinstate(running, work)
        except BaseException:
            running.gate.stop()
            raise
        self.add(running)

    def end(self, guest: Configuration, work: Work, commands: Commands) -> None:
        """A guest's gate goes; if the rest of the command is refused after all, it comes back.

        It is gone already where it could not come back from an earlier command that failed.
        """
        running = self.find(guest.row.instance)
        if running is None:
            return

        def again() -> None:
            with commands.errand("restart guest", guest.row.name) as other:
                self.restore(guest, other)

        work.effects.note(again)
        self.remove(guest.row.instance)
        running.gate.stop()

    def reinstate(self, guest: Running, work: Work) -> None:
        """Let a new gate pass what the guest's storage says that it holds."""
        self._drop_what_is_gone(guest, work)
        for apqn in work.records.attached(guest.instance.id):
            guest.gate.attach(self._hsms.query(apqn))
        for held in work.storage.bindings(guest.instance.id).values():
            if self._associations.stands(held, guest.policy):
                self._associations.reinstate(guest, held)
            else:
                work.storage.unbind(guest.instance.id, held.apqn)
                decided = Decided(list(self._associations.judgements([held], guest.policy)))
                why = "offline, or allowed by no rule any more"
                self._ended(work.records, guest, "unbind", str(held.apqn), why, decided)

    def _drop_what_is_gone(self, guest: Running, work: Work) -> None:
        for apqn in work.records.attached(guest.instance.id):
            if apqn not in self._hsms:
                if apqn in work.storage.bindings(guest.instance.id):
                    work.storage.unbind(guest.instance.id, apqn)
                work.records.detach(guest.instance.id, apqn)
                self._ended(work.records, guest, "detach", str(apqn), "not in the configuration any more")

    def _ended(
        self,
        records: Records,
        guest: Running,
        event: str,
        apqn: str,
        why: str,
        decided: Decided | None = None,
    ) -> None:
        self._audit.log.warning(event, guest=guest.instance.name, apqn=apqn, why=why)
        self._audit.done(records, event, guest.instance.name, {"apqn": apqn, "why": why}, decided)

    def _policy(self, records: Records, instance: Instance) -> Policy | None:
        """None too for a text that this version does not read any more: then no association stands."""
        row = records.policy(instance.id)
        try:
            return None if row is None else read(row)
        except Malformed as error:
            self._audit.log.warning("a policy is not read any more", guest=instance.name, reason=str(error))
            return None
