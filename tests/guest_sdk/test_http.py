"""One call through a door: answers that are taken, refusals that are handed on, and everything else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.errors import DoorBroken, DoorClosed, NotRunning, Refused
from keyvisor_guest.http import Door
from keyvisor_guest.state_directory import guest_socket, host_socket
from keyvisor_guest.wire import messages, storage_messages
from keyvisor_guest.wire.messages import GUEST_ROUTES, HOST_ROUTES

NOBODY = "nobody here: do something"


def host_door(state: Path, **limits: Any) -> Door:
    return Door(host_socket(state), HOST_ROUTES, nobody=NOBODY, **limits)


def raw(status: int, text: bytes, length: int | None = None) -> Any:
    """An answer of `text`, as whatever the handler is told, with a Content-Length that may lie."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text) if length is None else length))
        handler.end_headers()
        handler.wfile.write(text)

    return answer


def test_an_answer_is_the_routes_message(firmware: Any, state: Path) -> None:
    found = host_door(state).call("list_guests", messages.GuestList)
    assert [guest.name for guest in found.guests] == ["payments", "lab"]


def test_every_route_of_the_two_doors_is_served_and_read(firmware: Any, state: Path) -> None:
    """The table has no row that the client cannot call."""
    bodies: dict[type[messages.Message] | None, messages.Message | None] = {
        None: None,
        storage_messages.QueryStorage: storage_messages.QueryStorage(),
        storage_messages.InitStorage: storage_messages.InitStorage(origin=1 << 31, length=1 << 21),
        storage_messages.CreateGuest: storage_messages.CreateGuest(
            name="g",
            base=1 << 20,
            base_length=4096,
            virtual=1 << 20,
            virtual_length=4096,
            storage_length=1 << 20,
            asce=4096,
            sca=8192,
        ),
        storage_messages.CreateCpu: storage_messages.CreateCpu(
            handle=0xA1, number=1, storage=4096, storage_length=4096
        ),
        storage_messages.SetParameters: storage_messages.SetParameters(
            handle=0xA1, header=4096, header_length=640
        ),
        storage_messages.Unpack: storage_messages.Unpack(
            handle=0xA1, address=0, length=4096, tweak="0" * 16, offset=0
        ),
        storage_messages.ByHandle: storage_messages.ByHandle(handle=0xF1),
        storage_messages.ConvertPages: storage_messages.ConvertPages(handle=0xA1, address=0, length=4096),
        storage_messages.Allocate: storage_messages.Allocate(label="mine", length=4096),
        storage_messages.FreeFrames: storage_messages.FreeFrames(label="mine"),
        storage_messages.MapPages: storage_messages.MapPages(
            asce=4096, virtual=0, absolute=8192, length=4096
        ),
        storage_messages.UnmapPages: storage_messages.UnmapPages(asce=4096, virtual=0, length=4096),
        storage_messages.ReadStorage: storage_messages.ReadStorage(address=0, length=1),
        storage_messages.WriteHostStorage: storage_messages.WriteHostStorage(address=0, data=b"AAAA"),
        storage_messages.WriteStorage: storage_messages.WriteStorage(address=0, data=b"AAAA"),
        messages.Associate: messages.Associate(secret="payments-signing"),
        messages.AddSecret: messages.AddSecret(request=b"AAAA"),
        messages.PolicyText: messages.PolicyText(text="version: 1\n"),
        messages.ApplyPlan: messages.ApplyPlan(policy=messages.PolicyText(text="version: 1\n"), steps=[]),
        messages.UseProtectedKey: messages.UseProtectedKey(blob=b"AAAA", kind=4, operation="sign"),
        messages.Attest: messages.Attest(request=b"AAAA", user_data=b""),
    }
    values = {"name": "payments", "apqn": "03.0011", "index": "0"}
    for door, routes in (
        (host_door(state), HOST_ROUTES),
        (Door(guest_socket(state, "lab"), GUEST_ROUTES, nobody=NOBODY), GUEST_ROUTES),
    ):
        for route in routes:
            wanted = {key: value for key, value in values.items() if f"{{{key}}}" in route.path}
            with suppress(Refused):
                found = door.call(route.name, route.answer, bodies[route.body], **wanted)
                assert isinstance(found, route.answer)
    called = [route.name for route in (*HOST_ROUTES, *GUEST_ROUTES)]
    assert firmware.story.asked == called


def test_a_refusal_carries_kind_code_message_and_findings(firmware: Any, state: Path) -> None:
    door = Door(guest_socket(state, "payments"), GUEST_ROUTES, nobody=NOBODY)
    door.call("bind", messages.Hsm, apqn="03.0011")
    with pytest.raises(Refused) as refused:
        door.call("associate", messages.Hsm, messages.Associate(secret="unknown"), apqn="03.0011")
    assert (refused.value.kind, refused.value.code) == ("ap", 0x30)
    assert refused.value.findings == ("secret not in the guest's store", "no rule of the policy allows it")
    assert str(refused.value).splitlines()[0] == "HSM 03.0011 is not associated"
    assert len(str(refused.value).splitlines()) == 3


def test_a_call_that_is_not_in_the_table_is_a_mistake_of_the_program(firmware: Any, state: Path) -> None:
    with pytest.raises(TypeError):
        host_door(state).call("list_guests", messages.HsmList)
    with pytest.raises(TypeError):
        host_door(state).call("list_guests", messages.GuestList, messages.Done())
    with pytest.raises(TypeError):
        host_door(state).call("start_guest", messages.Guest, messages.Attest(request=b"", user_data=b""))
    assert firmware.story.asked == []


def test_a_parameter_stays_one_segment_of_the_path(firmware: Any, state: Path) -> None:
    with pytest.raises(Refused, match=r"no guest `payments%2Fhsms%2F03.0011`"):
        host_door(state).call("detach", messages.Done, name="payments/hsms/03.0011", apqn="03.0011")
    assert firmware.story.guests["payments"].attached == ["03.0011", "04.0011"]


def test_a_refusal_carries_the_handle_of_what_was_created_half(firmware: Any, state: Path) -> None:
    problem = messages.Problem(kind="uv", code=0x810D, message="half made", handle=0x1234)
    firmware.story.answer_with = raw(409, problem.model_dump_json().encode())
    with pytest.raises(Refused) as refused:
        host_door(state).call("list_guests", messages.GuestList)
    assert (refused.value.code, refused.value.handle) == (0x810D, 0x1234)


def test_no_socket_says_what_the_client_knows(state: Path) -> None:
    with pytest.raises(NotRunning, match=NOBODY):
        host_door(state).call("list_guests", messages.GuestList)


def test_a_socket_that_nobody_listens_at_says_how_to_start(firmware: Any, state: Path) -> None:
    firmware.close()
    with pytest.raises(NotRunning, match="keyvisor up"):
        host_door(state).call("list_guests", messages.GuestList)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_anothers_socket(firmware: Any, state: Path) -> None:
    host_socket(state).chmod(0)
    with pytest.raises(DoorClosed):
        host_door(state).call("list_guests", messages.GuestList)


def test_anothers_socket_is_said_so(firmware: Any, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("keyvisor_guest.http._UnixConnection.connect", refuse)
    with pytest.raises(DoorClosed, match="keyvisor up"):
        host_door(state).call("list_guests", messages.GuestList)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(raw(200, b"{}"), r"no GuestList \(guests: field required\)", id="not the message"),
        pytest.param(raw(200, b'{"guests":[],"more":1}'), "is no GuestList", id="more than the message"),
        pytest.param(raw(200, b'{"guests":[]} {}'), "is no GuestList", id="trailing bytes"),
        pytest.param(raw(200, b"\xff\xfe"), "is no GuestList", id="not text"),
        pytest.param(raw(200, b"", 0), "is no GuestList", id="nothing"),
        pytest.param(raw(200, b'{"guests":[]', 99), "broke off", id="shorter than said"),
        pytest.param(
            raw(500, b"Internal Server Error"), "HTTP 500 and no reason", id="failed without a reason"
        ),
        pytest.param(raw(302, b""), "HTTP 302 and no reason", id="led elsewhere"),
        pytest.param(lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"), "broke off", id="no HTTP"),
        pytest.param(lambda handler: None, "broke off", id="hung up"),
        pytest.param(
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
            "broke off",
            id="too many headers",
        ),
    ],
)
def test_what_is_no_answer_is_said_in_one_line(firmware: Any, state: Path, answer: Any, said: str) -> None:
    firmware.story.answer_with = answer
    with pytest.raises(DoorBroken, match=said) as broken:
        host_door(state).call("list_guests", messages.GuestList)
    assert len(str(broken.value).splitlines()) == 1


@pytest.mark.parametrize("surplus", [0, 1])
def test_an_answer_is_as_long_as_the_limit_and_no_longer(firmware: Any, state: Path, surplus: int) -> None:
    text = b'{"guests":[]}'
    firmware.story.answer_with = raw(200, text)
    door = host_door(state, max_answer=len(text) - surplus)
    if surplus:
        with pytest.raises(DoorBroken, match="longer than 12 bytes"):
            door.call("list_guests", messages.GuestList)
    else:
        assert door.call("list_guests", messages.GuestList).guests == []


@pytest.fixture
def silent(state: Path) -> Iterator[Path]:
    """A door that accepts and says nothing, until the test is over."""
    (state / "run").mkdir()
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host_socket(state)))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                over.wait()

        thread = threading.Thread(target=accept)
        thread.start()
        yield state
        over.set()
        thread.join()


def test_a_silent_door_is_given_up(silent: Path) -> None:
    with pytest.raises(DoorBroken, match=r"no answer from .* within 0.05 s"):
        host_door(silent, timeout=0.05).call("list_guests", messages.GuestList)


def test_an_answers_values_are_not_in_the_error(firmware: Any, state: Path) -> None:
    firmware.story.answer_with = raw(200, b'{"guests":"a value that is nobody else\'s"}')
    with pytest.raises(DoorBroken) as broken:
        host_door(state).call("list_guests", messages.GuestList)
    assert "nobody else" not in str(broken.value)
