"""The doors over real Unix sockets: their stories, their refusals, and who may come in."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import re
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.doors import server
from keyvisor_firmware.doors.application import application
from keyvisor_firmware.doors.bodies import LIMITS
from keyvisor_guest.errors import Refused, SdkError
from keyvisor_guest.state_directory import closed_mark
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.boot_identity import PAGE_LENGTH
from keyvisor_guest.wire.initrd import Entry, pack
from keyvisor_guest.wire.messages import (
    DOORS,
    MAX_IMAGE,
    Associate,
    HeldHsm,
    Route,
)
from keyvisor_guest.wire.se_image_layout import COMPONENTS_AT

from ...images import an_image
from ..machine import HSM, SIGNING, STARTED, Machine, policy
from ..offers import another_offer
from ..simulator import Call
from .conftest import House

POLICY = {"text": policy("payments-signing").text, "source": "p.yaml"}


@pytest.fixture
def guest(house: House) -> House:
    """The guest `payments` runs with one HSM attached."""
    house.start("payments")
    house.ask("host", "PUT", f"/guests/payments/hsms/{HSM}").ok()
    return house


def request(house: House, secret: str) -> dict[str, str]:
    instance = house.machine._instances()[0]
    return {"request": base64.b64encode(house.machine.request(instance, secret)).decode()}


# --- the stories


def test_the_hosts_story(house: House) -> None:
    started = house.start("payments").model_dump()
    assert (started["name"], started["attached"], len(started["cuid"])) == ("payments", [], 32)
    assert house.ask("host", "PUT", f"/guests/payments/hsms/{HSM}").ok() == {}
    (listed,) = house.ask("host", "GET", "/guests").ok()["guests"]
    assert listed == {**started, "attached": [str(HSM)]}
    assert house.ask("host", "GET", "/host-key").ok()["pem"].startswith("-----BEGIN CERTIFICATE-----\n")
    assert house.ask("host", "DELETE", f"/guests/payments/hsms/{HSM}").ok() == {}
    assert house.path("payments").exists()
    for cpu in started["cpu_handles"]:
        assert house.ask("host", "POST", "/uv/destroy-cpu", {"handle": cpu}).ok() == {}
    assert house.ask("host", "POST", "/uv/destroy-guest", {"handle": started["handle"]}).ok() == {}
    assert house.ask("host", "GET", "/guests").ok() == {"guests": []}
    assert not house.path("payments").parent.exists(), "a guest's doors vanish with it"


def test_the_guests_story(guest: House) -> None:
    identity = guest.ask("payments", "GET", "/identity").ok()
    assert {name: len(value) for name, value in identity.items()} == {
        "pld": 128,
        "ald": 128,
        "tld": 128,
        "header_tag": 32,
        "cuid": 32,
    }
    assert guest.ask("payments", "POST", "/secrets", request(guest, "payments-signing")).ok() == {}
    assert guest.ask("payments", "GET", "/secrets").ok() == {
        "secrets": [{"index": 0, "type": 2, "length": 32, "id": SIGNING.hex()}],
        "locked": False,
    }
    guest.ask("payments", "POST", "/secrets/lock").ok()
    assert guest.ask("payments", "POST", "/secrets/lock").problem(409).kind == "uv"
    assert guest.ask("payments", "GET", "/policy").problem(404).kind == "http"
    assert guest.ask("payments", "PUT", "/policy", POLICY).ok() == {}
    assert guest.ask("payments", "GET", "/policy").ok() == POLICY
    assert guest.ask("payments", "POST", f"/hsms/{HSM}/bind").ok()["state"] == "bound"
    associated = guest.ask("payments", "POST", f"/hsms/{HSM}/associate", {"secret": "payments-signing"}).ok()
    assert (associated["state"], associated["secret_id"]) == ("associated", SIGNING.hex())
    assert guest.ask("payments", "GET", "/hsms").ok() == {"hsms": [associated]}
    assert guest.ask("payments", "POST", f"/hsms/{HSM}/unbind").ok()["state"] == "unbound"
    plan = {
        "policy": POLICY,
        "steps": [
            {"action": "bind", "apqn": str(HSM)},
            {"action": "associate", "apqn": str(HSM), "secret_id": SIGNING.hex()},
        ],
    }
    (done,) = guest.ask("payments", "POST", "/plan", plan).ok()["hsms"]
    assert done == associated


def test_a_plan_says_what_it_was_made_from(guest: House) -> None:
    guest.ask("payments", "POST", "/secrets", request(guest, "payments-signing")).ok()
    plan = {"policy": POLICY, "steps": [{"action": "bind", "apqn": str(HSM)}]}
    was = {"apqn": str(HSM), "state": "unbound"}
    stale = guest.ask("payments", "POST", "/plan", {**plan, "seen": [{**was, "state": "failed"}]}).problem(
        409
    )
    assert (stale.kind, stale.code) == ("ap", 0x3D)
    assert "plan again" in stale.message
    blind = guest.ask("payments", "POST", "/plan", {**plan, "seen": []}).problem(422)
    assert str(HSM) in blind.message
    assert guest.ask("payments", "GET", "/policy").problem(404).kind == "http"
    (done,) = guest.ask("payments", "POST", "/plan", {**plan, "seen": [was]}).ok()["hsms"]
    assert done["state"] == "bound"
    associate = {"action": "associate", "apqn": str(HSM), "secret_id": SIGNING.hex()}
    bound = {**was, "state": "bound"}
    guest.ask("payments", "POST", "/plan", {**plan, "steps": [associate], "seen": [bound]}).ok()
    held = {**was, "state": "associated", "secret_id": SIGNING.hex()}
    guest.ask("payments", "POST", "/plan", {**plan, "steps": [], "seen": [held]}).ok()
    other = {**held, "secret_id": "00" * 32}
    assert (
        guest.ask("payments", "POST", "/plan", {**plan, "steps": [], "seen": [other]}).problem(409).code
        == 0x3D
    )


def test_the_longest_plan_that_its_message_takes_fits_the_body() -> None:
    longest = messages.ApplyPlan(
        policy=messages.PolicyText(text="\0" * messages.MAX_POLICY, source="\0" * 4096),
        steps=[messages.Step(action="associate", apqn="ff.00ff", secret_id="f" * 64)] * 1024,
        seen=[messages.Seen(apqn="ff.00ff", state="associated", secret_id="f" * 64)] * 1024,
    )
    assert len(longest.model_dump_json()) <= LIMITS[messages.ApplyPlan]


def test_mechanisms_are_told_by_name_and_number(guest: House) -> None:
    path = f"/hsms/{HSM}/mechanisms"
    refused = guest.ask("payments", "GET", path).problem(409)
    assert (refused.kind, refused.code) == ("ap", 0x0B)
    guest.ask("payments", "POST", f"/hsms/{HSM}/bind").ok()
    ecdsa, nameless = guest.ask("payments", "GET", path).ok()["mechanisms"]
    assert ecdsa == {
        "type": 0x1041,
        "name": "CKM_ECDSA",
        "min_key_size": 112,
        "max_key_size": 521,
        "flags": 0x2800,
        "allowed": True,
    }
    assert nameless["name"] == "0x80000123"


def test_refusals_are_told_with_what_is_missing(guest: House) -> None:
    guest.machine.gates.refused["payments"] = [
        Call("2026-02-03T12:00:00.000+00:00", str(HSM), "C_Sign", "CKR_TOKEN_NOT_PRESENT", "not bound")
    ]
    answer = guest.ask("payments", "GET", "/refusals").ok()
    (told,) = answer["refusals"]
    assert (told["call"], told["code"], told["reason"]) == ("C_Sign", "CKR_TOKEN_NOT_PRESENT", "not bound")
    assert "not bound" in told["missing"]
    assert answer["dropped"] == 0


def test_the_operators_story(guest: House) -> None:
    guest.ask("payments", "POST", f"/hsms/{HSM}/bind").ok()
    hsms = [HeldHsm(**one) for one in guest.ask("operator", "GET", "/hsms").ok()["hsms"]]
    assert [(hsm.apqn, hsm.holder, hsm.state) for hsm in hsms if hsm.holder] == [
        (str(HSM), "payments", "bound")
    ]
    assert sum(hsm.mkvp is not None for hsm in hsms) == 4
    events = [entry["event"] for entry in guest.ask("operator", "GET", "/audit").ok()["entries"]]
    assert events == ["restore", *STARTED, "attach", "bind"]


# --- the walls between the doors


def test_the_host_is_told_no_secret_no_policy_no_master_key(guest: House) -> None:
    guest.ask("payments", "POST", "/secrets", request(guest, "payments-signing")).ok()
    guest.ask("payments", "PUT", "/policy", POLICY).ok()
    guest.ask("payments", "POST", f"/hsms/{HSM}/bind").ok()
    guest.ask("payments", "POST", f"/hsms/{HSM}/associate", {"secret": "payments-signing"}).ok()
    said = b"".join(
        guest.ask("host", method, path).text
        for method, path in (
            ("GET", "/guests"),
            ("GET", "/hsms"),
            ("GET", "/host-key"),
            ("PUT", f"/guests/payments/hsms/{HSM}"),
            ("DELETE", f"/guests/nobody/hsms/{HSM}"),
            ("GET", "/storage"),
            ("GET", "/audit"),
            ("GET", "/secrets"),
            ("GET", "/policy"),
            ("GET", "/refusals"),
        )
    )
    mkvp = next(v.data.mkvp for v in guest.machine.firmware.held_hsms() if v.data.apqn == HSM)
    assert mkvp is not None
    for told in (SIGNING.hex(), mkvp.hex(), "payments-signing", "associated", 'bound"'):
        assert told.encode() not in said.replace(b"unbound", b""), told


def test_a_guests_door_serves_its_guest_only(guest: House) -> None:
    guest.start("billing")
    assert guest.ask("billing", "GET", "/hsms").ok() == {"hsms": []}
    own = guest.ask("billing", "GET", "/identity").ok()
    assert own["cuid"] != guest.ask("payments", "GET", "/identity").ok()["cuid"]
    for tried in ("/identity?guest=payments", "/identity?name=payments"):
        assert guest.ask("billing", "GET", tried).ok() == own
    assert guest.ask("billing", "POST", f"/hsms/{HSM}/bind").problem(409).code == 0x01
    assert guest.ask("billing", "GET", "/guests/payments").problem(404).kind == "http"


@pytest.mark.parametrize(("door", "other"), [(a, b) for a in DOORS for b in DOORS if a != b])
def test_no_door_serves_what_only_another_has(guest: House, door: str, other: str) -> None:
    own = {(route.method, route.path) for route in DOORS[door]}
    for route in DOORS[other]:
        if (route.method, route.path) not in own:
            path = route.path.format(name="payments", apqn=HSM, index=0)
            place = "payments" if door == "guest" else door
            assert guest.ask(place, route.method, path).status in (404, 405), path


# --- refusals


def test_refusals_carry_their_numbering(guest: House) -> None:
    problem = guest.ask("payments", "POST", f"/hsms/{HSM}/unbind").problem(409)
    assert (problem.kind, problem.code) == ("ap", 0x0B)
    rubbish = {"request": base64.b64encode(b"rubbish").decode()}
    problem = guest.ask("payments", "POST", "/secrets", rubbish).problem(409)
    assert problem.kind == "uv"
    assert problem.code in range(0x0101, 0x010E)
    problem = guest.ask("host", "POST", "/uv/create-guest", offer(guest, "payments")).problem(409)
    assert (problem.kind, problem.code) == ("http", 409)
    problem = guest.ask("host", "POST", "/uv/create-guest", {**offer(guest, "b"), "sca": 0}).problem(409)
    assert (problem.kind, problem.code) == ("uv", 0x810C)
    assert problem.handle == guest.machine.configuration("b").row.handle
    zone = guest.machine.holdings.zone
    assert zone is not None
    read = {"address": zone.start, "length": 1}
    problem = guest.ask("host", "POST", "/memory/read", read).problem(409)
    assert (problem.kind, problem.code) == ("program", 0x3D)
    for method, path in (
        ("DELETE", f"/guests/nobody/hsms/{HSM}"),
        ("PUT", f"/guests/nobody/hsms/{HSM}"),
        ("PUT", "/guests/payments/hsms/ff.00ff"),
        ("DELETE", "/guests/payments/hsms/ff.00ff"),
    ):
        assert guest.ask("host", method, path).problem(404).code == 404


@pytest.mark.parametrize(
    ("path", "body", "findings"),
    [
        ("/policy", {"text": "version: 1", "sauce": "p"}, ["sauce"]),
        ("/policy", {"text": 1, "source": 2}, ["text", "source"]),
        ("/policy", {"source": "p"}, ["text"]),
        ("/policy", b"{", ["body"]),
        ("/policy", b"", ["body"]),
        ("/policy", b"[]", ["body"]),
        (
            "/policy",
            {"text": "version: 1\nassociation: []\nnever_mind: 1\n", "source": "my.yaml"},
            ["my.yaml"],
        ),
        ("/plan", {"policy": POLICY, "steps": [{"action": "erase", "apqn": str(HSM)}]}, ["steps.0.action"]),
        ("/plan", {"policy": POLICY, "steps": [{"action": "bind", "apqn": "3.11"}]}, ["steps.0.apqn"]),
        ("/plan", {"policy": POLICY, "steps": [{"action": "bind", "apqn": str(HSM)}] * 1025}, ["steps"]),
    ],
)
def test_a_malformed_body_is_refused_with_every_finding(
    guest: House, path: str, body: object, findings: list[str]
) -> None:
    problem = guest.ask("payments", "POST" if path == "/plan" else "PUT", path, body).problem(422)
    assert problem.kind == "http"
    for finding in findings:
        assert any(found.startswith(finding) for found in problem.findings), problem


@pytest.mark.parametrize("body", [{}, {"secret": "a", "secret_id": "00" * 32}])
def test_a_secret_is_named_in_exactly_one_way(guest: House, body: object) -> None:
    assert "exactly one" in guest.ask("payments", "POST", f"/hsms/{HSM}/associate", body).problem(422).message


def test_what_came_is_not_repeated(guest: House) -> None:
    body = {"request": 5, "secret-value-in-the-wrong-place": "hunter2"}
    assert b"hunter2" not in guest.ask("payments", "POST", "/secrets", body).text
    assert not any("hunter2" in line for line in guest.machine.log.lines)


def offer(house: House, name: str) -> dict[str, object]:
    """What a host offers for a guest; the firmware is initialised."""
    if not house.host.storage().initialised:
        house.host.init()
    return {"name": name, **dataclasses.asdict(another_offer(house.machine))}


@pytest.mark.parametrize("name", ["Payments", "-x", "x" * 32, "..", "%2e%2e", "a%2Fb", "a%0A", "%00"])
def test_what_names_no_guest_is_refused(house: House, name: str) -> None:
    told = {**offer(house, "payments"), "name": name}
    assert house.ask("host", "POST", "/uv/create-guest", told).problem(422).findings
    assert house.ask("host", "PUT", f"/guests/{name}/hsms/{HSM}").status in (404, 422)
    assert house.ask("host", "GET", "/guests").ok() == {"guests": []}
    assert house.machine.gates.told == []


def test_what_names_no_hsm_is_refused(guest: House) -> None:
    for apqn in ("3.11", "03.11", "03.0011.", "zz.0011", "03.ffff"):
        assert guest.ask("host", "PUT", f"/guests/payments/hsms/{apqn}").problem(422).kind == "http"


def test_unknown_paths_and_methods_are_problems_too(house: House) -> None:
    assert "openapi.json" in house.ask("host", "GET", "/nothing").problem(404).message
    assert house.ask("host", "POST", "/guests").problem(405).code == 405
    assert house.ask("host", "GET", "/guests/").problem(404).code == 404


# --- bounds


def test_bodies_are_bounded(guest: House) -> None:
    limit = LIMITS[Associate]
    too_much = b'{"secret": "' + b"x" * limit + b'"}'
    assert guest.ask("payments", "POST", f"/hsms/{HSM}/associate", too_much).problem(413).code == 413
    assert guest.ask("payments", "POST", f"/hsms/{HSM}/bind", b"{}").problem(413).code == 413
    assert guest.ask("payments", "GET", "/hsms").ok()["hsms"][0]["state"] == "unbound"


def test_every_message_that_a_route_takes_has_a_limit() -> None:
    assert set(LIMITS) == {
        route.body for routes in DOORS.values() for route in routes if route.body is not None
    }


def test_the_largest_image_is_taken_and_one_byte_more_is_not(house: House) -> None:
    kernel = MAX_IMAGE - COMPONENTS_AT - PAGE_LENGTH  # stage 3b has a page
    largest = an_image(house.machine.host_key.private, kernel=bytes(kernel)).data
    assert len(largest) == MAX_IMAGE
    house.start("a", largest)
    (guest,) = house.host.guests()
    assert (guest.name, guest.state) == ("a", "running")
    with pytest.raises(SdkError, match=f"longer than the {MAX_IMAGE}"):
        house.start("b", largest + b"\x00")


def test_a_refused_image_has_its_code_and_leaves_nothing(house: House) -> None:
    good = house.machine.image("payments")
    for name, bad, code in (
        ("changed", good[:-1] + bytes([good[-1] ^ 1]), 0x010A),
        ("foreign", an_image(ec.generate_private_key(ec.SECP521R1())).data, 0x0108),
    ):
        with pytest.raises(Refused) as refused:
            house.start(name, bad)
        assert (refused.value.kind, refused.value.code) == ("uv", code)
        assert not house.path(name).parent.exists()
    assert house.ask("host", "GET", "/guests").ok() == {"guests": []}
    assert [line.use for line in house.host.storage().held] == ["zone base"]


def test_a_guest_whose_doors_cannot_be_made_does_not_run(house: House) -> None:
    """It can be started once they can be."""
    in_the_way = house.path("payments").parent
    in_the_way.parent.mkdir(mode=0o700, parents=True)
    in_the_way.touch()
    with pytest.raises(Refused) as refused:
        house.start("payments")
    assert (refused.value.kind, refused.value.code) == ("http", 500)
    assert house.ask("host", "GET", "/guests").ok() == {"guests": []}
    assert house.machine.gates.grants == {}
    house.machine.require_agreement()

    handle = house.machine.start_until("start_guest", "payments")
    house.ask("host", "POST", "/uv/start", {"handle": handle}).problem(500)
    (halted,) = house.ask("host", "GET", "/guests").ok()["guests"]
    assert (halted["state"], halted["started"]) == ("verified", "")
    house.machine.require_agreement()
    in_the_way.unlink()
    assert house.ask("host", "POST", "/uv/start", {"handle": handle}).ok()["state"] == "running"
    assert house.ask("payments", "GET", "/hsms").ok() == {"hsms": []}


def test_connections_are_bounded(house: House) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(server.MAX_CONNECTIONS):
            channel = held.enter_context(socket.socket(socket.AF_UNIX))
            channel.connect(str(house.path("host")))
        over = held.enter_context(socket.socket(socket.AF_UNIX))
        over.settimeout(30)
        over.connect(str(house.path("host")))
        with contextlib.suppress(ConnectionError):
            assert over.recv(1) == b"", "one more is closed without a word"
    assert house.ask("operator", "GET", "/audit").status == 200


def test_a_guest_whose_doors_would_have_too_long_paths_is_not_started(
    new_house: Callable[[str], House],
) -> None:
    house = new_house("s")
    longest = 107 - len(str(house.state / "run" / "guests")) - len("//pkcs11.sock")
    padding = longest - 10
    house = new_house("s" * (padding + 1))
    with pytest.raises(Refused, match="shorter"):
        house.start("g" * 31)
    assert house.ask("host", "GET", "/guests").ok() == {"guests": []}
    house.start("g")


# --- who may come in


def test_sockets_and_their_directories_are_private(guest: House) -> None:
    for door in ("host", "operator", "payments"):
        path = guest.path(door)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_another_user_is_turned_away_before_a_byte_is_read(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's uid is the kernel's word; here the kernel is made to say another one."""
    real = socket.socket.getsockopt

    def strange(channel: socket.socket, level: int, option: int, *size: int) -> int | bytes:
        if option == socket.SO_PEERCRED:
            return struct.pack("=iII", os.getpid(), os.geteuid() + 4242, os.getegid())
        return real(channel, level, option, *size)

    monkeypatch.setattr("asyncio.trsock.TransportSocket.getsockopt", strange)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(30)
        channel.connect(str(house.path("host")))
        with contextlib.suppress(ConnectionError):
            channel.sendall(b"PUT /guests/intruder HTTP/1.1\r\nHost: x\r\n\r\n")
            assert channel.recv(1) == b""
    monkeypatch.undo()
    assert house.ask("host", "GET", "/guests").ok() == {"guests": []}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_is_turned_away(house: House) -> None:
    """The sockets' modes are opened for it, so that nothing but the check stands in its way."""
    path = house.path("host")
    for place in (path, *path.parents[: len(path.parents) - len(house.state.parents) + 1]):
        place.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-I", "-c", _STRANGER, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "closed without a word\n"), done.stderr
    assert house.ask("host", "GET", "/guests").status == 200, "its own user is served as before"


# It becomes another user only once it runs: an interpreter in root's home could not be started by one.
_STRANGER = """
import os, socket, sys
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
channel = socket.socket(socket.AF_UNIX)
channel.settimeout(30)
channel.connect(sys.argv[1])
try:
    channel.sendall(b"GET /guests HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    answer = channel.recv(1)
except ConnectionError:
    answer = b""
print("closed without a word" if not answer else "served")
"""


# --- completeness


@pytest.mark.parametrize("door", DOORS)
def test_every_row_of_the_tables_is_described(guest: House, door: str) -> None:
    described = guest.ask("payments" if door == "guest" else door, "GET", "/openapi.json").ok()
    assert described["openapi"].startswith("3.1")
    rows = {(route.path, route.method.lower()): route for route in DOORS[door]}
    assert {(path, method) for path, item in described["paths"].items() for method in item} == set(rows)
    schemas = described["components"]["schemas"]
    for (path, method), route in rows.items():
        operation = described["paths"][path][method]
        assert operation["operationId"] == route.name
        assert [one["name"] for one in operation["parameters"]] == re.findall(r"{(\w+)}", path)
        assert ("requestBody" in operation) == (route.body is not None)
    text = guest.ask("payments" if door == "guest" else door, "GET", "/openapi.json").text.decode()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert named == set(schemas), "every reference leads somewhere, and nothing is there for nobody"


def test_a_route_without_a_handler_is_noticed_when_the_door_is_made(machine: Machine) -> None:
    stray = Route("GET", "/stray", "stray", "nobody serves this", None, HeldHsm)
    with pytest.raises(AttributeError, match="stray"):
        application("host", (stray,), object(), machine.log)


def test_an_internal_error_says_nothing(guest: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("the master key is hunter2")

    monkeypatch.setattr(guest.machine.firmware, "list_guests", broken)
    problem = guest.ask("host", "GET", "/guests").problem(500)
    assert "hunter2" not in problem.message
    assert any("internal error" in line for line in guest.machine.log.lines)


def test_part3_T6_a_guest_that_opens_after_the_lock_is_marked_until_then(house: House) -> None:
    """Its own programs look for the mark; the firmware binds nothing, whoever took the mark away."""
    tree = [
        Entry("etc/keyvisor/guest.yaml", stat.S_IFREG | 0o444, b"version: 1\naccess: after-lock\n"),
    ]
    closed = an_image(house.machine.host_key.private, ramdisk=pack(tree)).data
    house.start("payments", closed)
    house.ask("host", "PUT", f"/guests/payments/hsms/{HSM}").ok()
    mark = closed_mark(house.state, "payments")
    assert mark.exists()
    refused = house.ask("payments", "POST", f"/hsms/{HSM}/bind").problem(409)
    assert (refused.kind, refused.code) == ("ap", 0x3E)
    house.ask("payments", "POST", "/secrets/lock").ok()
    assert not mark.exists()
    house.ask("payments", "POST", f"/hsms/{HSM}/bind").ok()


def test_a_mark_that_was_left_behind_closes_no_guest(house: House) -> None:
    """As a daemon leaves it that ends between the lock and the mark."""
    mark = closed_mark(house.state, "payments")
    mark.parent.mkdir(mode=0o700, parents=True)
    mark.touch()
    house.start("payments")
    assert not mark.exists()
