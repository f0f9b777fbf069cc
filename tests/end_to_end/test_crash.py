"""The module crashes under a guest, as its user sees it: with the daemon, the stock client and python-pkcs11."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.end_to_end.conftest import HSM, PROGRAMS, World
from tests.firmware.broker.crashing import crashing_module

OTHER_HSM = "03.0012"
CRASHES = 3
BACK_WITHIN = (
    1.0  # seconds from the crash to the next gate's first answer, on a machine with nothing else to do
)
SLOW_MACHINE = 5  # how much more a loaded machine may take before the test fails

# Makes the module crash at every line that it reads, tells what it saw of it, and how long the gate was gone.
CRASHING = """
import ctypes, os, socket, struct, sys, time
import pkcs11
from keyvisor_guest import Guest

guest = Guest()
client = guest.pkcs11()
session = client.get_token(token_label=sys.argv[1]).open(rw=True, user_pin=pkcs11.PROTECTED_AUTH)
door = os.environ["P11_KIT_SERVER_ADDRESS"].removeprefix("unix:path=")
try:
    session.seed_random(b"crash")
    print("nothing")
except pkcs11.PKCS11Error as error:
    crashed = time.monotonic()
    print(type(error).__name__)
hello = bytes.fromhex("00000010 00000006 00000042") + b"client" + bytes.fromhex("00000001 00000005") + b"ayyay"
hello += struct.pack(">BI", 1, 41) + b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1" + b"\\0" + b"\\1\\0\\0\\0\\1\\0"
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
    knock.connect(door)
    knock.sendall(b"\\0" + hello)
    assert knock.recv(1)
    assert len(knock.recv(20)) == 20
print(time.monotonic() - crashed)
sys.stdout.flush()
os._exit(0)
"""

# Signs until its standard input ends.
SIGNING = """
import json, sys, threading
import pkcs11
from keyvisor_guest import Guest

ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
session = Guest().pkcs11().get_token(token_label=sys.argv[1]).open(rw=True, user_pin=pkcs11.PROTECTED_AUTH)
_, key = session.generate_keypair(pkcs11.KeyType.RSA, 2048)
print("signing", flush=True)
signed, errors = 0, []
while not ended.is_set() and len(errors) < 100:
    try:
        key.sign(b"pay 42", mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS)
        signed += 1
    except pkcs11.PKCS11Error as error:
        errors.append(type(error).__name__)
print(json.dumps({"signed": signed, "errors": errors}))
"""


@pytest.fixture
def crashing(new_world: Callable[[], World], tmp_path: Path) -> World:
    """A world whose PKCS#11 module crashes on demand. Its guests: `payments`, with a key, and `billing`."""
    softhsm = Path(os.environ.get("KEYVISOR_TEST_MODULE", "/usr/lib/softhsm/libsofthsm2.so"))
    if not softhsm.exists():
        pytest.skip(f"there is no SoftHSM at {softhsm}")
    made = new_world()
    config = made.directory / "crashing.yaml"
    config.write_text(f"version: 1\nmodule: {crashing_module(softhsm, tmp_path)}\n", encoding="utf-8")
    made.up(config)
    made.ready("payments", "payments-signing")
    made.guest("billing", OTHER_HSM)
    made.add_secret("billing", "billing-signing")
    text = made.policy("billing-signing").read_text().replace(made.mkvp(HSM), made.mkvp(OTHER_HSM))
    (made.directory / "billing.yaml").write_text(text, encoding="utf-8")
    made.keyvisor("guest", "apply", "--guest", "billing", "billing.yaml").ok()
    (made.directory / "crash.py").write_text(CRASHING, encoding="utf-8")
    (made.directory / "sign.py").write_text(SIGNING, encoding="utf-8")
    return made


def in_guest(guest: str, *words: str) -> tuple[str, ...]:
    return ("keyvisor", "guest", "exec", "--guest", guest, "--", str(PROGRAMS / "python"), *words)


def state(world: World, guest: str) -> str:
    (one,) = world.json("guest", "hsms", "--guest", guest)["hsms"]
    return str(one["state"])


def test_a_crash_is_the_crashing_guests_alone(crashing: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Its connection sees CKR_DEVICE_ERROR, its gate is back, its association and its keys are; billing sees nothing."""
    keypairgen = ("--login", "--keypairgen", "--key-type", "rsa:2048", "--label", "kept", "--id", "07")
    crashing.tool("payments", *keypairgen).ok()
    (crashing.directory / "invoice").write_text("pay 42\n", encoding="utf-8")
    sign = ("--login", "--sign", "--mechanism", "SHA256-RSA-PKCS", "--id", "07", "--input-file", "invoice")
    took = []
    with subprocess.Popen(
        in_guest("billing", "sign.py", OTHER_HSM),
        cwd=crashing.directory,
        env=crashing.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as beside:
        assert beside.stdout is not None
        assert beside.stdout.readline() == "signing\n"
        bystander = crashing.gates("billing")
        for number in range(CRASHES):
            saw, seconds = crashing.run(*in_guest("payments", "crash.py", HSM)).ok().split()
            assert saw == "DeviceError"
            took.append(float(seconds))
            assert state(crashing, "payments") == "associated"
            crashing.tool("payments", *sign, "--output-file", f"signature-{number}").ok()
        crashing.tool("payments", "--login", "--list-objects", "--type", "privkey").ok()
        told = json.loads(beside.communicate(timeout=60)[0])
    with capsys.disabled():
        seen = ", ".join(f"{seconds:.3f}" for seconds in took)
        print(
            f"\n  the gate was back after {seen} s; {told['signed']} signatures beside, {len(told['errors'])} errors"
        )
    assert told["errors"] == []
    assert told["signed"] > CRASHES
    assert crashing.gates("billing") == bystander
    assert len({(crashing.directory / f"signature-{number}").read_bytes() for number in range(CRASHES)}) == 1
    assert max(took) < BACK_WITHIN * SLOW_MACHINE
    assert min(took) < BACK_WITHIN


def test_signal_11_to_the_gate_is_the_same(associated: World) -> None:
    """Where there is no compiler: the signal comes from outside."""
    keypairgen = ("--login", "--keypairgen", "--key-type", "rsa:2048", "--label", "kept", "--id", "11")
    associated.tool("payments", *keypairgen).ok()
    (before,) = associated.gates("payments")
    os.kill(before, signal.SIGSEGV)
    crashed = time.monotonic()
    told = associated.tool("payments", "--login", "--list-objects", "--type", "privkey").ok()
    assert time.monotonic() - crashed < BACK_WITHIN * SLOW_MACHINE
    assert "kept" in told
    assert state(associated, "payments") == "associated"
    assert associated.gates("payments") != [before]
