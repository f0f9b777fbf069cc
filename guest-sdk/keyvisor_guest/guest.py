"""The guest's side: its HSMs, its secrets, its policy, its PKCS#11 door.

Knows the door's messages; what a policy means is the policy package's, and whether it may be done the firmware's.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyvisor_guest import planning, stock_client
from keyvisor_guest.errors import PlanUnmet, Refused, SdkError
from keyvisor_guest.http import Door
from keyvisor_guest.names import apqn_text, guest_name
from keyvisor_guest.state_directory import guest_socket, pkcs11_socket, state_directory
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.attestation_file import Attestation
from keyvisor_guest.wire.messages import GUEST_ROUTES, MAX_REQUEST, Done

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library

    from keyvisor_policy import Plan, Policy

__all__ = ["Guest", "Refusals", "Secrets"]

_NOT_FOUND = 404


class Guest:
    """One guest's doors. Every method that goes through them raises Refused, NotRunning, DoorClosed or DoorBroken.

    `name` left out is KEYVISOR_GUEST, `state` left out is KEYVISOR_STATE or the default: a program that
    `keyvisor guest exec` runs says `Guest()`. Raises NameInvalid, StateDirectoryUnusable.
    """

    def __init__(self, name: str | None = None, *, state: Path | None = None) -> None:
        self.name = guest_name(name)
        self._state = state_directory(state)
        self._door = Door(
            guest_socket(self._state, self.name),
            GUEST_ROUTES,
            nobody=f"no guest `{self.name}` in `{self._state}`: `keyvisor host list` shows those there are, "
            "`keyvisor up` starts the firmware",
        )
        self.secrets = Secrets(self._door)

    def identity(self) -> messages.Identity:
        """This instance's boot identity and CUID, hex."""
        return self._door.call("identity", messages.Identity)

    def hsms(self) -> list[messages.Hsm]:
        """The HSMs attached to this guest: configuration data and the state of each association."""
        return self._door.call("list_hsms", messages.HsmList).hsms

    def bind(self, apqn: str) -> messages.Hsm:
        """Bind an HSM: non-sensitive requests pass."""
        return self._door.call("bind", messages.Hsm, apqn=apqn_text(apqn))

    def unbind(self, apqn: str) -> messages.Hsm:
        """Unbind an HSM: nothing passes."""
        return self._door.call("unbind", messages.Hsm, apqn=apqn_text(apqn))

    def associate(self, apqn: str, secret_name: str) -> messages.Hsm:
        """Associate the secret of that name with a bound HSM: sensitive requests pass."""
        body = messages.Associate(secret=secret_name)
        return self._door.call("associate", messages.Hsm, body, apqn=apqn_text(apqn))

    def mechanisms(self, apqn: str) -> list[messages.Mechanism]:
        """What the module behind a bound HSM can do, by type.

        What the installed client lets through of it: `client_release`.
        """
        return self._door.call("mechanisms", messages.MechanismList, apqn=apqn_text(apqn)).mechanisms

    def apply(
        self,
        policy: Policy | Path | str,
        *,
        partial: bool = False,
        strict: bool = True,
        dry_run: bool = False,
    ) -> Plan:
        """Register a policy and make the HSMs what it asks for: all of its plan, or nothing (policy, section 2).

        `policy` is a policy, the path of its file, or its text (a `str` with a line break). A rule that no HSM meets
        raises PlanUnmet before anything is applied; with `partial` what can be met is applied first, and without
        `strict` that is enough. `dry_run` gives back the plan, met or not, and applies nothing. Raises
        keyvisor_policy's DocumentError for a policy that is none.
        """
        rules, text = planning.read(policy)
        plan = planning.assign(rules, self.hsms(), self.secrets.list())
        reasons = planning.reasons(plan)
        if dry_run:
            return plan
        if reasons and not partial:
            raise PlanUnmet(plan, reasons, applied=False)
        self._door.call("apply_plan", messages.HsmList, planning.request(text, plan))
        if reasons and strict:
            raise PlanUnmet(plan, reasons, applied=True)
        return plan

    @property
    def policy(self) -> messages.PolicyText | None:
        """The policy that this guest registered, as its text; None if it has registered none."""
        try:
            return self._door.call("get_policy", messages.PolicyText)
        except Refused as refused:
            if (refused.kind, refused.code) == ("http", _NOT_FOUND):
                return None
            raise

    def refusals(self) -> Refusals:
        """What the gate refused, oldest first: why, and what was missing."""
        answer = self._door.call("refusals", messages.RefusalList)
        return Refusals(answer.refusals, answer.dropped)

    def attest(
        self,
        request: bytes,
        user_data: bytes = b"",
        *,
        measurement_length: int | None = None,
        additional_length: int | None = None,
    ) -> Attestation:
        """Have this instance measured for whoever made the attestation request (an ARCB; formats, C.6).

        Up to 256 bytes `user_data` are measured too: a public key's hash, for instance. The lengths are those that
        whoever asked has room for. Raises Refused with the code of attestation.
        """
        if len(request) > MAX_REQUEST:
            raise SdkError(f"an attestation request has at most {MAX_REQUEST} bytes, not {len(request)}")
        body = messages.Attest(
            request=base64.b64encode(request),
            user_data=base64.b64encode(user_data),
            measurement_length=measurement_length,
            additional_length=additional_length,
        )
        answer = self._door.call("attest", messages.AttestationAnswer, body)
        return Attestation(
            *(bytes.fromhex(text) for text in (answer.measurement, answer.additional, answer.cuid))
        )

    def pkcs11(self) -> Library:
        """The `pkcs11.lib` of python-pkcs11 on this guest's PKCS#11 door.

        A process stays with the first guest that it does this for. Raises ClientUnusable for a second one and
        where p11-kit's client is not installed, `pkcs11.PKCS11Error` if the door does not answer as it should.
        """
        self.identity()  # the client takes a door that is not there for a machine without slots, and says nothing
        return stock_client.load(pkcs11_socket(self._state, self.name))


class Secrets:
    """The secret store of one guest: values go in and never come out."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def add(self, request: bytes) -> None:
        """Hand an add-secret request to the firmware. Raises Refused with the ultravisor's code (formats, B.1)."""
        if len(request) > MAX_REQUEST:
            raise SdkError(f"an add-secret request has at most {MAX_REQUEST} bytes, not {len(request)}")
        self._door.call("add_secret", Done, messages.AddSecret(request=base64.b64encode(request)))

    def list(self) -> Sequence[messages.Secret]:
        """The entries of the store, without their values."""
        return self._list().secrets

    @property
    def locked(self) -> bool:
        """Whether the store takes no more secrets until the guest stops."""
        return self._list().locked

    def lock(self) -> None:
        """Lock the store until the guest stops."""
        self._door.call("lock_secrets", Done)

    def _list(self) -> messages.SecretList:
        return self._door.call("list_secrets", messages.SecretList)


class Refusals(tuple[messages.Refusal, ...]):
    """What the gate refused, oldest first. `dropped` older refusals are no longer kept."""

    dropped: int

    def __new__(cls, kept: Iterable[messages.Refusal], dropped: int) -> Refusals:
        refusals = super().__new__(cls, kept)
        refusals.dropped = dropped
        return refusals
