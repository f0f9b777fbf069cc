"""Finding the stock client, and leading it to one guest's door: with the real client, in processes of their own."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.errors import ClientUnusable
from keyvisor_guest.state_directory import pkcs11_socket
from keyvisor_guest.stock_client import address, find

ROOT = Path(__file__).resolve().parents[2]


def client_at(root: Path, place: str) -> Path:
    file = root / place / "p11-kit-client.so"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_the_variable_wins(tmp_path: Path) -> None:
    given_one = client_at(tmp_path, "mine")
    client_at(tmp_path, "usr/lib64/pkcs11")
    assert find({"KEYVISOR_PKCS11_MODULE": str(given_one)}, tmp_path) == given_one
    with pytest.raises(ClientUnusable, match="unset KEYVISOR_PKCS11_MODULE"):
        find({"KEYVISOR_PKCS11_MODULE": str(tmp_path / "nothing")}, tmp_path)


@pytest.mark.parametrize("place", ["usr/lib/s390x-linux-gnu/pkcs11", "usr/lib64/pkcs11", "usr/lib/pkcs11"])
def test_every_distributions_place_is_looked_at(tmp_path: Path, place: str) -> None:
    there = client_at(tmp_path, place)
    assert find({}, tmp_path) == there


def test_this_machines_architecture_comes_first(tmp_path: Path) -> None:
    for architecture in ("aaa", os.uname().machine, "zzz"):
        client_at(tmp_path, f"usr/lib/{architecture}-linux-gnu/pkcs11")
    assert find({}, tmp_path).parent.parent.name == f"{os.uname().machine}-linux-gnu"


def test_without_one_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ClientUnusable, match="install the package `p11-kit-modules`"):
        find({}, tmp_path)


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1))
def test_an_address_is_plain_and_reads_back(path: str) -> None:
    """The client decodes percent signs and ends an address at a `;`."""
    text = address(Path("/") / path)
    assert text.isascii()
    assert not set(text) & set(" ;\n\t%|") - {"%"}
    assert unquote(text.removeprefix("unix:path=")) == str(Path("/") / path)


try:
    CLIENT = find({})
    NO_CLIENT = ""
except ClientUnusable as missing:
    NO_CLIENT = str(missing)
needs_client = pytest.mark.skipif(bool(NO_CLIENT), reason=NO_CLIENT)
needs_remote = pytest.mark.skipif(shutil.which("p11-kit") is None, reason="no p11-kit to serve a module with")


class Remote(socketserver.BaseRequestHandler):
    """Serves p11-kit's own trust module, as its peer server does: one `p11-kit remote` per connection."""

    def handle(self) -> None:
        module = CLIENT.parent / "p11-kit-trust.so"
        if not module.exists():
            module = CLIENT
        subprocess.run(
            ["p11-kit", "remote", str(module)], stdin=self.request, stdout=self.request, check=False
        )


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def doors(firmware: Any) -> Iterator[Path]:
    servers = []
    for name in firmware.story.guests:
        path = pkcs11_socket(firmware.state, name)
        servers.append(Server(str(path), Remote))
        threading.Thread(
            target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
    yield firmware.state
    for server in servers:
        server.shutdown()
        server.server_close()


def run(code: str, state: Path, **environ: str) -> str:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("KEYVISOR_", "P11_KIT_"))
    }
    path = os.pathsep.join([str(ROOT / "guest-sdk"), str(ROOT / "policy")])
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, pkcs11\nfrom keyvisor_guest import ClientUnusable, Guest\n" + code,
        ],
        env={**kept, "PYTHONPATH": path, "KEYVISOR_STATE": str(state), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == ""
    return ended.stdout


SECOND_GUEST = """
try:
    Guest("lab").pkcs11()
except ClientUnusable as error:
    print(error)
"""


@needs_client
@needs_remote
def test_pkcs11_is_led_to_the_guests_door_and_leaves_the_environment_alone(doors: Path) -> None:
    code = """
os.environ["P11_KIT_SERVER_ADDRESS"] = "unix:path=/somebody/else"
first = Guest("payments").pkcs11()
assert first is Guest("payments").pkcs11()
print(len(first.get_slots()) > 0, os.environ["P11_KIT_SERVER_ADDRESS"])
del os.environ["P11_KIT_SERVER_ADDRESS"]
first.finalize()
print(Guest("payments").pkcs11() is first, "P11_KIT_SERVER_ADDRESS" in os.environ)
"""
    assert run(code, doors).splitlines() == ["True unix:path=/somebody/else", "True False"]


@needs_client
@needs_remote
def test_a_process_stays_with_its_guest(doors: Path) -> None:
    said = run('Guest("payments").pkcs11()' + SECOND_GUEST, doors)
    assert "use one process per guest" in said
    assert "guests/payments/pkcs11.sock" in said
    assert "guests/lab/pkcs11.sock" in said


@needs_client
@needs_remote
def test_a_process_that_unloaded_the_client_may_go_to_another_guest(doors: Path) -> None:
    code = """
library = Guest("payments").pkcs11()
pkcs11.unload(library.so)
print(len(Guest("lab").pkcs11().get_slots()) > 0)
"""
    assert run(code, doors) == "True\n"


@needs_client
@needs_remote
def test_a_client_that_the_program_loaded_itself_is_taken_if_it_is_this_guests(doors: Path) -> None:
    """What `keyvisor guest exec` runs loads the module by its variable, and asks the SDK later."""
    environ = {
        "P11_KIT_SERVER_ADDRESS": address(pkcs11_socket(doors, "payments")),
        "KEYVISOR_PKCS11_MODULE": str(CLIENT),
    }
    code = (
        'own = pkcs11.lib(os.environ["KEYVISOR_PKCS11_MODULE"])\nprint(Guest("payments").pkcs11() is own)'
        + SECOND_GUEST
    )
    first, second = run(code, doors, **environ).splitlines()
    assert first == "True"
    assert "use one process per guest" in second


@needs_client
def test_a_guest_that_is_not_there_is_an_error_and_not_a_machine_without_slots(state: Path) -> None:
    code = """
from keyvisor_guest import NotRunning
try:
    Guest("payments").pkcs11()
except NotRunning as error:
    print(error)
"""
    assert "keyvisor host list" in run(code, state)
