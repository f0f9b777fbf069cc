"""Personalization with the real daemon and command: the example as its README has it, hosts that lie, crashes, secrecy."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyvisor_guest import Guest, Refused
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.host_key_documents import unverified_host_key
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind

from .conftest import HSM, PROGRAMS, Ran, World, worlds
from .secrecy import forms, nowhere
from .users import User, generic_image, listed, personalize, start

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "configs/personalization/tls-service/README.md").read_text(encoding="utf-8")
COMMANDS = [line[4:] for line in README.splitlines() if line.startswith("    ")]

WAIT_FOR_DOOR = 'until [ -S "$KEYVISOR_STATE/run/host.sock" ]; do kill -0 %1 || exit 9; sleep 0.1; done'
WAIT_FOR_PORT = (
    "until (exec 3<>/dev/tcp/localhost/{port}) 2>/dev/null; do kill -0 %2 || exit 9; sleep 0.1; done"
)

# A client that trusts the user's certificate, and one that trusts the machine's authorities only.
CLIENT = """
import socket, ssl, sys
def ask(context):
    with context.wrap_socket(socket.create_connection(("localhost", int(sys.argv[1]))), server_hostname="localhost") as line:
        line.sendall(b"two orders\\n")
        return line.version(), line.makefile("rb").readline().decode()
print(*ask(ssl.create_default_context(cafile="tls.crt")))
try:
    ask(ssl.create_default_context())
except ssl.SSLCertVerificationError:
    print("a stranger does not trust it")
"""


# --- the example


def test_the_example_does_what_its_readme_says(new_world: Callable[[], World]) -> None:
    """What a person does and a script does not: to wait until firmware and service are ready.

    The firmware's log goes to a file: its lines would come in the middle of others.
    """
    world = new_world()
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    (world.directory / "client.py").write_text(CLIENT, encoding="utf-8")
    lines = [
        "set -e -m",
        f'cd "{ROOT}"',
        f'export TMPDIR="{world.directory}"',
        "trap 'kill %2 %1; wait' EXIT",
    ]
    for command in COMMANDS:
        if command.startswith("export PATH="):
            command = f'export PATH="{PROGRAMS}:$PATH"'
        lines.append(command.replace("localhost:8443", f"localhost:{port}"))
        if command.startswith("cp "):
            lines.append(f"sed -i 's/8443/{port}/' guest/etc/keyvisor/description.yaml")
        elif command.startswith("keyvisor up &"):
            lines[-1] = f'keyvisor up 2> "{world.directory}/daemon.log" &'
            lines.append(WAIT_FOR_DOOR)
        elif command.endswith(" &"):
            lines.append(WAIT_FOR_PORT.format(port=port))
        elif "openssl s_client" in command:
            lines.append(f'"{sys.executable}" "{world.directory}/client.py" {port}')
    (world.directory / "script.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = world.run("bash", "script.sh").ok()

    assert "error: guest `service` is not open before its secret store is locked" in told
    assert f"\nserving on port {port}; receipts are signed by the HSM {HSM}\n" in told
    assert re.search(r"^an order [0-9a-f]{128}$", told, re.MULTILINE)
    assert re.search(r"^TLSv1.3 two orders [0-9a-f]{128}$", told, re.MULTILINE)
    assert "\na stranger does not trust it\n" in told
    assert told.count("- secret_store_hash") == 1
    (desk,) = world.directory.glob("tmp.*")
    key = load_pem_private_key((desk / "tls.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secrets = [key.private_numbers().private_value.to_bytes(32, "big")]
    secrets += [(desk / name).read_bytes() for name in ("hsm.secret", "extension", "arpk")]
    assert (desk / "guest/tls/server.crt").read_bytes() == (desk / "tls.crt").read_bytes()
    places = [world.state, world.directory / "daemon.log", desk / "guest", desk / "service.img"]
    nowhere(secrets, [*places, *desk.glob("*.request")], told)


# --- two instances of one image


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two guests of one image, each made its own user's with requests for this one instance."""
    with worlds() as make:
        world = make()
        world.up()
        generic_image(world)
        start(world, "one", "two")
        yield Pair(world)


class Pair:
    """The guests `one` and `two`, and what their users gave them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("one", "two")}
        self.requests = {}
        cuids = {guest["name"]: guest["cuid"] for guest in world.json("host", "list")["guests"]}
        for name, key in self.keys.items():
            user = User(world, name)
            self.requests[name] = user.two(f"the token of {name}".encode(), key, "--cuid-hex", cuids[name])
            personalize(world, name, user, *self.requests[name], contents=True).ok()

    def placed(self, guest: str, name: str) -> bytes:
        return (self.world.directory / guest / "etc" / name).read_bytes()

    def guest(self, name: str) -> Guest:
        return Guest(name, state=self.world.state)


def test_part3_T12_two_guests_of_one_image_have_secrets_of_their_own(pair: Pair) -> None:
    identities = [pair.guest(name).identity() for name in ("one", "two")]
    assert identities[0].header_tag == identities[1].header_tag
    assert identities[0].cuid != identities[1].cuid
    for name, key in pair.keys.items():
        assert pair.placed(name, "token") == f"the token of {name}".encode()
        signature = pair.guest(name).secrets.protected_key(pair.placed(name, "signer.pem")).sign(b"x")
        key.public_key().verify(signature, b"x", ec.ECDSA(hashes.SHA256()))
        assert listed(pair.world, name) == (2, True)
    assert pair.placed("one", "signer.pem") != pair.placed("two", "signer.pem")


def test_part3_T7_requests_for_one_instance_are_refused_in_another(pair: Pair) -> None:
    start(pair.world, "three")
    words = ("guest", "personalize", "--guest", "three", "--user-cert")
    told = pair.world.keyvisor(*words, "two.pub", *pair.requests["one"]).refused()
    assert "none of the requests was taken" in told  # the guest's gate: another user's
    told = pair.world.keyvisor(*words, "one.pub", *pair.requests["one"]).refused()
    assert told.count("another instance") >= len(pair.requests["one"])  # the firmware's
    assert listed(pair.world, "three") == (0, False)


def test_part3_T7_requests_are_refused_where_they_were_taken_already(pair: Pair) -> None:
    words = ("guest", "personalize", "--guest", "one", "--user-cert", "one.pub")
    assert "locked" in pair.world.keyvisor(*words, *pair.requests["one"]).refused()
    assert listed(pair.world, "one") == (2, True)


def test_part3_T8_the_document_of_a_key_is_good_in_its_own_instance_only(pair: Pair) -> None:
    start(pair.world, "late")
    user, key = User(pair.world, "late"), ec.generate_private_key(ec.SECP256R1())
    requests = user.two(b"late", key)
    personalize(pair.world, "late", user, *requests).ok()
    document = pair.placed("late", "signer.pem")
    signature = pair.guest("late").secrets.protected_key(document).sign(b"x")
    key.public_key().verify(signature, b"x", ec.ECDSA(hashes.SHA256()))

    pair.world.keyvisor("host", "stop", "late").ok()
    start(pair.world, "late")
    personalize(pair.world, "late", user, *requests).ok()
    assert pair.placed("late", "signer.pem") != document
    for guest in ("one", "two", "late"):
        with pytest.raises(Refused) as refused:
            pair.guest(guest).secrets.protected_key(document).sign(b"x")
        assert (refused.value.kind, refused.value.code) == ("key", 0x02)


# --- hosts that lie, and crashes


@pytest.fixture
def brought(world: World) -> tuple[World, User, list[str]]:
    """A world with the image, and what a host may bring of a user's: three requests, for any instance."""
    generic_image(world)
    user = User(world, "ann")
    requests = [*user.two(b"ann's token", ec.generate_private_key(ec.SECP256R1()))]
    return world, user, [*requests, user.make("flags", "meta", "--flags", "disable-dump")]


def test_part3_T13_a_host_that_withholds_swaps_in_reorders_or_duplicates(
    brought: tuple[World, User, list[str]],
) -> None:
    world, ann, (token, signer, flags) = brought
    eve = User(world, "eve")
    eves = eve.request("token", "plain", b"eve's token")
    tags = (world.directory / "ann.contents").read_text().split()

    start(world, "withheld", "swapped", "hers", "more", "reordered")
    told = personalize(world, "withheld", ann, token, flags, contents=True).refused()
    assert f"the request with the tag {tags[1]} did not come" in told
    assert listed(world, "withheld")[1] is False
    assert not list((world.directory / "withheld").iterdir())

    told = personalize(world, "swapped", ann, eves, signer, flags, contents=True).refused()
    assert f"the request with the tag {tags[0]} did not come" in told
    assert listed(world, "swapped") == (0, False)  # the firmware never saw hers, and none before all came

    assert "none of the requests was taken" in personalize(world, "hers", ann, eves).refused()
    assert listed(world, "hers") == (0, False)

    told = personalize(world, "more", ann, eves, token, token, signer, flags, contents=True).ok()
    assert f"{eves} is dropped: the signature does not hold" in told
    assert f"{token} is dropped: it is `{token}` once more" in told
    assert listed(world, "more") == (2, True)
    assert (world.directory / "more/etc/token").read_bytes() == b"ann's token"

    personalize(world, "reordered", ann, flags, signer, token, contents=True).ok()
    assert (world.directory / "reordered/etc/token").read_bytes() == b"ann's token"
    for guest, order in (("more", (token, signer, flags)), ("reordered", (flags, signer, token))):
        words = [word for request in order for word in ("--request", request)]
        attested(world, guest, *words).ok()
    wrong = [word for request in (token, signer, flags) for word in ("--request", request)]
    assert "not in the expected state" in attested(world, "reordered", *wrong).refused()


def attested(world: World, guest: str, *expected: str) -> Ran:
    create = (
        "owner",
        "attest",
        "create",
        "-k",
        "host-key.pem",
        "--no-verify",
        "-o",
        "question",
        "--arpk",
        "arpk",
        "-f",
    )
    world.keyvisor(*create, "--add-data", "secret-store-hash").ok()
    world.keyvisor("guest", "attest", "--guest", guest, "-i", "question", "-o", "answer").ok()
    words = ("owner", "attest", "verify", "-i", "answer", "--arpk", "arpk", "--identity", "service.identity")
    return world.keyvisor(*words, "--locked", *expected)


def test_a_crash_between_hand_over_and_lock_leaves_the_state_before(
    brought: tuple[World, User, list[str]],
) -> None:
    world, ann, (token, signer, flags) = brought
    eves = User(world, "eve").request("token", "plain", b"eve's token")
    start(world, "service")
    personalize(world, "service", ann, token, signer, contents=True).refused()
    assert listed(world, "service") == (0, False)
    world.keyvisor("guest", "secret", "add", "--guest", "service", token, signer).ok()
    before = world.json("guest", "secret", "list", "--guest", "service")
    assert (len(before["secrets"]), before["locked"]) == (2, False)
    world.restart(signal.SIGKILL)
    assert world.json("guest", "secret", "list", "--guest", "service") == before
    run = ("guest", "exec", "--guest", "service", "--", "echo", "it is open")
    assert "not open before its secret store is locked" in world.keyvisor(*run).refused()
    assert "0x" in world.keyvisor("guest", "secret", "add", "--guest", "service", "-f", eves).refused()

    personalize(world, "service", ann, flags).ok()
    world.restart(signal.SIGKILL)
    assert world.json("guest", "secret", "list", "--guest", "service") == {**before, "locked": True}
    assert "it is open" in world.keyvisor(*run).ok()
    document = (world.directory / "service/etc/signer.pem").read_bytes()
    assert Guest("service", state=world.state).secrets.protected_key(document).sign(b"x")


# --- secrecy


def test_the_scan_finds_a_secret_in_each_form(tmp_path: Path) -> None:
    secret = bytes(range(0x60, 0x80))
    for number, form in enumerate(forms(secret)):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/file").write_bytes(b"before it " + form + b" and behind")
        with pytest.raises(AssertionError):
            nowhere([secret], [tmp_path / f"{number}"])
        with pytest.raises(AssertionError):
            nowhere([secret], [Path(__file__)], form.decode())
    nowhere([secret], [Path(__file__)], "nothing")


def test_nothing_secret_of_a_personalization_is_anywhere_in_the_clear(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the state directory, the logs, the audit log, what the command said, or the process itself."""
    said: list[str] = []
    run = World.run

    def listening(self: World, *command: str | Path, seconds: float = 120) -> Ran:
        ran = run(self, *command, seconds=seconds)
        said.append(ran.told)
        return ran

    monkeypatch.setattr(World, "run", listening)
    generic_image(world, "--enable-cck-update", "--output-cck", "cck")
    start(world, "service")
    ann, key = User(world, "ann"), ec.generate_private_key(ec.SECP256R1())
    token, aes, association, cck = (os.urandom(32) for _ in range(4))
    requests = [
        *ann.two(token, key),
        ann.request("disk", "aes", aes),
        _association(world, ann, association),
        _new_cck(world, ann, cck),
    ]
    fresh = FreshKeys(ec.generate_private_key(ec.SECP521R1()), os.urandom(32), os.urandom(12))
    other = os.urandom(32)
    (world.directory / "own.request").write_bytes(_with_keys(world, fresh, other, ann.extension))
    world.keyvisor("guest", "secret", "add", "--guest", "service", "own.request").ok()
    world.restart(signal.SIGKILL)
    changed = bytearray((world.directory / requests[0]).read_bytes())
    changed[-1] ^= 1
    (world.directory / "changed.request").write_bytes(changed)
    personalize(world, "service", ann, "changed.request", *requests, contents=True).ok()

    retrieve = ("guest", "secret", "retrieve", "--guest", "service", "--inform")
    world.keyvisor(*retrieve, "name", "disk", "-o", "service/disk.pem").ok()
    world.keyvisor(*retrieve, "name", "hsm").refused()
    world.keyvisor("guest", "secret", "list", "--guest", "service").ok()
    for request in ("own.request", *requests):
        world.keyvisor("owner", "request", "show", request).ok()
        world.keyvisor("guest", "secret", "add", "--guest", "service", "-f", request).refused()
    secrets = Guest("service", state=world.state).secrets
    assert secrets.retrieve("signer").key().sign(b"x")
    assert secrets.retrieve("disk").key().encrypt(b"x", iv=bytes(12), mode="GCM")
    with pytest.raises(Refused):
        secrets.retrieve("signer").key().encrypt(b"x", iv=bytes(12), mode="GCM")
    audit = world.keyvisor("audit", "--json").ok()
    assert '"lock secrets"' in audit

    hidden = [
        key.private_numbers().private_value.to_bytes(32, "big"),
        fresh.customer_key.private_numbers().private_value.to_bytes(66, "big")[2:],
        *(aes, association, cck, other, fresh.request_key, ann.extension),
        (world.directory / "cck").read_bytes(),
    ]
    places = [world.state, world.directory / "daemon.log", world.directory / "service.img"]
    places += [world.directory / name for name in ("own.request", *requests)]
    assert world.daemon is not None
    places += [Path(f"/proc/{world.daemon.pid}/{name}") for name in ("cmdline", "environ")]
    nowhere([*hidden, token], places, *said)
    nowhere(hidden, [world.directory / "service"])
    world.down()
    nowhere([*hidden, token], [world.state, world.directory / "daemon.log"])


def _association(world: World, user: User, value: bytes) -> str:
    (world.directory / "value").write_bytes(value)
    return user.make("hsm", "association", "hsm", "--input-secret", "value")


def _new_cck(world: World, user: User, value: bytes) -> str:
    (world.directory / "value").write_bytes(value)
    return user.make("cck", "update-cck", "--secret", "value")


def _with_keys(world: World, fresh: FreshKeys, value: bytes, extension: bytes) -> bytes:
    """A request made with keys that the test knows."""
    told = Guest("service", state=world.state).identity()
    identity = BootIdentity(
        *(bytes.fromhex(text) for text in (told.pld, told.ald, told.tld, told.header_tag))
    )
    host_key = unverified_host_key((world.directory / "host-key.pem").read_bytes())
    draft = Draft(SecretKind.AES_256, identity, id_from_name("other"), value, extension)
    return build(draft, fresh, [host_key])
