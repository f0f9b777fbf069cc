"""A firmware with a story, behind real Unix sockets: what the clients and the command are tested against.

The machine has three HSMs and 1 TiB of storage. The guest `payments` runs and holds two HSMs and one secret; `lab` runs
and holds none. It serves exactly the table of routes, in memory, and refuses as the firmware does.
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

from keyvisor_guest.wire import messages, storage_messages
from keyvisor_guest.wire.errors import QueryTooShort
from keyvisor_guest.wire.messages import GUEST_ROUTES, HOST_ROUTES, Message, Problem, Route
from keyvisor_guest.wire.qui import encode_query

from .storage_story import NoRoom, StorageStory

SECRET_ID = hashlib.sha256(b"payments-signing").hexdigest()
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"


class Refusal(Exception):
    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.message)
        self.status = status
        self.problem = problem


def refuse(
    status: int,
    kind: Any,
    code: int,
    message: str,
    findings: tuple[str, ...] = (),
    handle: int | None = None,
) -> Refusal:
    return Refusal(
        status, Problem(kind=kind, code=code, message=message, findings=list(findings), handle=handle)
    )


def uv(code: int, message: str, handle: int | None = None) -> Refusal:
    return refuse(409, "uv", code, f"{message} ({code:#06x})", handle=handle)


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
    """What the firmware knows, and what it was asked (`asked` are the routes' names, in order).

    `before` is called with the name of a route and its body before it is served, and may raise a Refusal. `half`: the
    code with which guests are created half. `lost`: routes whose answers never arrive.
    """

    hsms: dict[str, messages.Hsm]
    guests: dict[str, messages.Guest]
    secrets: list[messages.Secret]
    mechanisms: dict[str, list[messages.Mechanism]] = field(default_factory=dict)
    locked: bool = False
    policy: messages.PolicyText | None = None
    storage: StorageStory = field(default_factory=StorageStory)
    guest_memory: bytearray = field(default_factory=lambda: bytearray(1 << 20))
    headers: dict[int, bytes] = field(default_factory=dict)
    unpacked: dict[int, list[storage_messages.Unpack]] = field(default_factory=dict)
    before: Callable[[str, Message | None], None] = lambda name, body: None
    half: int | None = None
    lost: set[str] = field(default_factory=set)
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


def a_guest(name: str, handle: int, **changed: object) -> messages.Guest:
    guest = messages.Guest(
        name=name,
        cuid="0f" * 16,
        attached=[],
        started="2026-02-03T04:05:06Z",
        handle=handle,
        state="running",
        cpus=[0, 1],
        cpu_handles=[handle << 8, handle << 8 | 1],
        storage_length=256 << 20,
        asce=handle << 12,
    )
    return guest.model_copy(update=changed)


def a_story() -> Story:
    return Story(
        hsms={
            "03.0011": an_hsm("03.0011"),
            "04.0011": an_hsm("04.0011", serial="93AADFK719460084"),
            "05.0002": an_hsm("05.0002", mode="accel", mkvp=None, online=False),
        },
        guests={
            "payments": a_guest("payments", 0xA1, attached=["03.0011", "04.0011"]),
            "lab": a_guest("lab", 0xA2, cuid="1e" * 16, started="2026-02-03T04:05:07Z"),
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
        self._storage = story.storage
        self._handles = iter(range(0x1000, 0x10000))

    def list_guests(self) -> Message:
        return messages.GuestList(guests=list(self._story.guests.values()))

    def query_storage(self, body: storage_messages.QueryStorage) -> Message:
        try:
            rc, block = encode_query(self._storage.query, body.length)
        except QueryTooShort as error:
            raise uv(0x0005, str(error)) from error
        return storage_messages.StorageBlock(rc=rc, block=base64.b64encode(block))

    def init_storage(self, body: storage_messages.InitStorage) -> Message:
        end = body.origin + body.length
        if self._storage.initialised:
            raise uv(0x0101, "the firmware is initialised already")
        if body.length != self._storage.query.zone_base or body.origin % (1 << 20) or body.origin < 1 << 31:
            raise uv(0x0103, "the zone's base storage cannot be used")
        if self._storage.is_secure(body.origin, end):
            raise uv(0x0184, "the storage is secure already")
        self._storage.take(body.origin, end, "firmware", "zone base", 0)
        self._storage.initialised = True
        return messages.Done()

    def create_guest(self, body: storage_messages.CreateGuest) -> Message:
        storage, query = self._storage, self._storage.query
        if not storage.initialised:
            raise uv(0x0003, "the firmware is not initialised")
        if body.name in self._story.guests:
            raise refuse(409, "http", 409, f"guest `{body.name}` is there already: stop it first")
        base = (body.base, body.base + body.base_length)
        variable = storage.translate(body.asce, body.virtual, body.virtual_length)
        wanted = (query.guest_base, query.guest_virtual(body.storage_length))
        if body.base % 0x4000 or body.base < 0x2000 or (body.base_length, body.virtual_length) != wanted:
            raise uv(0x0109, "the areas are not as the query wants them")
        if variable is None or body.virtual < body.storage_origin + body.storage_length or not body.sca:
            raise uv(0x0105, "the address space cannot be used")
        if storage.is_secure(*base):
            raise uv(0x0108, "the guest's base area cannot be used")
        if any(storage.is_secure(*piece) for piece in variable):
            raise uv(0x0190, "the guest's variable area cannot be used")
        handle = self._next()
        storage.take(*base, body.name, "guest base", handle)
        for piece in variable:
            storage.take(*piece, body.name, "guest variable", handle)
        self._story.guests[body.name] = a_guest(
            body.name,
            handle,
            cuid="2d" * 16,
            started="",
            state="created" if self._story.half is None else "unfinished",
            cpus=[],
            cpu_handles=[],
            storage_length=body.storage_length,
            asce=body.asce,
        )
        if self._story.half is not None:
            raise uv(0x8000 | self._story.half, "the guest is half made", handle=handle)
        return storage_messages.Created(handle=handle)

    def create_cpu(self, body: storage_messages.CreateCpu) -> Message:
        guest = self._by_handle(body.handle)
        end = body.storage + body.storage_length
        if body.storage_length != self._storage.query.cpu or self._storage.is_secure(body.storage, end):
            raise uv(0x0105, "the CPU's storage cannot be used")
        if body.number in guest.cpus:
            raise uv(0x0104, "the guest has a CPU with that number")
        handle = self._next()
        self._storage.take(body.storage, end, guest.name, "cpu", handle)
        self._change(guest, cpus=[*guest.cpus, body.number], cpu_handles=[*guest.cpu_handles, handle])
        return storage_messages.Created(handle=handle)

    def set_parameters(self, body: storage_messages.SetParameters) -> Message:
        guest = self._in_state(body.handle, "created")
        self._story.headers[guest.handle] = self._storage.read(body.header, body.header_length)
        self._change(guest, state="parameters")
        return messages.Done()

    def unpack(self, body: storage_messages.Unpack) -> Message:
        guest = self._in_state(body.handle, "parameters")
        for start, end in self._pages(guest, body.address, body.length):
            if self._storage.is_secure(start, end):
                raise uv(0x0184, "the page is secure already")
            self._storage.take(start, end, guest.name, "guest memory", guest.handle)
        self._story.unpacked.setdefault(guest.handle, []).append(body)
        return messages.Done()

    def verify(self, body: storage_messages.ByHandle) -> Message:
        self._change(self._in_state(body.handle, "parameters"), state="verified")
        return messages.Done()

    def start_guest(self, body: storage_messages.ByHandle) -> Message:
        guest = self._in_state(body.handle, "verified")
        if not guest.cpus:
            raise uv(0x0180, "the guest has no CPU")
        return self._change(guest, state="running", started="2026-02-03T04:05:08Z")

    def destroy_cpu(self, body: storage_messages.ByHandle) -> Message:
        for guest in self._story.guests.values():
            if body.handle in guest.cpu_handles:
                at = guest.cpu_handles.index(body.handle)
                cpus, handles = list(guest.cpus), list(guest.cpu_handles)
                del cpus[at], handles[at]
                self._storage.release(body.handle)
                self._change(guest, cpus=cpus, cpu_handles=handles)
                return messages.Done()
        raise uv(0x0021, "there is no CPU with that handle")

    def destroy_guest(self, body: storage_messages.ByHandle) -> Message:
        guest = self._by_handle(body.handle)
        if guest.cpus:
            raise uv(0x0190, "the guest has CPUs")
        self._storage.release(guest.handle)
        del self._story.guests[guest.name]
        return messages.Done()

    def export_pages(self, body: storage_messages.ConvertPages) -> Message:
        guest = self._by_handle(body.handle)
        for start, end in self._pages(guest, body.address, body.length):
            if not self._storage.is_secure(start, end):
                raise uv(0x0185, "the page is not in secure storage")
            self._storage.secure = [
                one for one in self._storage.secure if not start <= one.start < one.end <= end
            ]
        return messages.Done()

    def import_pages(self, body: storage_messages.ConvertPages) -> Message:
        guest = self._by_handle(body.handle)
        for start, end in self._pages(guest, body.address, body.length):
            if self._storage.is_secure(start, end):
                raise uv(0x0184, "the page is secure already")
            self._storage.take(start, end, guest.name, "guest memory", guest.handle)
        return messages.Done()

    def storage(self) -> Message:
        return self._storage.ledger()

    def allocate(self, body: storage_messages.Allocate) -> Message:
        try:
            absolute = self._storage.allocate(body.label, body.length, body.alignment, body.at_least)
        except NoRoom:
            raise refuse(409, "http", 409, f"no {body.length} bytes are free in one piece") from None
        return storage_messages.Allocated(absolute=absolute)

    def free(self, body: storage_messages.FreeFrames) -> Message:
        return self._storage.free(body.label)

    def map_pages(self, body: storage_messages.MapPages) -> Message:
        if body.label is not None and not self._storage.is_reserved(body.label, body.asce):
            raise refuse(409, "http", 409, f"address space {body.asce:#x} is not reserved under that label")
        self._storage.map(body.asce, body.virtual, body.absolute, body.length)
        return messages.Done()

    def unmap_pages(self, body: storage_messages.UnmapPages) -> Message:
        self._storage.unmap(body.asce, body.virtual, body.length)
        return messages.Done()

    def read_storage(self, body: storage_messages.ReadStorage) -> Message:
        self._require_host_access(body.address, body.length)
        return storage_messages.StorageContent(
            data=base64.b64encode(self._storage.read(body.address, body.length))
        )

    def write_storage(self, body: storage_messages.WriteHostStorage) -> Message:
        self._require_host_access(body.address, len(body.data))
        self._storage.write(body.address, body.data)
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

    def _next(self) -> int:
        return next(self._handles)

    def _require_host_access(self, address: int, length: int) -> None:
        if self._storage.is_secure(address, address + length):
            raise refuse(409, "program", 0x3D, f"storage at {address:#x} is secure")

    def _by_handle(self, handle: int) -> messages.Guest:
        for guest in self._story.guests.values():
            if guest.handle == handle:
                return guest
        raise uv(0x0020, "there is no guest with that handle")

    def _in_state(self, handle: int, state: str) -> messages.Guest:
        guest = self._by_handle(handle)
        if guest.state != state:
            raise uv(0x0180, f"the guest is {guest.state}, not {state}")
        return guest

    def _pages(self, guest: messages.Guest, address: int, length: int) -> list[tuple[int, int]]:
        found = self._storage.translate(guest.asce, address, length)
        if found is None or address + length > guest.storage_length or not length or length % 4096:
            raise uv(0x0032, "the address cannot be used")
        return found

    def _change(self, guest: messages.Guest, **changed: object) -> messages.Guest:
        self._story.guests[guest.name] = guest.model_copy(update=changed)
        return self._story.guests[guest.name]

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
        for seen in body.seen or ():
            if (now := self._story.hsms[seen.apqn].state) != seen.state:
                raise refuse(409, "ap", 0x3D, f"HSM {seen.apqn} is {now} now, not {seen.state}: plan again")
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
            state="bound",
            rule="payments (policy.yaml:3)",
            must_be="the HSM is associated",
            commands=["keyvisor guest associate --guest g 03.0011 --secret s"],
        )
        return messages.RefusalList(refusals=[refusal], dropped=3)

    def attest(self, body: messages.Attest) -> Message:
        if body.additional_length == 0:
            raise refuse(409, "attest", 0x010E, "the room for the additional data is too small")
        self._story.attested.append(body)
        return messages.AttestationAnswer(measurement="aa" * 64, additional="bb" * 32, cuid="0f" * 16)

    def read_storage(self, body: storage_messages.ReadStorage) -> Message:
        return storage_messages.StorageContent(data=base64.b64encode(self._memory(body.address, body.length)))

    def write_storage(self, body: storage_messages.WriteStorage) -> Message:
        self._memory(body.address, len(body.data))
        self._story.guest_memory[body.address : body.address + len(body.data)] = body.data
        return messages.Done()

    def _memory(self, address: int, length: int) -> bytes:
        """The guest has one secure MiB."""
        if address + length > 1 << 20:
            raise refuse(409, "program", 0x3E, "the page is not secure; the host has to import it")
        return bytes(self._story.guest_memory[address : address + length])

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
                story.before(route.name, arguments.get("body"))
                answer = getattr(door, route.name)(**arguments)
            except Refusal as refusal:
                self.send_answer(refusal.status, refusal.problem)
                return
            if route.name not in story.lost:
                self.send_answer(200, answer)

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
