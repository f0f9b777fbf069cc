"""Bind, associate and unbind: every check that stands between a guest and an HSM, in its order.

Each works within one transaction and changes nothing where it raises, except what the transaction and the effects
take back. Knows no door; the order of the checks is that of the response codes' meanings (formats, F.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import keyvisor_policy
from keyvisor_firmware.association.effects import Controlled, Effects
from keyvisor_firmware.association.gates import Gate
from keyvisor_firmware.association.hsms import Hsms, as_policy_sees
from keyvisor_firmware.association.machine import OUTCOMES, Command, Outcome, State, after
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.audit import Decided
from keyvisor_firmware.audit_log.decisions import LONGEST, NOT_PERMITTED, STAND, Decision, judged, secret_name
from keyvisor_firmware.errors import ApError, AssociationFailed, RowTaken
from keyvisor_firmware.guests.running import Running
from keyvisor_firmware.secrets import NoSuchSecret, SecretIndex, SecretStore
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage.draft import Draft
from keyvisor_firmware.storage.guest_record import HeldHsm
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn, ConfigurationData, Mode
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys
from keyvisor_policy import NotPermitted, Policy, Rule
from keyvisor_policy import SecretId as PolicySecretId
from keyvisor_policy.control_points import NO_CONTROL_POINTS

At = Callable[[str], None]
"""Told at each point between two steps of a command. In production nobody listens; a test fails or dies there."""

_NO_POLICY: Final = "the guest has registered no policy; apply one that names the secret"


@dataclass(frozen=True, slots=True)
class Work:
    """One command under way: its transaction, its changes of storage, what it did to gates, its points, what it decided."""

    records: Records
    storage: Draft
    effects: Effects
    at: At
    decided: Decided = field(default_factory=Decided)


class Associations:
    """The commands, for any guest."""

    def __init__(self, hsms: Hsms) -> None:
        self._hsms = hsms

    def bind(self, work: Work, guest: Running, apqn: Apqn, policy: Policy | None) -> None:
        """Raises ApError: 3e not open yet, 01 not attached, 03 offline, 30 bound already or of a kind that is not
        bound, 36 failed before, 09 held by another guest.
        """
        with self._recorded(work, guest, apqn, Command.BIND):
            self._bind(work, guest, apqn, policy)

    def _bind(self, work: Work, guest: Running, apqn: Apqn, policy: Policy | None) -> None:
        _require_open(guest)
        hsm = self._usable(work, guest, apqn)
        after(_state(work, guest, apqn), Command.BIND, str(apqn))
        if hsm.mode is Mode.CCA:
            raise ApError(ApCode.BIND_ERROR, f"HSM {apqn} is a CCA coprocessor, which guests cannot bind")
        try:
            work.storage.bind(guest.instance.id, HeldHsm(apqn, State.BOUND))
        except RowTaken:
            raise ApError(
                ApCode.BOUND_TO_ANOTHER, f"HSM {apqn} is held by another guest; choose another"
            ) from None
        try:
            work.effects.bind(guest.gate, apqn, _binding_rule(policy, hsm))
        except PartitionUnusable as error:
            raise ApError(ApCode.BIND_ERROR, f"the gate cannot serve HSM {apqn}; try again") from error

    def associate(
        self, work: Work, guest: Running, apqn: Apqn, secret_id: SecretId, policy: Policy | None
    ) -> None:
        """Raises ApError: 01 not attached, 03 offline, 0b not bound, 31 associated already or of a kind that is not
        associated, 34 no association secret with that id, 3f not allowed by `policy`, 36 the partition does not open.

        After AssociationFailed the caller has to record that, in a transaction of its own.
        """
        with self._recorded(work, guest, apqn, Command.ASSOCIATE, (secret_id, policy)):
            self._associate(work, guest, apqn, secret_id, policy)

    def _associate(
        self, work: Work, guest: Running, apqn: Apqn, secret_id: SecretId, policy: Policy | None
    ) -> None:
        hsm = self._usable(work, guest, apqn)
        after(_state(work, guest, apqn), Command.ASSOCIATE, str(apqn))
        _require_associable(hsm)
        index = _find(guest.secrets, apqn, secret_id)
        rule = require_permitted(policy, hsm, secret_id)
        keys = self._hsms.partition_keys(apqn, guest.secrets.association_secret(index))
        associated = HeldHsm(apqn, OUTCOMES[Outcome.OPENED], index, secret_id)
        work.storage.set_binding(guest.instance.id, associated)
        try:
            work.effects.associate(guest.gate, apqn, keys, rule.name)
        except PartitionUnusable as error:
            message = f"the key partition of HSM {apqn} does not open; unbind it, then try again"
            raise AssociationFailed(message) from error

    def fail(self, work: Work, guest: Running, apqn: Apqn) -> None:
        """An association has failed: nothing passes any more, and every command repeats the code until unbind."""
        work.storage.set_binding(guest.instance.id, HeldHsm(apqn, OUTCOMES[Outcome.BROKEN]))
        work.effects.unbind(guest.gate, apqn, lambda: guest.gate.bind(apqn))

    def unbind(self, work: Work, guest: Running, apqn: Apqn) -> None:
        """Raises ApError: 01 not attached, 0b not bound. The secret stays in the store. An offline HSM can be unbound."""
        with self._recorded(work, guest, apqn, Command.UNBIND):
            require_attached(work.records, guest, apqn)
            after(_state(work, guest, apqn), Command.UNBIND, str(apqn))
            self.release(work, guest, work.storage.bindings(guest.instance.id)[apqn])

    def release(self, work: Work, guest: Running, binding: HeldHsm) -> None:
        """End what `binding` says, whoever wants it ended."""
        work.storage.unbind(guest.instance.id, binding.apqn)
        keys, rule = self.keys(guest.secrets, binding), self._rule(binding, guest.policy)

        def again() -> None:
            reinstate(guest.gate, binding, keys, rule, wait=True)

        work.effects.unbind(guest.gate, binding.apqn, again)

    def release_forbidden(self, work: Work, guest: Running, policy: Policy) -> tuple[Apqn, ...]:
        """End the guest's associations that `policy` does not allow; which those were."""
        bindings = work.storage.bindings(guest.instance.id).values()
        work.decided.decisions.extend(self.judgements(bindings, policy))
        forbidden = tuple(binding for binding in bindings if not self.stands(binding, policy))
        for binding in forbidden:
            self.release(work, guest, binding)
        return tuple(binding.apqn for binding in forbidden)

    def controlling(self, work: Work, guest: Running, policy: Policy) -> Callable[[], None]:
        """What lets `policy` decide what the HSMs that the guest has now may be asked, once it is called."""
        bindings = tuple(work.storage.bindings(guest.instance.id).values())
        now, before = self._controlled(bindings, policy), self._controlled(bindings, guest.policy)
        return lambda: work.effects.govern(guest.gate, now, before)

    def _controlled(self, bindings: Iterable[HeldHsm], policy: Policy | None) -> Controlled:
        rules = {binding.apqn: self._rule(binding, policy) for binding in bindings}
        points = NO_CONTROL_POINTS if policy is None else policy.control_points
        return points, {apqn: rule for apqn, rule in rules.items() if rule is not None}

    def _rule(self, binding: HeldHsm, policy: Policy | None) -> str | None:
        """The name of the association rule that the guest holds the HSM through; None if no rule says so."""
        if binding.apqn not in self._hsms:
            return None
        hsm = self._hsms.query(binding.apqn)
        if binding.state is not State.ASSOCIATED or binding.secret_id is None:
            return _binding_rule(policy, hsm)
        try:
            return require_permitted(policy, hsm, binding.secret_id).name
        except ApError:
            return None

    def stands(self, binding: HeldHsm, policy: Policy | None) -> bool:
        """Whether a binding may stay as it is. Asked of every binding again when the policy or the cards change."""
        hsm = self._hsms.query(binding.apqn)
        if not hsm.online or hsm.mode is Mode.CCA:
            return False
        if binding.state is not State.ASSOCIATED or binding.secret_id is None:
            return True
        try:
            require_permitted(policy, hsm, binding.secret_id)
        except ApError:
            return False
        return True

    def reinstate(self, guest: Running, binding: HeldHsm) -> None:
        """Let a gate that is new pass what `binding` says, once it runs."""
        keys, rule = self.keys(guest.secrets, binding), self._rule(binding, guest.policy)
        reinstate(guest.gate, binding, keys, rule, wait=False)

    def judgements(self, bindings: Iterable[HeldHsm], policy: Policy | None) -> Iterator[Decision]:
        """What `stands` says of the associations among them, to be recorded."""
        for binding in bindings:
            if binding.state is State.ASSOCIATED and binding.secret_id is not None:
                hsm = as_policy_sees(self._hsms.query(binding.apqn))
                judged = _judged(hsm, binding.secret_id, policy)
                allowed = self.stands(binding, policy)
                yield Decision(STAND, allowed, str(binding.apqn), hsm, binding.state.value, **judged)

    @contextmanager
    def _recorded(
        self,
        work: Work,
        guest: Running,
        apqn: Apqn,
        command: Command,
        asked: tuple[SecretId, Policy | None] | None = None,
    ) -> Iterator[None]:
        """Note what the body decides: that it was let through, or the code that it raises."""
        hsm = as_policy_sees(self._hsms.query(apqn)) if apqn in self._hsms else None
        state = _state(work, guest, apqn).value
        judged = {} if hsm is None or asked is None else _judged(hsm, *asked)
        try:
            yield
        except ApError as error:
            told = {**judged, "code": f"{error.code:02x}", "reason": str(error)}
            work.decided.decisions.append(Decision(command.value, False, str(apqn), hsm, state, **told))
            raise
        work.decided.decisions.append(
            Decision(command.value, True, str(apqn), hsm, state, **{**judged, "code": None, "reason": None})
        )

    def keys(self, secrets: SecretStore, binding: HeldHsm) -> PartitionKeys | None:
        """What opens the partition of an associated HSM; None for every other."""
        if binding.state is not State.ASSOCIATED or binding.secret_index is None:
            return None
        return self._hsms.partition_keys(binding.apqn, secrets.association_secret(binding.secret_index))

    def _usable(self, work: Work, guest: Running, apqn: Apqn) -> ConfigurationData:
        require_attached(work.records, guest, apqn)
        hsm = self._hsms.query(apqn)
        if not hsm.online:
            raise ApError(ApCode.DECONFIGURED, f"HSM {apqn} is offline; the operator can bring it back")
        return hsm


def _judged(hsm: keyvisor_policy.Hsm, secret_id: SecretId, policy: Policy | None) -> dict[str, Any]:
    """What is recorded of a secret and what a policy says of it: fields of a Decision."""
    told: dict[str, Any] = {"secret_id": secret_id.hex(), "secret": secret_name(policy, secret_id)}
    if policy is None:
        return told
    verdict = judged(policy, hsm, secret_id)
    told |= {"policy": policy.digest.hex(), "source": policy.source[:LONGEST], "rule": verdict.rule}
    told |= {"against": verdict.against, "others": verdict.others}
    return told if verdict.rule is not None else told | {"code": NOT_PERMITTED, "reason": verdict.reason}


def reinstate(
    gate: Gate, binding: HeldHsm, keys: PartitionKeys | None, rule: str | None, *, wait: bool
) -> None:
    """Let an attached, unbound HSM be again what `binding` says. Raises PartitionUnusable."""
    if binding.state not in (State.BOUND, State.ASSOCIATED):
        return
    gate.bind(binding.apqn, rule=rule)
    if keys is not None:
        gate.associate(binding.apqn, keys, rule=rule, wait=wait)


def _binding_rule(policy: Policy | None, hsm: ConfigurationData) -> str | None:
    """The first rule that this HSM is bound by without a secret: an accelerator's."""
    if policy is None or hsm.mode is not Mode.ACCEL:
        return None
    matching = policy.rules_for(as_policy_sees(hsm))
    return next((rule.name for rule in matching if rule.secret is None), None)


def require_permitted(policy: Policy | None, hsm: ConfigurationData, secret_id: SecretId) -> Rule:
    """The rule of `policy` that allows the secret on the HSM. Raises ApError 3f where none does."""
    if policy is None:
        raise ApError(ApCode.NOT_PERMITTED, f"HSM {hsm.apqn} cannot be associated: {_NO_POLICY}")
    try:
        return policy.permit(as_policy_sees(hsm), PolicySecretId(secret_id))
    except NotPermitted as error:
        raise ApError(ApCode.NOT_PERMITTED, str(error)) from None


def require_attached(records: Records, guest: Running, apqn: Apqn) -> None:
    """Raises ApError 01 unless the host gave the HSM to the guest."""
    if apqn not in records.attached(guest.instance.id):
        raise ApError(
            ApCode.NOT_AVAILABLE, f"HSM {apqn} is not attached to this guest; the host attaches HSMs"
        )


def _require_open(guest: Running) -> None:
    if not guest.open:
        raise ApError(
            ApCode.NOT_OPEN_YET,
            "the guest's image opens nothing before its secret store is locked: hand in the secrets, then "
            "`keyvisor guest secret lock`",
        )


def _require_associable(hsm: ConfigurationData) -> None:
    if hsm.mode is not Mode.EP11:
        raise ApError(
            ApCode.NOT_OPEN_TO_ASSOCIATION,
            f"HSM {hsm.apqn} is an accelerator, which is bound and never associated",
        )
    if hsm.mkvp is None:
        raise ApError(ApCode.NOT_OPEN_TO_ASSOCIATION, f"HSM {hsm.apqn} has no valid current master key")


def _state(work: Work, guest: Running, apqn: Apqn) -> State:
    binding = work.storage.bindings(guest.instance.id).get(apqn)
    return State.UNBOUND if binding is None else binding.state


def _find(secrets: SecretStore, apqn: Apqn, secret_id: SecretId) -> SecretIndex:
    try:
        return secrets.find_association(secret_id)
    except NoSuchSecret as error:
        raise ApError(ApCode.NO_SUCH_SECRET, f"cannot associate HSM {apqn}: {error}") from None
