"""The core as a whole: guests come and go, plans are all or nothing, and a crash anywhere leaves old or new."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.config import DEFAULT_CARDS, Config, Limits
from keyvisor_firmware.errors import ApError, Conflict, Malformed, NotFound, Refused, StorageRefused
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.storage.donations import CpuOffer
from keyvisor_firmware.storage.pages import LOWCORE, PAGE
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.views import PlanStep
from keyvisor_hsm.cards import Apqn

from .machine import ACCELERATOR, CCA, HSM, LEDGER, OTHER, SIGNING, SPARE, STARTED, Machine, policy, step
from .offers import another_offer
from .simulator import Crash, Mishap

HOW = ["crash before", "crash after", "mishap before", "mishap after"]


# --- mechanisms


def test_a_bound_hsm_tells_its_mechanisms(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    machine.firmware.attach("payments", LEDGER)
    machine.firmware.bind(guest.id, LEDGER)
    for apqn in (HSM, LEDGER):
        views = machine.firmware.mechanisms(guest.id, apqn)
        assert [view.mechanism.type for view in views] == [0x1041, 0x80000123]
        assert all(view.allowed for view in views)


def test_an_hsm_that_is_not_bound_tells_no_mechanisms(machine: Machine) -> None:
    guest = machine.guest("payments", HSM, secrets=("payments-signing",))

    def code(apqn: Apqn) -> int:
        with pytest.raises(ApError) as refused:
            machine.firmware.mechanisms(guest.id, apqn)
        return refused.value.code

    assert code(SPARE) == ApCode.NOT_AVAILABLE
    assert code(HSM) == ApCode.NOT_BOUND
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    machine.firmware.bind(guest.id, HSM)
    machine.gates.unusable.add(str(HSM))
    assert code(HSM) == ApCode.BIND_ERROR  # the gate cannot tell
    with pytest.raises(ApError):
        machine.firmware.associate(guest.id, HSM, SIGNING)
    machine.gates.unusable.clear()
    assert machine.state(guest, HSM) == "failed"
    assert code(HSM) == ApCode.NOT_BOUND


# --- guests


def test_a_guest_starts_with_an_identity_of_its_own(machine: Machine) -> None:
    first, second = machine.guest("payments"), machine.guest("billing")
    assert first.cuid != second.cuid
    assert first.identity != second.identity
    assert machine.firmware.identity(first.id) == first
    views = machine.firmware.list_guests()
    assert [(view.name, view.cuid) for view in views] == [("billing", second.cuid), ("payments", first.cuid)]
    assert views[0].started == "2026-02-03T12:00:00.000Z"


def test_the_same_image_started_twice_is_two_instances(machine: Machine) -> None:
    first = machine.guest("payments")
    machine.stop("payments")
    second = machine.guest("payments")
    assert first.identity == second.identity
    assert first.cuid != second.cuid
    assert first.id != second.id


def test_what_waited_for_a_guest_that_was_stopped_finds_nobody(machine: Machine) -> None:
    first = machine.guest("payments", HSM)
    machine.stop("payments")
    second = machine.guest("payments", HSM)
    own: list[Callable[[], object]] = [
        lambda: machine.firmware.identity(first.id),
        lambda: machine.firmware.list_hsms(first.id),
        lambda: machine.firmware.bind(first.id, HSM),
        lambda: machine.firmware.unbind(first.id, HSM),
        lambda: machine.firmware.associate(first.id, HSM, SIGNING),
        lambda: machine.firmware.mechanisms(first.id, HSM),
        lambda: machine.firmware.list_secrets(first.id),
        lambda: machine.firmware.add_secret(first.id, b""),
        lambda: machine.firmware.lock_secrets(first.id),
        lambda: machine.firmware.get_policy(first.id),
        lambda: machine.firmware.set_policy(first.id, policy("x")),
        lambda: machine.firmware.apply_plan(first.id, policy("x"), ()),
        lambda: machine.firmware.refusals(first.id),
    ]
    for command in own:
        with pytest.raises(NotFound, match="was stopped"):
            command()
    assert machine.state(second, HSM) == "unbound"


def test_names_and_numbers_that_are_taken_or_unknown(new_machine: Callable[..., Machine]) -> None:
    machine = new_machine(Config(limits=Limits(guests=2, hsms_per_guest=2)))
    machine.guest("payments", HSM, SPARE)
    machine.guest("billing")
    firmware = machine.firmware
    offer = another_offer(machine)
    before = machine.picture()
    with pytest.raises(StorageRefused) as refused:
        firmware.donations.create_guest("third", offer)
    assert refused.value.why is StorageCode.TOO_MANY_GUESTS
    with pytest.raises(Conflict, match="there already"):  # the name is what there is to know
        firmware.donations.create_guest("payments", offer)
    for command, kind, said in (
        (lambda: firmware.attach("payments", LEDGER), Conflict, "limit"),
        (lambda: firmware.attach("billing", Apqn(0xFF, 0)), NotFound, "no HSM ff.0000"),
        (lambda: firmware.attach("nobody", HSM), NotFound, "no guest `nobody`"),
        (lambda: firmware.detach("billing", HSM), NotFound, "not attached"),
        (lambda: firmware.donations.destroy_guest(4711), StorageRefused, "no guest with that handle"),
        (lambda: firmware.donations.destroy_cpu(4711), StorageRefused, "no CPU with that handle"),
        (lambda: firmware.booting.start(4711), StorageRefused, "no guest with that handle"),
    ):
        with pytest.raises(kind, match=said):
            command()
    assert machine.picture() == before
    machine.stop("billing")
    before = machine.picture()
    with pytest.raises(Conflict, match="there already"):
        firmware.donations.create_guest("payments", offer)
    assert machine.picture() == before
    firmware.detach("payments", SPARE)
    with pytest.raises(Conflict, match="attached to guest `payments` already"):
        firmware.attach("payments", HSM)


def test_part2_T15_stopping_a_guest_clears_everything(machine: Machine) -> None:
    machine.ready("payments", HSM, SPARE)
    machine.stop("payments")
    assert machine.gates.grants == {}
    later = machine.guest("payments", HSM)
    firmware = machine.firmware
    assert firmware.list_secrets(later.id) == ((), False)
    with pytest.raises(NotFound, match="no policy is registered"):
        firmware.get_policy(later.id)
    assert machine.state(later, HSM) == "unbound"
    other = machine.guest("billing", SPARE)
    assert firmware.bind(other.id, SPARE).state == "bound", "what a stopped guest held is free"


def test_detaching_ends_what_was_associated(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    machine.firmware.detach("payments", HSM)
    assert machine.firmware.list_hsms(guest.id) == ()
    machine.require_agreement()
    told = machine.gates.told[-2:]
    assert told == ["payments: unbind 03.0011", "payments: detach 03.0011"]
    machine.firmware.attach("payments", HSM)
    assert machine.state(guest, HSM) == "unbound"


# --- what each door may see


def test_the_host_sees_no_master_key_and_nobodys_holdings(machine: Machine) -> None:
    machine.ready("payments", HSM)
    views = machine.firmware.machine_hsms()
    assert len(views) == 7
    for view in views:
        assert (view.data.mkvp, view.state, view.secret_id, view.holder) == (None, "unbound", None, None)


def test_the_operator_sees_who_holds_what(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    views = {view.data.apqn: view for view in machine.firmware.held_hsms()}
    assert (views[HSM].state, views[HSM].holder, views[HSM].secret_id) == ("associated", "payments", SIGNING)
    assert views[HSM].data.mkvp == views[SPARE].data.mkvp != views[LEDGER].data.mkvp
    assert views[SPARE].holder is None
    assert all(view.holder is None for view in machine.firmware.list_hsms(guest.id))


def test_the_audit_log_has_every_command_and_its_outcome(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    with pytest.raises(ApError):
        machine.firmware.bind(guest.id, HSM)
    with pytest.raises(UvError):
        machine.firmware.add_secret(guest.id, b"rubbish")
    machine.stop("payments")
    log = machine.firmware.audit_log()
    assert [(entry.event, entry.detail["outcome"]) for entry in log] == [
        ("restore", "done"),
        *((event, "done") for event in STARTED),
        ("attach", "done"),
        ("add secret", "done"),
        ("set policy", "done"),
        ("bind", "done"),
        ("associate", "done"),
        ("bind", "refused"),
        ("add secret", "refused"),
        ("destroy cpu", "done"),
        ("destroy guest", "done"),
    ]
    assert {entry.guest for entry in log[2:]} == {"payments"}
    assert log[-5].detail == {"outcome": "done", "apqn": "03.0011", "secret_id": SIGNING.hex()}
    assert "AP response code 30" in log[-4].detail["reason"]
    machine.again()
    assert machine.firmware.audit_log()[:-1] == log


def test_the_audit_log_shows_the_newest(new_machine: Callable[..., Machine]) -> None:
    machine = new_machine(Config(limits=Limits(audit_entries=2)))
    machine.guest("payments", HSM)
    assert [entry.event for entry in machine.firmware.audit_log()] == ["start guest", "attach"]


def test_an_unforeseen_errors_text_is_not_recorded(machine: Machine) -> None:
    machine.guest("payments")
    machine.gates.fail(0, "mishap before")
    with pytest.raises(Mishap):
        machine.firmware.attach("payments", HSM)
    assert machine.firmware.audit_log()[-1].detail["reason"] == "Mishap"


# --- policies and plans


def test_a_policy_comes_back_as_it_was_written(machine: Machine) -> None:
    guest = machine.guest("payments")
    row = PolicyRow("zahlungen.yaml", "# für Zahlungen\n" + policy("payments-signing").text)
    machine.firmware.set_policy(guest.id, row)
    assert machine.firmware.get_policy(guest.id) == row
    machine.again()
    assert machine.firmware.get_policy(guest.id) == row


def test_a_policy_with_mistakes_is_refused_with_all_of_them_and_the_old_one_stays(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    before = machine.picture()
    with pytest.raises(Malformed) as caught:
        machine.firmware.set_policy(
            guest.id, PolicyRow("bad.yaml", "version: 1\nasociations: []\nnevr: []\n")
        )
    assert len(caught.value.findings) >= 2
    assert all(finding.startswith("bad.yaml:") for finding in caught.value.findings)
    assert machine.picture() == before


def test_associations_that_a_new_policy_forbids_end_at_once_and_others_stay(machine: Machine) -> None:
    guest = machine.ready("payments", HSM, SPARE)
    machine.firmware.set_policy(guest.id, policy("payments-signing", hsm="{serial: 93AADFK719460099}"))
    assert [machine.state(guest, apqn) for apqn in (HSM, SPARE)] == ["unbound", "associated"]
    machine.require_agreement()
    assert not any("SPARE" in told for told in machine.gates.told)
    machine.firmware.bind(guest.id, HSM)
    machine.firmware.set_policy(guest.id, policy("another"))
    assert [machine.state(guest, apqn) for apqn in (HSM, SPARE)] == ["bound", "unbound"], (
        "bound needs no rule"
    )


def test_a_plan_is_done_in_its_order(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    machine.firmware.attach("payments", SPARE)
    machine.firmware.attach("payments", ACCELERATOR)
    steps = (
        step("unbind", HSM),
        step("bind", SPARE),
        step("associate", SPARE, SIGNING),
        step("bind", ACCELERATOR),
    )
    row = policy("payments-signing", hsm="{serial: 93AADFK719460099}")
    views = machine.firmware.apply_plan(guest.id, row, steps)
    assert [view.state for view in views] == ["unbound", "associated", "bound"]
    assert machine.firmware.get_policy(guest.id) == row
    machine.require_agreement()


def test_a_plan_cannot_do_what_its_own_policy_forbids(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    machine.firmware.attach("payments", SPARE)
    before = machine.picture()
    with pytest.raises(ApError) as caught:
        machine.firmware.apply_plan(
            guest.id, policy("another"), [step("bind", SPARE), step("associate", SPARE, SIGNING)]
        )
    assert caught.value.code is ApCode.NOT_PERMITTED
    assert machine.picture() == before
    machine.require_agreement()


BAD_STEPS = {
    "bound already": step("bind", HSM),
    "of another guest": step("bind", LEDGER),
    "not attached": step("unbind", Apqn(0xFE, 0)),
    "cca": step("bind", CCA),
    "unknown secret": step("associate", SPARE, OTHER),
    "bind with a secret": step("bind", SPARE, SIGNING),
    "associate without": step("associate", SPARE),
    "another word": step("erase", SPARE),
}


@pytest.mark.parametrize("bad", BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_plan_with_one_bad_step_changes_nothing(machine: Machine, bad: PlanStep) -> None:
    other = machine.guest("billing", LEDGER)
    machine.firmware.bind(other.id, LEDGER)
    guest = machine.guest("payments", HSM, SPARE, LEDGER, CCA, ACCELERATOR, secrets=("payments-signing",))
    machine.firmware.bind(guest.id, HSM)
    before = machine.picture()
    steps = [
        step("bind", ACCELERATOR),
        step("associate", HSM, SIGNING),
        *([step("bind", SPARE)] if bad.apqn == SPARE else []),
        bad,
        step("unbind", ACCELERATOR),
    ]
    with pytest.raises(Refused):
        machine.firmware.apply_plan(guest.id, policy("payments-signing", "another"), steps)
    assert machine.picture() == before
    machine.require_agreement()


def test_a_plan_whose_partition_does_not_open_changes_nothing(machine: Machine) -> None:
    guest = machine.guest("payments", HSM, SPARE, secrets=("payments-signing",))
    before = machine.picture()
    machine.gates.unusable.add(str(SPARE))
    steps = [
        step("bind", HSM),
        step("associate", HSM, SIGNING),
        step("bind", SPARE),
        step("associate", SPARE, SIGNING),
    ]
    with pytest.raises(ApError) as caught:
        machine.firmware.apply_plan(guest.id, policy("payments-signing"), steps)
    assert caught.value.code is ApCode.ASSOCIATION_FAILED
    assert machine.picture() == before
    machine.require_agreement()


# --- crashes and mishaps between any two steps


def _plan(machine: Machine, guest: Instance) -> None:
    steps = [
        step("unbind", HSM),
        step("bind", SPARE),
        step("associate", SPARE, SIGNING),
        step("bind", ACCELERATOR),
    ]
    machine.firmware.apply_plan(guest.id, policy("payments-signing", hsm="{serial: 93AADFK719460099}"), steps)


COMMANDS: dict[str, Callable[[Machine, Instance], object]] = {
    "plan": _plan,
    "bind": lambda machine, guest: machine.firmware.bind(guest.id, SPARE),
    "unbind": lambda machine, guest: machine.firmware.unbind(guest.id, HSM),
    "associate": lambda machine, guest: machine.firmware.associate(guest.id, LEDGER, SIGNING),
    "set policy": lambda machine, guest: machine.firmware.set_policy(guest.id, policy("another")),
    "detach": lambda machine, guest: machine.firmware.detach("payments", HSM),
    "attach": lambda machine, guest: machine.firmware.attach("payments", CCA),
    "stop": lambda machine, guest: machine.firmware.donations.destroy_guest(handle(machine, "payments")),
    "start": lambda machine, guest: machine.firmware.booting.start(handle(machine, "billing")),
    "halt": lambda machine, guest: machine.firmware.booting.halt(handle(machine, "payments")),
}


def handle(machine: Machine, name: str) -> int:
    return machine.configuration(name).row.handle


def _prepared(machine: Machine) -> Instance:
    """One HSM associated, one bound, two unbound; the guest can be destroyed, another one can be started."""
    machine.start("billing")
    machine.firmware.booting.halt(handle(machine, "billing"))
    guest = machine.ready("payments", HSM)
    for cpu in machine.configuration("payments").known.cpus:
        machine.firmware.donations.destroy_cpu(cpu.handle)
    for apqn in (SPARE, LEDGER, ACCELERATOR):
        machine.firmware.attach("payments", apqn)
    machine.firmware.bind(guest.id, LEDGER)
    return guest


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_crash_or_a_mishap_between_any_two_steps_leaves_old_or_new(
    new_machine: Callable[..., Machine], command: Callable[[Machine, Instance], object], how: str
) -> None:
    """Every effect on a gate is a point to fail at; `after` says how many of them went well before."""
    after = 0
    while True:
        machine = new_machine()
        guest = _prepared(machine)
        before = machine.rows()
        machine.gates.fail(after, how)
        try:
            command(machine, guest)
        except Crash:
            machine.again()
            assert machine.rows() == before
        except Mishap:
            assert machine.rows() == before
        else:
            assert not machine.gates.failed, "the failure was passed over"
            assert after > 0, "no effect on a gate at all"
            assert machine.rows() != before
            machine.gates.fail(1000, how)
            machine.require_agreement()
            machine.again()
            machine.require_agreement()
            return
        machine.require_agreement()
        machine.again()
        machine.require_agreement()
        assert machine.rows() == before
        after += 1


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_commit_that_fails_leaves_the_old_state_in_gates_and_memory_too(
    machine: Machine, command: Callable[[Machine, Instance], object]
) -> None:
    """As when the disk is full. Everything was done to the gates by then."""
    guest = _prepared(machine)
    before = machine.picture()
    engine = machine.database._engine
    fails = [True]

    def commit(_connection: object) -> None:
        if fails.pop() if fails else False:
            raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(engine, "commit", commit)
    with pytest.raises(OperationalError):
        command(machine, guest)
    event.remove(engine, "commit", commit)
    assert machine.picture() == before
    machine.require_agreement()
    command(machine, guest)
    machine.require_agreement()


def test_a_store_changes_only_when_the_commit_says_so(machine: Machine) -> None:
    guest = machine.guest("payments", secrets=("payments-signing",))
    before = machine.picture()
    with machine.database._engine.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END")
        )
    commands: list[Callable[[], object]] = [
        lambda: machine.firmware.add_secret(guest.id, machine.request(guest, "another")),
        lambda: machine.firmware.lock_secrets(guest.id),
    ]
    for command in commands:
        with pytest.raises(Exception, match="full"):
            command()
        assert machine.picture() == before
    assert any("the audit log cannot be written" in line for line in machine.log.lines)


def test_an_effect_that_cannot_be_undone_leaves_less_never_more(machine: Machine) -> None:
    guest = _prepared(machine)
    machine.gates.unusable.add(str(HSM))  # what is unbound now cannot be associated again
    machine.gates.fail(3, "mishap after")  # the unbind is the last effect
    with pytest.raises(Mishap):
        _plan(machine, guest)
    assert machine.gates.grants["payments"][str(HSM)] == "bound"
    assert any("could not be undone" in line for line in machine.log.lines)
    machine.gates.unusable.clear()
    machine.again()
    machine.require_agreement()


def test_a_guest_that_was_halted_has_what_it_had_when_it_runs_again(machine: Machine) -> None:
    """As when its doors could not be made, and the host attached an HSM meanwhile."""
    guest = _prepared(machine)
    before = {str(apqn): machine.state(guest, apqn) for apqn in (HSM, SPARE, LEDGER, ACCELERATOR)}
    machine.firmware.booting.halt(handle(machine, "payments"))
    with pytest.raises(NotFound):
        machine.firmware.list_hsms(guest.id)
    other = machine.guest("third", HSM)
    with pytest.raises(ApError):
        machine.firmware.bind(other.id, HSM)
    cpu = CpuOffer(0, machine.host.memory.allocate("cpu", PAGE, PAGE, LOWCORE), PAGE)
    machine.firmware.donations.create_cpu(handle(machine, "payments"), cpu)
    machine.firmware.booting.start(handle(machine, "payments"))
    assert {apqn: machine.state(guest, Apqn.parse(apqn)) for apqn in before} == before
    machine.require_agreement()


# --- restart


def test_a_restart_makes_everything_again_and_opens_no_partition_yet(machine: Machine) -> None:
    guest = _prepared(machine)
    before = machine.picture()
    machine.firmware.close()
    assert machine.gates.grants == {}
    machine.again()
    assert machine.picture() == before
    assert machine.gates.waited == {str(HSM): False}
    assert machine.firmware.unbind(guest.id, HSM).state == "unbound"


def _cards(**changed: object) -> Config:
    """Card 03 with other values."""
    first, *rest = DEFAULT_CARDS
    return Config(cards=(dataclasses.replace(first, **changed), *rest))  # type: ignore[arg-type]


OFFLINE = tuple(dataclasses.replace(domain, online=False) for domain in DEFAULT_CARDS[0].domains)


@pytest.mark.parametrize(
    ("config", "left"),
    [
        (Config(cards=DEFAULT_CARDS[1:]), {"05.0011": "unbound", "07.0000": "unbound"}),
        (
            _cards(domains=OFFLINE),
            {"03.0011": "unbound", "03.0012": "unbound", "05.0011": "unbound", "07.0000": "unbound"},
        ),
        (
            _cards(serial="93AADFK719460000"),
            {"03.0011": "unbound", "03.0012": "bound", "05.0011": "unbound", "07.0000": "unbound"},
        ),
    ],
    ids=["gone", "offline", "another serial"],
)
def test_what_the_cards_no_longer_allow_is_ended_at_a_restart(
    machine: Machine, config: Config, left: dict[str, str]
) -> None:
    guest = _prepared(machine)
    machine.firmware.set_policy(guest.id, policy("payments-signing", hsm="{serial: 93AADFK719460083}"))
    machine.again(config)
    assert {str(view.data.apqn): view.state.value for view in machine.firmware.list_hsms(guest.id)} == left
    machine.require_agreement()
    ended = [entry for entry in machine.firmware.audit_log() if "why" in entry.detail]
    assert {entry.detail["apqn"] for entry in ended} >= {"03.0011"}
    machine.again()
    machine.require_agreement()


def test_a_policy_that_is_not_read_any_more_allows_nothing(machine: Machine) -> None:
    guest = machine.ready("payments", HSM)
    with machine.database.transaction() as records:
        records.put_policy(guest.id, PolicyRow("old.yaml", "version: 0"))
    machine.again()
    assert machine.state(guest, HSM) == "unbound"
    assert any("not read any more" in line for line in machine.log.lines)
