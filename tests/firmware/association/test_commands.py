"""Bind, associate and unbind as a guest meets them: every answer, and that a refusal changes nothing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import insert

from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.config import DEFAULT_CARDS, Config
from keyvisor_firmware.errors import ApError
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.state.schema import HOLDERS
from keyvisor_hsm.cards import Apqn

from ..machine import ACCELERATOR, CCA, HSM, LEDGER, OTHER, SIGNING, SPARE, Machine, policy

OFFLINE = Config(
    cards=tuple(
        dataclasses.replace(
            card, domains=tuple(dataclasses.replace(domain, online=False) for domain in card.domains)
        )
        for card in DEFAULT_CARDS
    )
)
KEYLESS = Config(
    cards=tuple(
        dataclasses.replace(
            card, domains=tuple(dataclasses.replace(domain, master_key=None) for domain in card.domains)
        )
        for card in DEFAULT_CARDS
    )
)


def refused(machine: Machine, code: ApCode, command: Callable[[], object]) -> str:
    """The command is refused with this code, and nothing is changed by it (invariant I8). What it said."""
    before = machine.picture()
    with pytest.raises(ApError) as caught:
        command()
    assert caught.value.code is code
    assert machine.picture() == before
    machine.require_agreement()
    return str(caught.value)


def test_bind_associate_unbind_and_again(machine: Machine) -> None:
    guest = machine.guest("payments", HSM, secrets=("payments-signing",))
    firmware = machine.firmware
    firmware.set_policy(guest.id, policy("payments-signing"))
    for _ in range(2):
        assert firmware.bind(guest.id, HSM).state == "bound"
        view = firmware.associate(guest.id, HSM, SIGNING)
        assert (view.state, view.secret_id) == ("associated", SIGNING)
        machine.require_agreement()
        view = firmware.unbind(guest.id, HSM)
        assert (view.state, view.secret_id) == ("unbound", None)
        machine.require_agreement()
    assert len(firmware.list_secrets(guest.id)[0]) == 1, "unbinding leaves the secret in the store"


def test_part2_T7_another_guests_hsm(machine: Machine) -> None:
    machine.guest("billing", HSM)
    holder = machine.ready("payments", HSM)
    other = machine.start("third")
    machine.firmware.attach("third", HSM)
    said = refused(machine, ApCode.BOUND_TO_ANOTHER, lambda: machine.firmware.bind(other.id, HSM))
    assert "payments" not in said
    refused(machine, ApCode.NOT_BOUND, lambda: machine.firmware.associate(other.id, HSM, SIGNING))
    refused(machine, ApCode.NOT_BOUND, lambda: machine.firmware.unbind(other.id, HSM))
    machine.firmware.unbind(holder.id, HSM)
    assert machine.firmware.bind(other.id, HSM).state == "bound"


def test_part2_T7_associate_twice_and_unbound(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    firmware = machine.firmware
    refused(machine, ApCode.NOT_OPEN_TO_ASSOCIATION, lambda: firmware.associate(guest.id, HSM, SIGNING))
    refused(machine, ApCode.BIND_ERROR, lambda: firmware.bind(guest.id, HSM))
    firmware.unbind(guest.id, HSM)
    refused(machine, ApCode.NOT_BOUND, lambda: firmware.associate(guest.id, HSM, SIGNING))
    refused(machine, ApCode.NOT_BOUND, lambda: firmware.unbind(guest.id, HSM))
    firmware.bind(guest.id, HSM)
    refused(machine, ApCode.BIND_ERROR, lambda: firmware.bind(guest.id, HSM))


@pytest.mark.parametrize("apqn", [SPARE, Apqn.parse("ff.00ff")])
def test_an_hsm_that_is_not_attached_is_not_there_whether_or_not_it_exists(
    machine: Machine, apqn: Apqn
) -> None:
    guest = machine.guest("payments", HSM)
    firmware = machine.firmware
    said = {
        refused(machine, ApCode.NOT_AVAILABLE, lambda: firmware.bind(guest.id, apqn)),
        refused(machine, ApCode.NOT_AVAILABLE, lambda: firmware.associate(guest.id, apqn, SIGNING)),
        refused(machine, ApCode.NOT_AVAILABLE, lambda: firmware.unbind(guest.id, apqn)),
    }
    assert said == {
        f"HSM {apqn} is not attached to this guest; the host attaches HSMs (AP response code 01, not available to this guest)"
    }


def test_what_cannot_be_bound_or_associated(machine: Machine) -> None:
    guest = machine.guest("payments", CCA, ACCELERATOR, secrets=("payments-signing",))
    firmware = machine.firmware
    firmware.set_policy(guest.id, policy("payments-signing"))
    refused(machine, ApCode.BIND_ERROR, lambda: firmware.bind(guest.id, CCA))
    firmware.bind(guest.id, ACCELERATOR)
    refused(
        machine, ApCode.NOT_OPEN_TO_ASSOCIATION, lambda: firmware.associate(guest.id, ACCELERATOR, SIGNING)
    )


def test_offline_hsms_and_hsms_without_a_master_key(new_machine: Callable[..., Machine]) -> None:
    machine = new_machine(OFFLINE)
    guest = machine.guest("payments", HSM)
    refused(machine, ApCode.DECONFIGURED, lambda: machine.firmware.bind(guest.id, HSM))
    machine = new_machine(KEYLESS)
    guest = machine.guest("payments", HSM, secrets=("payments-signing",))
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    machine.firmware.bind(guest.id, HSM)
    refused(
        machine, ApCode.NOT_OPEN_TO_ASSOCIATION, lambda: machine.firmware.associate(guest.id, HSM, SIGNING)
    )


def test_part2_T6_a_secret_that_the_store_does_not_hold(machine: Machine) -> None:
    guest = machine.guest("payments", HSM)
    firmware = machine.firmware
    firmware.add_secret(guest.id, machine.request(guest, None))
    firmware.set_policy(guest.id, policy("payments-signing"))
    firmware.bind(guest.id, HSM)
    refused(machine, ApCode.NO_SUCH_SECRET, lambda: firmware.associate(guest.id, HSM, SIGNING))


def test_invariant_I3_a_secret_never_crosses_instances(machine: Machine) -> None:
    machine.guest("billing", secrets=("payments-signing",))
    guest = machine.guest("payments", HSM)
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    machine.firmware.bind(guest.id, HSM)
    refused(machine, ApCode.NO_SUCH_SECRET, lambda: machine.firmware.associate(guest.id, HSM, SIGNING))
    assert machine.firmware.list_secrets(guest.id) == ((), False)


def test_only_what_the_registered_policy_allows_is_associated(machine: Machine) -> None:
    guest = machine.guest("payments", HSM, secrets=("payments-signing", "another"))
    firmware = machine.firmware
    firmware.bind(guest.id, HSM)
    said = refused(machine, ApCode.NOT_PERMITTED, lambda: firmware.associate(guest.id, HSM, SIGNING))
    assert "no policy" in said
    firmware.set_policy(guest.id, policy("payments-signing"))
    refused(machine, ApCode.NOT_PERMITTED, lambda: firmware.associate(guest.id, HSM, OTHER))
    firmware.set_policy(guest.id, policy("payments-signing", hsm="{serial: 93AADFK719460099}"))
    said = refused(machine, ApCode.NOT_PERMITTED, lambda: firmware.associate(guest.id, HSM, SIGNING))
    assert "serial differs" in said
    firmware.set_policy(guest.id, policy("payments-signing", hsm="{serial: 93AADFK719460083}"))
    firmware.associate(guest.id, HSM, SIGNING)


def test_another_guests_policy_allows_nothing(machine: Machine) -> None:
    machine.ready("billing", SPARE)
    guest = machine.guest("payments", HSM, secrets=("payments-signing",))
    machine.firmware.bind(guest.id, HSM)
    refused(machine, ApCode.NOT_PERMITTED, lambda: machine.firmware.associate(guest.id, HSM, SIGNING))


def test_part2_T11_a_partition_that_does_not_open_is_remembered_until_unbind(machine: Machine) -> None:
    guest = machine.guest("payments", HSM, secrets=("payments-signing",))
    firmware = machine.firmware
    firmware.set_policy(guest.id, policy("payments-signing"))
    firmware.bind(guest.id, HSM)
    machine.gates.unusable.add(str(HSM))
    with pytest.raises(ApError) as caught:
        firmware.associate(guest.id, HSM, SIGNING)
    assert caught.value.code is ApCode.ASSOCIATION_FAILED
    assert "damaged" not in str(caught.value)

    machine.gates.unusable.clear()
    for restarted in (False, True):
        if restarted:
            machine.again()
            firmware = machine.firmware
        assert machine.state(guest, HSM) == "failed"
        assert machine.gates.grants["payments"][str(HSM)] is None, "nothing passes"
        refused(
            machine, ApCode.ASSOCIATION_FAILED, lambda: machine.firmware.associate(guest.id, HSM, SIGNING)
        )
        refused(machine, ApCode.ASSOCIATION_FAILED, lambda: machine.firmware.bind(guest.id, HSM))

    firmware.unbind(guest.id, HSM)
    firmware.bind(guest.id, HSM)
    assert firmware.associate(guest.id, HSM, SIGNING).state == "associated"


def test_part2_T10_two_guests_race_for_one_hsm(machine: Machine) -> None:
    guests = [machine.guest(f"guest-{number}", HSM) for number in range(4)]
    codes: list[ApCode | None] = []
    start = threading.Barrier(len(guests))

    def bind(guest: Instance) -> None:
        start.wait()
        try:
            machine.firmware.bind(guest.id, HSM)
        except ApError as error:
            codes.append(error.code)
        else:
            codes.append(None)

    threads = [threading.Thread(target=bind, args=(guest,)) for guest in guests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes, key=str) == [ApCode.BOUND_TO_ANOTHER] * 3 + [None]
    machine.require_agreement()


def test_part2_T10_the_constraint_decides_not_the_check(machine: Machine) -> None:
    """A row that came from elsewhere, as from another host on one database, is respected."""
    guest = machine.guest("payments", HSM)
    other = machine.guest("billing")
    with machine.database._engine.begin() as connection:
        connection.execute(insert(HOLDERS).values(apqn=str(HSM), instance=other.id))
    before = dict(machine.gates.grants["payments"])
    with pytest.raises(ApError) as caught:
        machine.firmware.bind(guest.id, HSM)
    assert caught.value.code is ApCode.BOUND_TO_ANOTHER
    assert machine.gates.grants["payments"] == before


def test_part2_T9_same_secret_same_partition_any_other_pair_another(machine: Machine) -> None:
    """Invariant I5, as far as the firmware decides it: which partition a gate is sent to."""
    machine.ready("payments", HSM, SPARE, LEDGER)
    partitions = machine.gates.grants["payments"]
    assert partitions[str(HSM)] == partitions[str(SPARE)], "same master key, same secret"
    assert partitions[str(LEDGER)] != partitions[str(HSM)], "another master key"
    first = partitions[str(HSM)]

    machine.stop("payments")
    guest = machine.guest("payments", HSM)
    machine.firmware.add_secret(guest.id, machine.request(guest, "payments-signing", b"\x5f" * 32))
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    machine.firmware.bind(guest.id, HSM)
    machine.firmware.associate(guest.id, HSM, SIGNING)
    assert machine.gates.grants["payments"][str(HSM)] != first, "another secret under the same name"
