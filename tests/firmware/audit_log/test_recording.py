"""A record and its signature are part of the transaction that they tell of: none is there without the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.audit import SigningKey
from keyvisor_firmware.audit_log.reading import state_lines
from keyvisor_firmware.audit_log.verifying import Report, public_key, verify
from keyvisor_firmware.errors import ApError, Refused
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.errors import OperatorTokenError

from ..machine import HSM, OTHER, SIGNING, SPARE, Machine, policy, step
from ..simulator import Crash, Mishap


class BrokenKey:
    """A signing key of a token that is gone."""

    public_key = b""

    def sign(self, digest: bytes) -> bytes:
        raise OperatorTokenError("the operator token refused")


def verified(machine: Machine) -> Report:
    key = public_key(machine.audit.public_key)
    with machine.database.transaction() as records:
        return verify(state_lines(records), key)


@contextlib.contextmanager
def without_a_key(machine: Machine) -> Iterator[None]:
    whole: SigningKey = machine.audit._key
    machine.audit._key = BrokenKey()
    yield
    machine.audit._key = whole


def test_a_command_that_cannot_be_signed_for_is_not_done(machine: Machine) -> None:
    guest = machine.guest("g", HSM)
    before, log = machine.rows(), machine.firmware.audit_log()
    with without_a_key(machine), pytest.raises(OperatorTokenError):
        machine.firmware.bind(guest.id, HSM)
    assert machine.rows() == before
    assert machine.firmware.audit_log() == log
    assert machine.gates.grants["g"][str(HSM)] is None
    assert any("the audit log cannot be written" in line for line in machine.log.lines)
    machine.firmware.bind(guest.id, HSM)
    assert verified(machine).broken is None


def test_every_transaction_has_one_signature_however_many_records(machine: Machine) -> None:
    """A restart that ends two associations is one transaction with three records."""
    guest = machine.ready("g", HSM, SPARE)
    before = verified(machine)
    with machine.database.transaction() as records:
        records.put_policy(guest.id, policy("another"))
    machine.again()
    after = verified(machine)
    assert (after.records - before.records, after.signatures - before.signatures) == (3, 1)
    assert after.broken is None


ACTS: dict[str, Callable[[Machine, str], object]] = {
    "bind": lambda machine, guest: machine.firmware.bind(_id(machine, guest), HSM),
    "associate": lambda machine, guest: machine.firmware.associate(_id(machine, guest), HSM, SIGNING),
    "associate another": lambda machine, guest: machine.firmware.associate(_id(machine, guest), HSM, OTHER),
    "unbind": lambda machine, guest: machine.firmware.unbind(_id(machine, guest), HSM),
    "not attached": lambda machine, guest: machine.firmware.bind(_id(machine, guest), Apqn.parse("09.0011")),
    "policy": lambda machine, guest: machine.firmware.set_policy(
        _id(machine, guest), policy("payments-signing")
    ),
    "no policy": lambda machine, guest: machine.firmware.set_policy(_id(machine, guest), policy("another")),
    "plan": lambda machine, guest: machine.firmware.apply_plan(
        _id(machine, guest), policy("payments-signing"), [step("bind", HSM), step("associate", HSM, SIGNING)]
    ),
}


def _id(machine: Machine, guest: str) -> object:
    return machine.configuration(guest).instance.id


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(ACTS)),
            st.sampled_from([None, "crash before", "crash after", "mishap before", "mishap after"]),
            st.integers(0, 2),
        ),
        max_size=8,
    )
)
def test_whatever_happens_the_log_is_good_and_only_grows(
    new_machine: Callable[..., Machine], acts: list[tuple[str, str | None, int]]
) -> None:
    """Commands that are done, refused, that fail and that the daemon dies in: the log of before is the beginning of after's."""
    machine = new_machine()
    machine.guest("g", HSM, secrets=("payments-signing",))
    log = machine.firmware.audit_log()
    for act, how, after in acts:
        if how is not None:
            machine.gates.fail(after, how)
        with contextlib.suppress(Refused, ApError, Mishap, Crash):
            ACTS[act](machine, "g")
        if machine.gates.dead:
            machine.again()
        machine.gates._countdown = None
        now = machine.firmware.audit_log()
        assert now[: len(log)] == log
        log = now
        report = verified(machine)
        assert report.broken is None
        assert report.records == len(log)
