"""The guest's side: its HSMs, its secrets, its policy, its PKCS#11 door.

Knows the door's messages; what a policy means is the policy package's, and whether it may be done the firmware's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyvisor_guest import planning, stock_client
from keyvisor_guest.errors import PlanUnmet, Refused, SdkError
from keyvisor_guest.http import Door
from keyvisor_guest.names import apqn_text, guest_name
from keyvisor_guest.secrets import Secrets
from keyvisor_guest.state_directory import guest_socket, pkcs11_socket, state_directory
from keyvisor_guest.storage import Storage
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.attestation_file import Attestation
from keyvisor_guest.wire.messages import GUEST_ROUTES, MAX_REQUEST

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library

    from keyvisor_guest.personalization import Description, Named, Personalized
    from keyvisor_guest.planning import GuestPlan
    from keyvisor_policy import Policy

__all__ = ["Guest", "Refusals", "Secrets"]

ATTEMPTS = (
    5  # how often an apply plans before it gives up, where somebody else changes the HSMs at the same time
)

_NOT_FOUND = 404
_OUTDATED = ("ap", 0x3D)


class Guest:
    """One guest's doors. Every method that goes through them raises Refused, NotRunning, DoorClosed or DoorBroken.

    `name` left out is KEYVISOR_GUEST, `state` left out is KEYVISOR_STATE or the default: a program that
    `keyvisor guest exec` runs says `Guest()`. `memory` is the guest's own storage. Raises NameInvalid,
    StateDirectoryUnusable.
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
        self.memory = Storage(self._door)

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
        policy: Policy | Path | str | None = None,
        *,
        partial: bool = False,
        strict: bool = True,
        unbind: bool = False,
        dry_run: bool = False,
    ) -> GuestPlan:
        """Register a policy and make the HSMs what it asks for: all of its plan, or nothing (policy, section 2).

        `policy` is a policy, the path of its file, or its text (a `str` with a line break). Left out, it is the one
        that the guest has: a policy in the image is registered from the start, and no other takes its place. A rule
        that no HSM meets raises PlanUnmet before anything is applied; with `partial` what can be met is applied
        first, and without `strict` that is enough. HSMs that already are what a rule wants are not touched; those
        that the guest holds and no rule wants stay as they are where the policy allows it, with `unbind` they are
        unbound. `dry_run` gives back the plan, met or not, and applies nothing; else it is an AppliedPlan.

        Where the HSMs change while it plans, it plans again, up to ATTEMPTS times in all. Raises keyvisor_policy's
        DocumentError for a policy that is none.
        """
        rules, text = self._own_policy() if policy is None else planning.read(policy)
        attempts = ATTEMPTS
        while True:
            attempts -= 1
            plan = planning.assign(rules, self.hsms(), self.secrets.list(), unbind=unbind)
            reasons = planning.reasons(plan)
            if dry_run:
                return plan
            if reasons and not partial:
                raise PlanUnmet(plan, reasons, applied=False)
            try:
                now = self._door.call("apply_plan", messages.HsmList, planning.request(text, plan)).hsms
            except Refused as refused:
                if (refused.kind, refused.code) != _OUTDATED or not attempts:
                    raise
                continue
            done = planning.applied(plan, now)
            if reasons and strict:
                raise PlanUnmet(done, reasons, applied=True)
            return done

    @property
    def policy(self) -> messages.PolicyText | None:
        """The policy in this guest's image, or the one that it registered, as its text; None if it has none."""
        try:
            return self._door.call("get_policy", messages.PolicyText)
        except Refused as refused:
            if (refused.kind, refused.code) == ("http", _NOT_FOUND):
                return None
            raise

    def personalize(
        self,
        requests: Sequence[Named],
        user_key: bytes,
        *,
        contents: Iterable[bytes] = (),
        description: Description | None = None,
        root: Path | None = None,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> Personalized:
        """Make this guest its user's: take their requests, lock the store, furnish the guest.

        `requests` are (name, bytes) in order, whoever brought them; `user_key` is the user's certificate or public
        key, PEM or DER. Raises PersonalizationFailed. (personalization/personalizing.py)
        """
        from keyvisor_guest.personalization import personalize

        return personalize(
            self,
            requests,
            user_key,
            contents=contents,
            description=description,
            root=root,
            environment=environment,
            say=say,
        )

    def _own_policy(self) -> tuple[Policy, messages.PolicyText]:
        text = self.policy
        if text is None:
            raise SdkError(
                f"guest `{self.name}` has no policy: its image carries none, and it has registered none; give one"
            )
        return planning.parsed(text), text

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


class Refusals(tuple[messages.Refusal, ...]):
    """What the gate refused, oldest first. `dropped` older refusals are no longer kept."""

    dropped: int

    def __new__(cls, kept: Iterable[messages.Refusal], dropped: int) -> Refusals:
        refusals = super().__new__(cls, kept)
        refusals.dropped = dropped
        return refusals
