"""Random commands of two guests and their host, beside a model that is a dictionary: they always agree."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from keyvisor_firmware.config import Config
from keyvisor_firmware.errors import Refused
from keyvisor_firmware.guests.instance import Instance
from keyvisor_guest.errors import GuestThere, NotRunning
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.master_keys import OperatorToken

from .machine import ACCELERATOR, CCA, HSM, SIGNING, SPARE, Machine, policy

GUESTS = st.sampled_from(["payments", "billing"])
HSMS = st.sampled_from([HSM, SPARE, ACCELERATOR, CCA])
ALLOWED = {HSM: "93AADFK719460083", SPARE: "93AADFK719460099"}


class Commands(RuleBasedStateMachine):
    """The model: who runs, what is attached to whom, what each holds, which serial its policy allows."""

    token: OperatorToken

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = contextlib.ExitStack()

    @initialize()
    def boot(self) -> None:
        directory = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kv-"))
        self.machine = Machine(Path(directory) / "state.db", self.token, Config())
        self._cleanup.callback(lambda: self.machine.database.close())
        self.running: dict[str, Instance] = {}
        self.attached: set[tuple[str, Apqn]] = set()
        self.held: dict[Apqn, tuple[str, str]] = {}
        self.allowed: dict[str, Apqn] = {}
        self.secret: set[str] = set()

    def _tried(self, may: bool, command: object) -> bool:
        assert callable(command)
        try:
            command()
        except (Refused, GuestThere, NotRunning):
            assert not may
            return False
        assert may
        return True

    @rule(name=GUESTS)
    def start(self, name: str) -> None:
        if self._tried(name not in self.running, lambda: self.machine.guest(name)):
            self.running[name] = next(i for i in self.machine._instances() if i.name == name)

    @rule(name=GUESTS)
    def stop(self, name: str) -> None:
        if self._tried(name in self.running, lambda: self.machine.stop(name)):
            del self.running[name]
            self.attached = {(guest, apqn) for guest, apqn in self.attached if guest != name}
            self.held = {apqn: held for apqn, held in self.held.items() if held[0] != name}
            self.allowed.pop(name, None)
            self.secret.discard(name)

    @rule(name=GUESTS, apqn=HSMS)
    def attach(self, name: str, apqn: Apqn) -> None:
        may = name in self.running and (name, apqn) not in self.attached
        if self._tried(may, lambda: self.machine.firmware.attach(name, apqn)):
            self.attached.add((name, apqn))

    @rule(name=GUESTS, apqn=HSMS)
    def detach(self, name: str, apqn: Apqn) -> None:
        if self._tried((name, apqn) in self.attached, lambda: self.machine.firmware.detach(name, apqn)):
            self.attached.discard((name, apqn))
            if self.held.get(apqn, ("", ""))[0] == name:
                del self.held[apqn]

    @rule(name=GUESTS)
    def add_secret(self, name: str) -> None:
        if name in self.running:
            instance = self.running[name]
            self.machine.firmware.add_secret(instance.id, self.machine.request(instance, "payments-signing"))
            self.secret.add(name)

    @rule(name=GUESTS, apqn=st.sampled_from([HSM, SPARE]))
    def set_policy(self, name: str, apqn: Apqn) -> None:
        if name in self.running:
            row = policy("payments-signing", hsm=f"{{serial: {ALLOWED[apqn]}}}")
            self.machine.firmware.set_policy(self.running[name].id, row)
            self.allowed[name] = apqn
            self.held = {
                hsm: held for hsm, held in self.held.items() if held != (name, "associated") or hsm == apqn
            }

    @rule(name=GUESTS, apqn=HSMS)
    def bind(self, name: str, apqn: Apqn) -> None:
        if name in self.running:
            may = (name, apqn) in self.attached and apqn not in self.held and apqn != CCA
            if self._tried(may, lambda: self.machine.firmware.bind(self.running[name].id, apqn)):
                self.held[apqn] = (name, "bound")

    @rule(name=GUESTS, apqn=HSMS)
    def unbind(self, name: str, apqn: Apqn) -> None:
        if name in self.running:
            may = self.held.get(apqn, ("", ""))[0] == name
            if self._tried(may, lambda: self.machine.firmware.unbind(self.running[name].id, apqn)):
                del self.held[apqn]

    @rule(name=GUESTS, apqn=HSMS)
    def associate(self, name: str, apqn: Apqn) -> None:
        if name in self.running:
            may = (
                self.held.get(apqn) == (name, "bound")
                and name in self.secret
                and self.allowed.get(name) == apqn
            )
            if self._tried(
                may, lambda: self.machine.firmware.associate(self.running[name].id, apqn, SIGNING)
            ):
                self.held[apqn] = (name, "associated")

    @rule()
    def restart(self) -> None:
        self.machine.again()

    @invariant()
    def model_database_and_gates_agree(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.machine.require_agreement()
        views = self.machine.firmware.held_hsms()
        assert {view.data.apqn: (view.holder, view.state.value) for view in views if view.holder} == self.held
        told = {
            (guest.name, apqn) for guest in self.machine.firmware.list_guests() for apqn in guest.attached
        }
        assert told == self.attached

    def teardown(self) -> None:
        self._cleanup.close()


@pytest.mark.timeout(300)
def test_commands_agree_with_the_model(operator_token: OperatorToken) -> None:
    """Invariants I4 and I8; part2_T10 in sequence."""
    Commands.token = operator_token
    run_state_machine_as_test(
        Commands, settings=settings(max_examples=25, stateful_step_count=40, deadline=None, derandomize=True)
    )
