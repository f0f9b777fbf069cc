"""A plan applied as one, as a guest and its applications see it: daemons that die, partitions that break, races."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.conftest import ACCELERATOR, HSM, PROGRAMS, SPARE, World

from keyvisor_guest import Guest, Host
from keyvisor_guest.errors import DoorBroken, NotRunning, Refused, SdkError
from keyvisor_guest.planning import AppliedPlan
from keyvisor_guest.wire.messages import Done, PolicyText

OTHER_KEY = "03.0012"  # another domain of HSM's card, with another master key
SERIALS = {HSM: "93AADFK719460083", SPARE: "93AADFK719460099"}
KEYPAIRGEN = ("--login", "--keypairgen", "--key-type", "rsa:2048", "--label", "kept", "--id", "07")
NEVER = 10**6
ROUNDS = 12
SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "keyvisor.yaml"

# Makes a key, then signs with it once for each line that comes, and says how that went.
SIGNER = """
import sys
import pkcs11
from keyvisor_guest import Guest

session = Guest().pkcs11().get_token(token_label=sys.argv[1]).open(rw=True, user_pin=pkcs11.PROTECTED_AUTH)
_, key = session.generate_keypair(pkcs11.KeyType.RSA, 2048)
print("ready", flush=True)
for line in sys.stdin:
    try:
        key.sign(b"pay 42", mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS)
        print("signed", flush=True)
    except pkcs11.PKCS11Error as error:
        print(type(error).__name__, flush=True)
"""


def policy(world: World, serving: str, *, accelerator: bool = False) -> str:
    """`payments-signing` on one HSM with the shared master key; and an accelerator, if wanted."""
    more = "  - {name: tls, hsm: {mode: accel}}\n" if accelerator else ""
    return (
        "version: 1\nassociations:\n"
        f"  - {{name: payments-signing, hsm: {{mode: ep11, mkvp: 0x{world.mkvp()}, serial: {SERIALS[serving]}}}}}\n"
        + more
    )


def guest(world: World, name: str = "payments") -> Guest:
    return Guest(name, state=world.state)


def states(world: World, name: str = "payments") -> dict[str, str]:
    return {hsm.apqn: hsm.state for hsm in guest(world, name).hsms()}


def text(world: World) -> str:
    """The registered policy."""
    registered = guest(world).policy
    assert registered is not None
    return registered.text


def applied(world: World) -> int:
    """How many plans the audit log says were done."""
    entries = world.json("audit")["entries"]
    return sum(
        1
        for one in entries
        if one["event"] == "apply plan" and one["guest"] == "payments" and one["detail"]["outcome"] == "done"
    )


@contextlib.contextmanager
def signer(world: World, token: str) -> Iterator[Callable[[], str]]:
    """A program in the guest with a session and a key of its own; each call has it sign once."""
    (world.directory / "signer.py").write_text(SIGNER, encoding="utf-8")
    words = ("keyvisor", "guest", "exec", "--guest", "payments", "--", str(PROGRAMS / "python"), "signer.py")
    with subprocess.Popen(
        [*words, token],
        cwd=world.directory,
        env=world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        stdin, stdout = program.stdin, program.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == "ready\n"

        def sign() -> str:
            stdin.write("\n")
            stdin.flush()
            return stdout.readline().strip()

        yield sign
        stdin.close()
        program.wait(timeout=60)


@pytest.fixture
def ready(world: World) -> World:
    """`payments` has its secret on HSM, and two HSMs and an accelerator besides."""
    return _ready(world)


def _ready(world: World) -> World:
    world.guest("payments", HSM, SPARE, OTHER_KEY, ACCELERATOR)
    world.add_secret("payments", "payments-signing")
    guest(world).apply(policy(world, HSM))
    return world


# --- a daemon that dies


def begin_dying(world: World, number: int, *how: str) -> Path:
    """Start a daemon that dies at that point (dying_daemon.py); the file of the points that it passes."""
    points = world.directory / "points"
    points.unlink(missing_ok=True)
    program = Path(__file__).with_name("dying_daemon.py")
    with (world.directory / "daemon.log").open("a") as log:
        world.daemon = subprocess.Popen(
            [sys.executable, str(program), str(world.state), str(number), str(points), *how],
            env=world.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert world.daemon.stdout is not None
    assert "ready" in world.daemon.stdout.readline(), world.log()
    return points


def gone(world: World) -> int:
    """The exit code of a daemon that ended by itself."""
    assert world.daemon is not None
    code = world.daemon.wait(timeout=60)
    assert world.daemon.stdout is not None
    world.daemon.stdout.close()
    world.daemon = None
    return code


OLD = {HSM: "associated", SPARE: "unbound", OTHER_KEY: "unbound", ACCELERATOR: "unbound"}
NEW = {HSM: "unbound", SPARE: "associated", OTHER_KEY: "unbound", ACCELERATOR: "bound"}


def require_whole(world: World, old: str, new: str, before: int) -> bool:
    """The state is the old one or the new one, for everybody who looks; whether it is the new one."""
    now, count = states(world), applied(world)
    assert now in (OLD, NEW)
    is_new = now == NEW
    assert text(world) == (new if is_new else old)
    assert count == before + is_new
    with_keys, without = (SPARE, HSM) if is_new else (HSM, SPARE)
    assert "kept" in world.tool("payments", "--login", "-O", token=with_keys).ok()
    assert "kept" not in world.tool("payments", "--login", "-O", token=without).told
    operators = {one["apqn"]: one["state"] for one in world.json("hsm", "list")["hsms"]}
    assert {apqn: operators[apqn] for apqn in now} == now
    return is_new


@pytest.mark.timeout(900)
def test_a_daemon_that_is_killed_at_any_point_of_a_plan_leaves_the_old_state_or_the_new(
    ready: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every point; its gates are killed with it at every other one, and notice by themselves at the rest."""
    ready.tool("payments", *KEYPAIRGEN).ok()
    old, new = policy(ready, HSM), policy(ready, SPARE, accelerator=True)
    ready.down()
    points = begin_dying(ready, NEVER)
    before = applied(ready)
    guest(ready).apply(new)
    names = points.read_text().splitlines()
    assert require_whole(ready, old, new, before), "the whole plan, without a death"
    outcomes = {}
    for number, name in enumerate(names):
        guest(ready).apply(old, unbind=True)
        assert states(ready) == OLD
        before = applied(ready)
        ready.down()
        begin_dying(ready, number, *(["gates"] if number % 2 else []))
        with pytest.raises((DoorBroken, NotRunning)):
            guest(ready).apply(new)
        assert gone(ready) == -signal.SIGKILL
        assert points.read_text().splitlines() == names[: number + 1]
        ready.up()
        outcomes[name] = require_whole(ready, old, new, before)
    with capsys.disabled():
        news = sum(outcomes.values())
        print(f"\n  {len(names)} points: {len(names) - news} left the old state, {news} the new one")
    # Not only one of the two: the new state is there from the commit on, and not before.
    assert [outcomes[name] for name in names] == [
        names.index(name) >= names.index("committed") for name in names
    ]


def test_a_daemon_without_transactions_is_found_out_where_it_dies(ready: World) -> None:
    """The broken twin: what it wrote until then stays, and that is neither the old state nor the new one."""
    ready.tool("payments", *KEYPAIRGEN).ok()
    old, new = policy(ready, HSM), policy(ready, SPARE, accelerator=True)
    before = applied(ready)
    ready.down()
    points = begin_dying(ready, 2, "twin")
    with pytest.raises(DoorBroken):
        guest(ready).apply(new)
    assert gone(ready) == -signal.SIGKILL
    assert points.read_text().splitlines()[-1] == "policy registered"
    ready.up()
    with pytest.raises(AssertionError):
        require_whole(ready, old, new, before)


# --- what goes on meanwhile


def test_what_is_kept_signs_on_through_an_apply_in_the_same_session(ready: World) -> None:
    with signer(ready, HSM) as sign:
        assert sign() == "signed"
        (gate,) = ready.gates("payments")
        both = policy(ready, HSM) + (
            f"  - {{name: spare, secret: payments-signing, hsm: {{serial: {SERIALS[SPARE]}}}}}\n"
            "  - {name: tls, hsm: {mode: accel}}\n"
        )
        plan = guest(ready).apply(both)
        assert isinstance(plan, AppliedPlan)
        assert {step.apqn for step in plan.steps} == {SPARE, ACCELERATOR}
        assert sign() == "signed"
        guest(ready).apply(policy(ready, HSM), unbind=True)
        assert states(ready) == OLD
        assert sign() == "signed"
        assert ready.gates("payments") == [gate]
        # The broken twin: what is not kept does not sign on.
        guest(ready).unbind(HSM)
        guest(ready).apply(policy(ready, HSM))
        assert sign() != "signed"


def test_a_partition_that_does_not_open_leaves_even_the_sessions_that_were_to_end(ready: World) -> None:
    """HSM is to be given up for an HSM whose key partition is damaged: nothing of the plan is done."""
    elsewhere = policy(ready, HSM).replace(ready.mkvp(HSM), ready.mkvp(OTHER_KEY))
    partitions = ready.state / "partitions"
    known = set(partitions.iterdir())
    guest(ready).apply(elsewhere, unbind=True)
    (made,) = set(partitions.iterdir()) - known
    guest(ready).apply(policy(ready, HSM), unbind=True)
    assert states(ready) == OLD
    ready.restart()
    shutil.rmtree(made / "tokens")
    with signer(ready, HSM) as sign:
        assert sign() == "signed"
        (ready.directory / "elsewhere.yaml").write_text(elsewhere, encoding="utf-8")
        told = ready.keyvisor("guest", "apply", "--guest", "payments", "--unbind", "elsewhere.yaml").refused()
        assert f"at the step `associate {OTHER_KEY}`" in told
        assert "nothing of the plan is done" in told
        assert states(ready) == OLD
        assert text(ready) == policy(ready, HSM)
        assert sign() == "signed"


# --- races


def at_once(*calls: Callable[[], Any]) -> list[BaseException | None]:
    """Make these calls at the same time; what each raised."""
    raised: list[BaseException | None] = [None] * len(calls)
    together = threading.Barrier(len(calls))

    def make(number: int) -> None:
        together.wait()
        try:
            calls[number]()
        except BaseException as error:
            raised[number] = error

    threads = [threading.Thread(target=make, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_of_two_applies_at_once_the_later_one_wins_whole(ready: World) -> None:
    """Each plans again where the other one came between; the state is that of the policy that is registered."""
    wanted = {policy(ready, HSM): OLD, policy(ready, SPARE, accelerator=True): NEW}
    for _ in range(ROUNDS):
        raised = at_once(*(partial(guest(ready).apply, one, unbind=True) for one in wanted))
        assert raised == [None, None]
        assert states(ready) == wanted[text(ready)]


def test_an_apply_and_a_change_of_policy_at_once(ready: World) -> None:
    """Whichever comes last, no association stands that the registered policy does not allow."""
    old, new = policy(ready, HSM), policy(ready, SPARE, accelerator=True)
    set_old = PolicyText(text=old, source="policy")
    for _ in range(ROUNDS):
        raised = at_once(
            lambda: guest(ready).apply(new, unbind=True),
            lambda: guest(ready)._door.call("set_policy", Done, set_old),
        )
        assert raised == [None, None]
        now = states(ready)
        if text(ready) == new:
            assert now == NEW
        else:
            # The policy came last, and ended what it does not allow; what is only bound needs no rule.
            assert now == {**NEW, SPARE: "unbound"}
        guest(ready).apply(old, unbind=True)
        assert states(ready) == OLD


def test_an_apply_and_single_steps_at_once(ready: World) -> None:
    """An unbind either comes before the plan, which is made again, or after it: the plan is never half there."""
    new = policy(ready, SPARE, accelerator=True)
    for _ in range(ROUNDS):
        raised = at_once(
            lambda: guest(ready).apply(new, unbind=True), lambda: guest(ready).unbind(ACCELERATOR)
        )
        assert raised[0] is None
        assert raised[1] is None or isinstance(raised[1], Refused)
        assert states(ready) == (NEW if raised[1] else {**NEW, ACCELERATOR: "unbound"})
        guest(ready).apply(policy(ready, HSM), unbind=True)


def test_two_guests_that_want_one_hsm_apply_at_once(ready: World) -> None:
    """One gets it; the other one has nothing of its plan."""
    ready.guest("billing", SPARE, "05.0012")
    ready.add_secret("billing", "payments-signing")
    guest(ready).apply("version: 1\nassociations: []\n", unbind=True)
    wanted = policy(ready, SPARE)
    doors = [guest(ready, name) for name in ("payments", "billing")]
    for _ in range(ROUNDS):
        raised = at_once(*(partial(one.apply, wanted) for one in doors))
        assert sorted(error is None for error in raised) == [False, True], raised
        (loser,) = [error for error in raised if error is not None]
        assert isinstance(loser, Refused)
        assert "held by another guest" in str(loser)
        won, lost = ("payments", "billing") if raised[0] is None else ("billing", "payments")
        assert states(ready, won)[SPARE] == "associated"
        assert set(states(ready, lost).values()) == {"unbound"}
        guest(ready, won).unbind(SPARE)


def test_a_guest_that_is_stopped_or_loses_an_hsm_while_it_applies(ready: World) -> None:
    host = Host(state=ready.state)
    new = policy(ready, SPARE, accelerator=True)
    for _ in range(ROUNDS):
        raised = at_once(
            lambda: guest(ready).apply(new, unbind=True), lambda: host.detach("payments", ACCELERATOR)
        )
        assert raised[1] is None
        assert ACCELERATOR not in states(ready)
        if raised[0] is None:
            assert states(ready) == {apqn: state for apqn, state in NEW.items() if apqn != ACCELERATOR}
        else:
            assert isinstance(raised[0], SdkError)  # the accelerator's rule is unmet
            assert states(ready) == {apqn: state for apqn, state in OLD.items() if apqn != ACCELERATOR}
        host.attach("payments", ACCELERATOR)
        guest(ready).apply(policy(ready, HSM), unbind=True)
    raised = at_once(lambda: guest(ready).apply(new, unbind=True), lambda: host.stop("payments"))
    assert raised[1] is None
    assert raised[0] is None or isinstance(raised[0], SdkError)
    held = {one["apqn"]: one["holder"] for one in ready.json("hsm", "list")["hsms"]}
    assert set(held.values()) == {None}


def test_an_hsm_that_goes_offline_is_not_in_a_plan(new_world: Callable[[], World]) -> None:
    """The operator takes it away between two lives of the daemon; what was planned before is not done after."""
    world = new_world()
    world.up()
    _ready(world)
    doors = guest(world)
    before = doors.hsms()
    config = world.directory / "offline.yaml"
    shipped = SHIPPED.read_text(encoding="utf-8")
    online = '{number: "0011", master_key: payments-mk, online: true}'
    config.write_text(shipped.replace(online, online.replace("true", "false"), 1), encoding="utf-8")
    world.down()
    world.up(config)
    assert {hsm.apqn: hsm.online for hsm in doors.hsms()}[HSM] is False
    assert states(world)[HSM] == "unbound"
    doors.hsms = iter([before, doors.hsms()]).__next__  # type: ignore[method-assign]
    with pytest.raises(SdkError, match="offline"):
        doors.apply(policy(world, HSM))
    assert set(states(world).values()) == {"unbound"}
