"""A guest's door: a method per row of GUEST_ROUTES. Which guest it serves is fixed when the door is made; no request
can name another.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.attestation.attest import AttestCall
from keyvisor_firmware.doors import answers
from keyvisor_firmware.doors.problems import TooLarge
from keyvisor_firmware.errors import Malformed
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.secrets import Hash, KeyParameters, KeyUse, Mode, Operation, SecretIndex
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.storage.pages import Span
from keyvisor_firmware.views import PlanStep, SeenHsm
from keyvisor_guest.wire import messages, storage_messages
from keyvisor_guest.wire.messages import MAX_KEY_DATA, MAX_KEY_PARAMETER, MAX_POLICY, MAX_REQUEST, Done
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_guest.wire.secret_kinds import KINDS
from keyvisor_hsm.cards import Apqn
from keyvisor_policy import secret_id


class GuestHandlers:
    """What the guest `instance` can ask for."""

    def __init__(
        self, firmware: Firmware, instance: InstanceId, locked: Callable[[], None] = lambda: None
    ) -> None:
        self._firmware = firmware
        self._paging = firmware.paging
        self._instance = instance
        self._locked = locked

    def identity(self) -> messages.Identity:
        return answers.identity(self._firmware.identity(self._instance))

    def list_hsms(self) -> messages.HsmList:
        views = self._firmware.list_hsms(self._instance)
        return messages.HsmList(hsms=[answers.hsm(view) for view in views])

    def bind(self, apqn: Apqn) -> messages.Hsm:
        return answers.hsm(self._firmware.bind(self._instance, apqn))

    def unbind(self, apqn: Apqn) -> messages.Hsm:
        return answers.hsm(self._firmware.unbind(self._instance, apqn))

    def associate(self, apqn: Apqn, body: messages.Associate) -> messages.Hsm:
        return answers.hsm(self._firmware.associate(self._instance, apqn, _secret_id(body)))

    def mechanisms(self, apqn: Apqn) -> messages.MechanismList:
        views = self._firmware.mechanisms(self._instance, apqn)
        return messages.MechanismList(mechanisms=[answers.mechanism(view) for view in views])

    def list_secrets(self) -> messages.SecretList:
        entries, locked = self._firmware.list_secrets(self._instance)
        return messages.SecretList(secrets=[answers.secret(entry) for entry in entries], locked=locked)

    def add_secret(self, body: messages.AddSecret) -> Done:
        if len(body.request) > MAX_REQUEST:
            raise TooLarge(f"an add-secret request has at most {MAX_REQUEST} bytes, not {len(body.request)}")
        self._firmware.add_secret(self._instance, body.request)
        return Done()

    def lock_secrets(self) -> Done:
        self._firmware.lock_secrets(self._instance)
        self._locked()
        return Done()

    def retrieve_secret(self, index: int) -> messages.RetrievedSecret:
        return answers.retrieved_secret(self._firmware.retrieve_secret(self._instance, SecretIndex(index)))

    def use_protected_key(self, body: messages.UseProtectedKey) -> messages.UsedProtectedKey:
        used = self._firmware.use_protected_key(self._instance, _key_use(body))
        return messages.UsedProtectedKey(data=base64.b64encode(used))

    def get_policy(self) -> messages.PolicyText:
        row = self._firmware.get_policy(self._instance)
        return messages.PolicyText(text=row.text, source=row.source)

    def set_policy(self, body: messages.PolicyText) -> Done:
        self._firmware.set_policy(self._instance, _policy(body))
        return Done()

    def apply_plan(self, body: messages.ApplyPlan) -> messages.HsmList:
        steps = [_step(one) for one in body.steps]
        seen = None if body.seen is None else [_seen(one) for one in body.seen]
        views = self._firmware.apply_plan(self._instance, _policy(body.policy), steps, seen)
        return messages.HsmList(hsms=[answers.hsm(view) for view in views])

    def refusals(self) -> messages.RefusalList:
        views, dropped = self._firmware.refusals(self._instance)
        return messages.RefusalList(refusals=[answers.refusal(view) for view in views], dropped=dropped)

    def attest(self, body: messages.Attest) -> messages.AttestationAnswer:
        call = AttestCall(body.request, body.user_data, body.measurement_length, body.additional_length)
        return answers.attestation(self._firmware.attest(self._instance, call))

    def read_storage(self, body: storage_messages.ReadStorage) -> storage_messages.StorageContent:
        return answers.storage_content(self._paging.read(self._instance, Span(body.address, body.length)))

    def write_storage(self, body: storage_messages.WriteStorage) -> Done:
        self._paging.write(self._instance, body.address, body.data)
        return Done()


def _secret_id(body: messages.Associate) -> SecretId:
    """Raises Malformed unless exactly one of name and id is given."""
    match body:
        case messages.Associate(secret=str(name), secret_id=None):
            return SecretId(secret_id(name))
        case messages.Associate(secret=None, secret_id=str(text)):
            return SecretId(bytes.fromhex(text))
    raise Malformed("exactly one of `secret` and `secret_id` is given")


def _policy(body: messages.PolicyText) -> PolicyRow:
    if len(body.text.encode()) > MAX_POLICY:
        raise TooLarge(f"a policy has at most {MAX_POLICY} bytes")
    return PolicyRow(body.source, body.text)


def _step(step: messages.Step) -> PlanStep:
    return PlanStep(step.action, Apqn.parse(step.apqn), _maybe_secret_id(step.secret_id))


def _seen(hsm: messages.Seen) -> SeenHsm:
    return SeenHsm(Apqn.parse(hsm.apqn), State(hsm.state), _maybe_secret_id(hsm.secret_id))


def _maybe_secret_id(text: str | None) -> SecretId | None:
    return None if text is None else SecretId(bytes.fromhex(text))


def _key_use(body: messages.UseProtectedKey) -> KeyUse:
    """Raises TooLarge; Malformed for a number that is no secret's type."""
    given = body.parameters
    if len(body.data) > MAX_KEY_DATA:
        raise TooLarge(
            f"one use of a protected key takes at most {MAX_KEY_DATA} bytes: hand them over in parts"
        )
    for value in (body.blob, given.iv, given.associated, given.signature):
        if value is not None and len(value) > MAX_KEY_PARAMETER:
            raise TooLarge(f"a protected key and its parameters have at most {MAX_KEY_PARAMETER} bytes each")
    row = KINDS.get(body.kind)
    if row is None:
        raise Malformed(f"{body.kind} is no secret's type: the list of secrets says which it is")
    parameters = KeyParameters(
        mode=None if given.mode is None else Mode(given.mode),
        iv=given.iv,
        associated=given.associated,
        hash=None if given.hash is None else Hash(given.hash),
        digest=given.digest,
        signature=given.signature,
    )
    return KeyUse(row.kind, body.blob, Operation(body.operation), body.data, parameters)
