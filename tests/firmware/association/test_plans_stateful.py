"""Random plans of a guest, with mishaps and crashes at random points, beside a model that is a dictionary."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from keyvisor_firmware.association.plans import ORDER
from keyvisor_firmware.commands import COMMITTED
from keyvisor_firmware.config import Config
from keyvisor_firmware.errors import AssociationFailed, Refused
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.views import PlanStep, SeenHsm
from keyvisor_guest.wire.secret_ids import SecretId, id_from_name
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.master_keys import OperatorToken

from ..machine import ACCELERATOR, CCA, HSM, LEDGER, OTHER, SIGNING, SPARE, Machine, step
from ..simulator import Crash, Mishap

HSMS = (HSM, SPARE, LEDGER, ACCELERATOR, CCA)
KEYED = (HSM, SPARE, LEDGER)
SERIALS = {HSM: "93AADFK719460083", SPARE: "93AADFK719460099"}
NAMES = {SIGNING: "payments-signing", OTHER: "another"}
UNHEARD_OF = id_from_name("unheard-of")

# What a policy allows: pairs of secret and serial. HSM and LEDGER are domains of one card, so of one serial.
Allowed = frozenset[tuple[SecretId, Apqn]]
POLICIES: st.SearchStrategy[Allowed] = st.frozensets(
    st.tuples(st.sampled_from([SIGNING, OTHER]), st.sampled_from([HSM, SPARE])), max_size=4
)
STEPS = st.lists(
    st.one_of(
        st.builds(step, st.sampled_from(["unbind", "bind"]), st.sampled_from(HSMS)),
        st.builds(
            step, st.just("associate"), st.sampled_from(KEYED), st.sampled_from([SIGNING, OTHER, UNHEARD_OF])
        ),
    ),
    max_size=7,
)
FAULTS = st.one_of(
    st.none(), st.tuples(st.sampled_from(["mishap", "crash"]), st.integers(min_value=0, max_value=20))
)

# What an HSM is to the guest: its state and its secret; one that is not there is unbound.
Held = dict[Apqn, tuple[str, SecretId | None]]


class Impossible(Exception):
    """The model refuses a plan."""


def row(allowed: Allowed) -> PolicyRow:
    rules = [
        f"  - {{name: rule-{number}, secret: {NAMES[secret]}, hsm: {{serial: {SERIALS[apqn]}}}, count: all}}\n"
        for number, (secret, apqn) in enumerate(sorted(allowed))
    ]
    head = "version: 1\nassociations:" + ("\n" if rules else " []\n")
    return PolicyRow("policy.yaml", head + "".join(rules))


def permitted(allowed: Allowed, secret: SecretId | None, apqn: Apqn) -> bool:
    return (secret, HSM if apqn == LEDGER else apqn) in allowed


class Plans(RuleBasedStateMachine):
    """The model: what each HSM is to the guest, which another guest holds, what its policy allows, what is broken."""

    token: OperatorToken

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = contextlib.ExitStack()

    @initialize()
    def boot(self) -> None:
        directory = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kv-"))
        self.machine = Machine(Path(directory) / "state.db", self.token, Config())
        self._cleanup.callback(lambda: self.machine.database.close())
        self.guest = self.machine.guest("payments", *HSMS, secrets=("payments-signing",))
        self.machine.firmware.add_secret(
            self.guest.id, self.machine.request(self.guest, "another", b"\xa0" * 32)
        )
        self.other = self.machine.guest("billing", SPARE, ACCELERATOR)
        self.held: Held = {}
        self.taken: set[Apqn] = set()
        self.allowed: Allowed = frozenset()
        self.broken: set[Apqn] = set()
        self.applied = 0
        self.machine.firmware.set_policy(self.guest.id, row(self.allowed))

    # --- what the model makes of a plan

    def _after(self, steps: list[PlanStep], allowed: Allowed) -> Held:
        if len({(one.action, one.apqn) for one in steps}) != len(steps):
            raise Impossible
        held = dict(self.held)
        for one in sorted(steps, key=lambda one: ORDER[one.action]):
            self._step(held, one, allowed)
        if any(one.action == "associate" and one.apqn in self.broken for one in steps):
            raise Impossible
        return {
            apqn: (state, secret)
            for apqn, (state, secret) in held.items()
            if state != "associated" or permitted(allowed, secret, apqn)
        }

    def _step(self, held: Held, one: PlanStep, allowed: Allowed) -> None:
        state = held.get(one.apqn, ("unbound", None))[0]
        if one.action == "unbind":
            possible = state != "unbound"
            held.pop(one.apqn, None)
        elif one.action == "bind":
            possible = state == "unbound" and one.apqn != CCA and one.apqn not in self.taken
            held[one.apqn] = ("bound", None)
        else:
            possible = state == "bound" and permitted(allowed, one.secret_id, one.apqn)
            held[one.apqn] = ("associated", one.secret_id)
        if not possible:
            raise Impossible

    # --- what happens

    @rule(steps=STEPS, allowed=POLICIES, stale=st.booleans(), fault=FAULTS)
    def apply(
        self, steps: list[PlanStep], allowed: Allowed, stale: bool, fault: tuple[str, int] | None
    ) -> None:
        self._apply(steps, allowed, stale, fault)

    @rule(data=st.data(), allowed=POLICIES, fault=FAULTS)
    def apply_what_can_be_done(
        self, data: st.DataObject, allowed: Allowed, fault: tuple[str, int] | None
    ) -> None:
        """A plan as a planner makes it: per HSM what it is to become, and the steps that lead there."""
        steps = []
        for apqn in HSMS:
            if apqn == CCA or apqn in self.taken:
                continue
            now = self.held.get(apqn, ("unbound", None))
            secrets = (
                [one for one in (SIGNING, OTHER) if permitted(allowed, one, apqn)] if apqn in KEYED else []
            )
            wanted = data.draw(
                st.sampled_from([None, ("bound", None), *(("associated", s) for s in secrets)])
            )
            if wanted is None or wanted == now:
                continue
            if now[0] != "unbound" and not (now[0] == "bound" and wanted[0] == "associated"):
                steps.append(step("unbind", apqn))
                now = ("unbound", None)
            if now[0] == "unbound":
                steps.append(step("bind", apqn))
            if wanted[0] == "associated":
                steps.append(step("associate", apqn, wanted[1]))
        self._apply(data.draw(st.permutations(steps)), allowed, False, fault)

    def _apply(
        self, steps: list[PlanStep], allowed: Allowed, stale: bool, fault: tuple[str, int] | None
    ) -> None:
        seen = self._seen()
        if stale:
            first = seen[0]
            seen[0] = SeenHsm(first.apqn, next(s for s in type(first.state) if s is not first.state))
        try:
            new = None if stale else self._after(steps, allowed)
        except Impossible:
            new = None
        before = self.machine.picture()
        committed = self._run(steps, allowed, seen, fault)
        assert not (committed and new is None), "the model refuses it"
        if committed:
            assert new is not None
            self.held, self.allowed = new, allowed
            self.applied += 1
        elif fault is None:
            assert new is None, "the model would have done it"
        if not committed:
            assert self.machine.picture() == before

    def _run(
        self, steps: list[PlanStep], allowed: Allowed, seen: list[SeenHsm], fault: tuple[str, int] | None
    ) -> bool:
        """Apply; whether it was committed. A mishap comes before the commit only: after it nothing fails."""
        passed: list[str] = []

        def at(point: str) -> None:
            passed.append(point.removeprefix("apply plan: "))
            if not point.startswith("apply plan: ") or fault is None or len(passed) != fault[1] + 1:
                return
            if fault[0] == "crash":
                self.machine.gates.dead = True
                raise Crash(point)
            if COMMITTED not in passed:
                raise Mishap(point)

        self.machine.at = at
        try:
            self.machine.firmware.apply_plan(self.guest.id, row(allowed), steps, seen)
        except (Refused, Mishap):
            assert COMMITTED not in passed
            return False
        except Crash:
            self.machine.at = lambda point: None
            self._restart()
            return COMMITTED in passed
        finally:
            self.machine.at = lambda point: None
        return True

    def _seen(self) -> list[SeenHsm]:
        views = self.machine.firmware.list_hsms(self.guest.id)
        return [SeenHsm(view.data.apqn, view.state, view.secret_id) for view in views]

    def _restart(self) -> None:
        self.machine.again()
        self.machine.gates.unusable = {str(apqn) for apqn in self.broken}

    @rule(apqn=st.sampled_from([SPARE, ACCELERATOR]))
    def another_guest_takes_one_or_gives_it_back(self, apqn: Apqn) -> None:
        if apqn in self.taken:
            self.machine.firmware.unbind(self.other.id, apqn)
            self.taken.discard(apqn)
        elif apqn not in self.held:
            self.machine.firmware.bind(self.other.id, apqn)
            self.taken.add(apqn)

    @rule(apqn=st.sampled_from(KEYED))
    def a_partition_breaks_or_is_put_back(self, apqn: Apqn) -> None:
        """Not one that is open: what was taken from the gate could not be given back."""
        if apqn in self.broken:
            self.broken.discard(apqn)
        elif self.held.get(apqn, ("", None))[0] != "associated":
            self.broken.add(apqn)
        self.machine.gates.unusable = {str(one) for one in self.broken}

    @rule(apqn=st.sampled_from(KEYED), secret=st.sampled_from([SIGNING, OTHER]))
    def an_association_alone_fails(self, apqn: Apqn, secret: SecretId) -> None:
        """So that plans meet HSMs in the state `failed`."""
        may = self.held.get(apqn) == ("bound", None) and permitted(self.allowed, secret, apqn)
        if may and apqn in self.broken:
            with pytest.raises(AssociationFailed):
                self.machine.firmware.associate(self.guest.id, apqn, secret)
            self.held[apqn] = ("failed", None)

    @rule()
    def restart(self) -> None:
        self._restart()

    @invariant()
    def model_database_gates_and_audit_agree(self) -> None:
        if not hasattr(self, "applied"):
            return
        self.machine.require_agreement()
        views = self.machine.firmware.list_hsms(self.guest.id)
        assert {
            view.data.apqn: (view.state.value, view.secret_id) for view in views if view.state != "unbound"
        } == self.held
        assert self.machine.firmware.get_policy(self.guest.id) == row(self.allowed)
        log = self.machine.firmware.audit_log()
        done = [one for one in log if one.event == "apply plan" and one.detail["outcome"] == "done"]
        assert len(done) == self.applied

    def teardown(self) -> None:
        self._cleanup.close()


@pytest.mark.timeout(300)
def test_a_plan_is_done_as_the_model_does_it_or_not_at_all(operator_token: OperatorToken) -> None:
    Plans.token = operator_token
    run_state_machine_as_test(
        Plans,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
