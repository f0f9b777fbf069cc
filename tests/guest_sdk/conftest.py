"""A firmware with a story, behind real Unix sockets: what the clients and the command are tested against.

The machine has three HSMs. The guest `payments` runs and holds two of them and one secret; `lab` runs and holds
none. It serves exactly the table of routes, in memory, and refuses as the firmware does.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.wire import messages
from keyvisor_guest.wire.messages import GUEST_ROUTES, HOST_ROUTES, Message, Problem, Route

SECRET_ID = hashlib.sha256(b"payments-signing").hexdigest()
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"


class Refusal(Exception):
    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.message)
        self.status = status
        self.problem = problem


def refuse(status: int, kind: Any, code: int, message: str, findings: tuple[str, ...] = ()) -> Refusal:
    return Refusal(status, Problem(kind=kind, code=code, message=message, findings=list(findings)))


def an_hsm(apqn: str, **changed: object) -> messages.Hsm:
    hsm = messages.Hsm(
        apqn=apqn,
        state="unbound",
        mode="ep11",
        generation="CEX8",
        serial="93AADFK719460083",
        mkvp=MKVP,
        firmware="8.0",
        api=4,
        compliance=["fips2021"],
        online=True,
    )
    return hsm.model_copy(update=changed)


@dataclass
class Story:
    """What the firmware knows, and what it was asked (`asked` are the routes' names, in order)."""

    hsms: dict[str, messages.Hsm]
    guests: dict[str, messages.Guest]
    secrets: list[messages.Secret]
    mechanisms: dict[str, list[messages.Mechanism]] = field(default_factory=dict)
    locked: bool = False
    policy: messages.PolicyText | None = None
    images: dict[str, bytes] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    values: dict[int, bytes] = field(default_factory=dict)
    uses: list[messages.UseProtectedKey] = field(default_factory=list)
    attested: list[messages.Attest] = field(default_factory=list)
    plans: list[messages.ApplyPlan] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answer_with: Callable[[BaseHTTPRequestHandler], None] | None = None


def a_mechanism(type_: int, name: str, *, allowed: bool = True) -> messages.Mechanism:
    return messages.Mechanism(
        type=type_, name=name, min_key_size=16, max_key_size=32, flags=0x300, allowed=allowed
    )


def a_story() -> Story:
    return Story(
        hsms={
            "03.0011": an_hsm("03.0011"),
            "04.0011": an_hsm("04.0011", serial="93AADFK719460084"),
            "05.0002": an_hsm("05.0002", mode="accel", mkvp=None, online=False),
        },
        guests={
            "payments": messages.Guest(
                name="payments",
                cuid="0f" * 16,
                attached=["03.0011", "04.0011"],
                started="2026-02-03T04:05:06Z",
            ),
            "lab": messages.Guest(name="lab", cuid="1e" * 16, attached=[], started="2026-02-03T04:05:07Z"),
        },
        secrets=[messages.Secret(index=0, type=2, length=32, id=SECRET_ID)],
        mechanisms={
            "03.0011": [
                a_mechanism(0x1041, "CKM_ECDSA"),
                a_mechanism(0x1082, "CKM_AES_CBC"),
                a_mechanism(0x1057, "CKM_EDDSA"),
            ],
            "04.0011": [a_mechanism(0x1041, "CKM_ECDSA", allowed=False)],
        },
    )


class HostDoor:
    """The host's routes, by name."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def list_guests(self) -> Message:
        return messages.GuestList(guests=list(self._story.guests.values()))

    def start_guest(self, body: messages.StartGuest, name: str) -> Message:
        if name in self._story.guests:
            raise refuse(409, "http", 409, f"guest `{name}` runs already: stop it first")
        self._story.images[name] = body.image
        guest = messages.Guest(name=name, cuid="2d" * 16, attached=[], started="2026-02-03T04:05:08Z")
        self._story.guests[name] = guest
        return guest

    def stop_guest(self, name: str) -> Message:
        self._guest(name)
        del self._story.guests[name]
        return messages.Done()

    def attach(self, name: str, apqn: str) -> Message:
        guest = self._guest(name)
        if apqn not in self._story.hsms:
            raise refuse(404, "http", 404, f"no HSM {apqn}")
        self._story.guests[name] = guest.model_copy(update={"attached": [*guest.attached, apqn]})
        return messages.Done()

    def detach(self, name: str, apqn: str) -> Message:
        guest = self._guest(name)
        left = [held for held in guest.attached if held != apqn]
        self._story.guests[name] = guest.model_copy(update={"attached": left})
        return messages.Done()

    def list_hsms(self) -> Message:
        return messages.HsmList(hsms=list(self._story.hsms.values()))

    def host_key(self) -> Message:
        return messages.HostKeyDocument(pem=PEM)

    def host_keys(self) -> Message:
        return messages.HostKeyDocuments(
            current=PEM,
            backup=PEM.replace("AAAA", "BBBB"),
            signing=PEM.replace("AAAA", "CCCC"),
            root=PEM.replace("AAAA", "DDDD"),
            revocations=PEM.replace("CERTIFICATE", "X509 CRL"),
            hashes=["0a" * 32, "0b" * 32, *["00" * 32] * 13],
        )

    def _guest(self, name: str) -> messages.Guest:
        if name not in self._story.guests:
            raise refuse(404, "http", 404, f"no guest `{name}`: `keyvisor host list` shows those there are")
        return self._story.guests[name]


class GuestDoor:
    """One guest's routes, by name."""

    def __init__(self, story: Story, name: str) -> None:
        self._story = story
        self._name = name

    def identity(self) -> Message:
        return messages.Identity(
            pld="aa" * 64, ald="bb" * 64, tld="cc" * 64, header_tag="dd" * 16, cuid="0f" * 16
        )

    def list_hsms(self) -> Message:
        return messages.HsmList(
            hsms=[self._story.hsms[apqn] for apqn in self._story.guests[self._name].attached]
        )

    def bind(self, apqn: str) -> Message:
        return self._change(apqn, state="bound")

    def unbind(self, apqn: str) -> Message:
        return self._change(apqn, state="unbound", secret_id=None)

    def associate(self, body: messages.Associate, apqn: str) -> Message:
        if self._story.hsms[apqn].state != "bound":
            raise refuse(409, "ap", 0x0C, f"HSM {apqn} is not bound: bind it first")
        secret_id = body.secret_id or hashlib.sha256((body.secret or "").encode()).hexdigest()
        if secret_id not in {secret.id for secret in self._story.secrets}:
            findings = ("secret not in the guest's store", "no rule of the policy allows it")
            raise refuse(409, "ap", 0x30, f"HSM {apqn} is not associated", findings)
        return self._change(apqn, state="associated", secret_id=secret_id)

    def mechanisms(self, apqn: str) -> Message:
        if self._story.hsms[apqn].state not in ("bound", "associated"):
            raise refuse(409, "ap", 0x0B, f"HSM {apqn} is not bound: bind it first")
        return messages.MechanismList(mechanisms=self._story.mechanisms[apqn])

    def list_secrets(self) -> Message:
        return messages.SecretList(secrets=self._story.secrets, locked=self._story.locked)

    def add_secret(self, body: messages.AddSecret) -> Message:
        if self._story.locked:
            raise refuse(409, "uv", 0x0102, "the secret store is locked until the guest stops")
        self._story.requests.append(body.request)
        return messages.Done()

    def lock_secrets(self) -> Message:
        self._story.locked = True
        return messages.Done()

    def retrieve_secret(self, index: str) -> Message:
        if int(index) not in self._story.values:
            raise refuse(409, "uv", 0x0110, "no secret has this index; look at the list (0x0110)")
        secret = next(each for each in self._story.secrets if each.index == int(index))
        return messages.RetrievedSecret(
            index=secret.index,
            type=secret.type,
            id=secret.id,
            value=base64.b64encode(self._story.values[secret.index]),
        )

    def use_protected_key(self, body: messages.UseProtectedKey) -> Message:
        """Answers with the data backwards, which no key does."""
        self._story.uses.append(body)
        if body.blob not in self._story.values.values():
            raise refuse(409, "key", 0x02, "the protected key is another guest's (protected key code 02)")
        return messages.UsedProtectedKey(data=base64.b64encode(body.data[::-1]))

    def get_policy(self) -> Message:
        if self._story.policy is None:
            raise refuse(404, "http", 404, "this guest has registered no policy")
        return self._story.policy

    def set_policy(self, body: messages.PolicyText) -> Message:
        self._story.policy = body
        return messages.Done()

    def apply_plan(self, body: messages.ApplyPlan) -> Message:
        self._story.policy = body.policy
        self._story.plans.append(body)
        for step in body.steps:
            state = {"bind": "bound", "unbind": "unbound", "associate": "associated"}[step.action]
            self._change(step.apqn, state=state, secret_id=step.secret_id)
        return self.list_hsms()

    def refusals(self) -> Message:
        refusal = messages.Refusal(
            at="2026-02-03T04:05:09Z",
            apqn="03.0011",
            call="C_GenerateKeyPair",
            code="CKR_USER_NOT_LOGGED_IN",
            reason="the HSM is bound, not associated",
            missing="a secret for 03.0011",
        )
        return messages.RefusalList(refusals=[refusal], dropped=3)

    def attest(self, body: messages.Attest) -> Message:
        if body.additional_length == 0:
            raise refuse(409, "attest", 0x010E, "the room for the additional data is too small")
        self._story.attested.append(body)
        return messages.AttestationAnswer(measurement="aa" * 64, additional="bb" * 32, cuid="0f" * 16)

    def _change(self, apqn: str, **changed: object) -> messages.Hsm:
        if apqn not in self._story.guests[self._name].attached:
            raise refuse(404, "ap", 0x01, f"no HSM {apqn} in this guest")
        self._story.hsms[apqn] = self._story.hsms[apqn].model_copy(update=changed)
        return self._story.hsms[apqn]


def _pattern(route: Route) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path))


def _handler(story: Story, door: object, routes: tuple[Route, ...]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            if story.answer_with is not None:
                story.answer_with(self)
                return
            for route in routes:
                found = _pattern(route).fullmatch(self.path)
                if found and route.method == self.command:
                    story.asked.append(route.name)
                    self._answer(route, found.groupdict())
                    return
            self.send_answer(404, Problem(kind="http", code=404, message=f"no route {self.path}"))

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def _answer(self, route: Route, parameters: dict[str, str]) -> None:
            arguments: dict[str, Any] = dict(parameters)
            if route.body is not None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                arguments["body"] = route.body.model_validate_json(text)
            try:
                self.send_answer(200, getattr(door, route.name)(**arguments))
            except Refusal as refusal:
                self.send_answer(refusal.status, refusal.problem)

        def send_answer(self, status: int, answer: Message) -> None:
            text = answer.model_dump_json().encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def address_string(self) -> str:
            return "a Unix socket"

        def log_message(self, *_: object) -> None: ...

    return Handler


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@dataclass
class Firmware:
    """The running simulator: its state directory and its story."""

    state: Path
    story: Story
    _servers: list[_Server] = field(default_factory=list)

    def open(self) -> None:
        run = self.state / "run"
        self._listen(run / "host.sock", HostDoor(self.story), HOST_ROUTES)
        for name in self.story.guests:
            self._listen(run / "guests" / name / "guest.sock", GuestDoor(self.story, name), GUEST_ROUTES)

    def _listen(self, path: Path, door: object, routes: tuple[Route, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        server = _Server(str(path), _handler(self.story, door, routes))
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop listening and leave the sockets lying, as a firmware that was killed does."""
        while self._servers:
            server = self._servers.pop()
            server.shutdown()
            server.server_close()


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory whose path is short enough for Unix sockets, and has what must be percent-encoded."""
    directory = Path(tempfile.mkdtemp(prefix="kv %;-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def firmware(state: Path) -> Iterator[Firmware]:
    running = Firmware(state, a_story())
    running.open()
    yield running
    running.close()


@pytest.fixture
def secret_request() -> bytes:
    """What an add-secret request is to a client: bytes that it does not read."""
    return base64.b64decode("AAECAwT//v38") + bytes(range(256))
