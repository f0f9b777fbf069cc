"""`keyvisor demo`: the main story from start to end, with the real programs, in a state directory of its own.

It runs the commands that a person would type, shows each with its output, and stops at the first one that does not
do what it should. It uses nothing but the command line: what it shows, anybody can repeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from keyvisor_guest.errors import StateDirectoryUnusable
from keyvisor_guest.state_directory import pkcs11_socket
from keyvisor_policy.terminal import fail, verb

app = verb("Show the main story with the real programs.")

HSM: Final = "03.0011"
SPARE: Final = "05.0011"
ACCELERATOR: Final = "07.0000"
_START_SECONDS: Final = 60.0
_SHOWN_LINES: Final = 20

POLICY: Final = """\
version: 1
associations:
  - name: payments            # this rule, and the secret that it names,
    secret: payments-signing  # meet the HSM with this master key on this card
    hsm: {{mode: ep11, mkvp: 0x{mkvp}, serial: {serial}}}
"""

POLICY_WITH_SPARE: Final = """\
version: 1
associations:
  - name: payments            # any card with this master key: one for work, one to spare
    secret: payments-signing
    hsm: {{mode: ep11, mkvp: 0x{mkvp}}}
    count: all
"""

BILLING_POLICY: Final = """\
version: 1
associations:
  - name: billing
    secret: billing-signing
    hsm: {{mode: ep11, mkvp: 0x{mkvp}}}
"""

ANY_HSM_POLICY: Final = """\
version: 1
associations:
  - {name: any, secret: payments-signing, hsm: {mode: ep11}}
"""


class Story:
    """A terminal in a directory: runs commands, shows them, and does not go on when one surprises."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._steps = 0
        programs = str(Path(sys.executable).parent)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "KEYVISOR_STATE": str(directory / "state"),
        }
        self._bold, self._dim, self._plain = (
            ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
        )

    def step(self, text: str) -> None:
        """Say what comes next."""
        self._steps += 1
        print(f"\n{self._bold}{self._steps}. {text}{self._plain}", flush=True)

    def run(self, command: str, *, refused: bool = False, show: bool = True) -> str:
        """Run a command line; its output. It must succeed, or with `refused` must not."""
        if show:
            print(f"$ {command}", flush=True)
        done = subprocess.run(
            shlex.split(command),
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if show:
            self._show(done.stdout)
        if (done.returncode != 0) is not refused:
            wanted = "be refused" if refused else "succeed"
            fail(
                f"`{command}` had to {wanted}, and its exit code is {done.returncode}:\n{done.stdout.strip()}"
            )
        return done.stdout

    def in_guest(self, guest: str, command: str, *, refused: bool = False) -> str:
        """Run a program in a guest's ordinary environment."""
        return self.run(f"keyvisor guest exec --guest {guest} -- {command}", refused=refused)

    def tool(self, guest: str, options: str, *, refused: bool = False) -> str:
        """Run the unmodified pkcs11-tool in a guest."""
        return self.in_guest(guest, f"pkcs11-tool --module '' {options}", refused=refused)

    def write(self, name: str, text: str) -> None:
        """Make a file, and show it."""
        (self.directory / name).write_text(text, encoding="utf-8")
        print(f"$ cat {name}", flush=True)
        self._show(text)

    def require(self, told: str, text: str) -> None:
        """The story needs `text` in what was told."""
        if text not in told:
            fail(f"`{text}` was expected, and this came:\n{told.strip()}")

    def require_not(self, told: str, text: str) -> None:
        """The story breaks with `text` in what was told."""
        if text in told:
            fail(f"`{text}` was not to be seen, and it is:\n{told.strip()}")

    def _show(self, text: str) -> None:
        lines = text.rstrip("\n").splitlines()
        for line in lines[:_SHOWN_LINES]:
            print(f"  {self._dim}{line}{self._plain}", flush=True)
        if len(lines) > _SHOWN_LINES:
            print(f"  {self._dim}... and {len(lines) - _SHOWN_LINES} lines more{self._plain}", flush=True)


@app.callback(invoke_without_command=True)
def demo() -> None:
    """Show how an unmodified pkcs11-tool signs once the guest's policy lets it, and not before."""
    for program in ("pkcs11-tool", "openssl"):
        if shutil.which(program) is None:
            fail(f"`{program}` is missing; `keyvisor doctor` says what to install")
    with tempfile.TemporaryDirectory(prefix="keyvisor-demo-") as name:
        try:
            pkcs11_socket(Path(name) / "state", "payments")
        except StateDirectoryUnusable:
            fail(f"`{name}` is too long a path for the demo's sockets: `TMPDIR=/tmp keyvisor demo`")
        story = Story(Path(name))
        with _firmware(story):
            tell(story)
    print("\nThe story went as it should.")


@contextlib.contextmanager
def _firmware(story: Story) -> Iterator[None]:
    """`keyvisor up` for as long as the story is told."""
    story.step("The firmware starts with the cards of configs/keyvisor.yaml.")
    print("$ keyvisor up &", flush=True)
    with (story.directory / "daemon.log").open("w") as log:
        daemon = subprocess.Popen(
            ["keyvisor", "up"],
            cwd=story.directory,
            env=story.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert daemon.stdout is not None  # noqa: S101 - it is a pipe
        ready = _first_line(daemon.stdout, _START_SECONDS)
        if not ready:
            said = (story.directory / "daemon.log").read_text(encoding="utf-8")
            fail(f"the firmware did not start:\n{said.strip()}")
        print(f"  {ready}", flush=True)
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def _first_line(stream: IO[str], seconds: float) -> str:
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(seconds)
    return lines[0].strip() if lines else ""


def tell(story: Story) -> None:
    """The story, from the building of the guest's image on."""
    mkvp = _build_image(story)
    _start_guest(story)
    _locked_away(story)
    _bound_only(story)
    _add_secret(story)
    _apply_policy(story)
    _sign(story)
    _unbind_and_return(story)
    _others(story, mkvp)
    _spare(story, mkvp)


def _build_image(story: Story) -> str:
    story.step(
        "An owner, elsewhere, builds the guest's image. Its policy is inside: the host cannot choose one."
    )
    story.run("keyvisor host host-key --output host-key.pem")
    hsms = json.loads(story.run("keyvisor hsm list --json", show=False))["hsms"]
    hsm = next(one for one in hsms if one["apqn"] == HSM)
    story.write("policy.yaml", POLICY.format(mkvp=hsm["mkvp"], serial=hsm["serial"]))
    story.run("keyvisor policy check policy.yaml")
    story.write("kernel", "any file can stand for a kernel\n")
    _image(story, "payments", "policy.yaml")
    told = story.run("keyvisor owner image info payments.img")
    story.require(told, "ramdisk")
    return str(hsm["mkvp"])


def _image(story: Story, name: str, policy: str) -> None:
    story.run(
        f"keyvisor owner image build --kernel kernel --policy {policy} --host-key-document host-key.pem --no-verify"
        f" --output {name}.img --identity-out {name}.identity"
    )


def _request(story: Story, guest: str, image: str, secret: str, more: str = "") -> None:
    """The owner makes a request for the image, and the guest hands it in."""
    story.run(
        f"keyvisor owner request association {secret} --host-key-document host-key.pem --no-verify"
        f" --identity {image}.identity --output {image}.request{more}"
    )
    story.run(f"keyvisor guest secret add --guest {guest} {image}.request")


def _start_guest(story: Story) -> None:
    story.step("The host starts the guest `payments` from the image and attaches three HSMs to it.")
    story.run("keyvisor host start payments --image payments.img")
    story.run(f"keyvisor host attach payments {HSM} {SPARE} {ACCELERATOR}")
    story.run("keyvisor host list")


def _locked_away(story: Story) -> None:
    story.step(
        "What the host gave for it is the firmware's now: the host sees how much, and cannot look inside."
    )
    told = story.run("keyvisor host storage")
    story.require(told, "guest variable")
    held = json.loads(story.run("keyvisor host storage --json", show=False))["held"]
    base = next(one for one in held if (one["holder"], one["use"]) == ("payments", "guest base"))
    told = story.run(f"keyvisor host memory read {base['first']:#x} 16", refused=True)
    story.require(told, "the storage is secure")


def _bound_only(story: Story) -> None:
    story.step("The guest binds one HSM. What needs no key works; what makes one is refused.")
    story.run("keyvisor guest hsms --guest payments")
    story.run(f"keyvisor guest bind --guest payments {HSM}")
    told = story.tool("payments", "-L")
    story.require(told, HSM)
    told = story.tool("payments", f"--token-label {HSM} -M")
    story.require(told, "ECDSA")
    story.tool("payments", f"--token-label {HSM} --generate-random 16 --output-file random.bin")
    story.tool("payments", _KEYPAIRGEN, refused=True)
    told = story.run("keyvisor guest refusals --guest payments")
    story.require(told, "not associated")


_KEYPAIRGEN: Final = f"--token-label {HSM} --login --keypairgen --key-type rsa:2048 --label invoices --id 01"
_SIGN: Final = "--login --sign --mechanism SHA256-RSA-PKCS --id 01 --input-file invoice"


def _add_secret(story: Story) -> None:
    story.step("Its owner makes an add-secret request for this image; the guest hands it in.")
    _request(story, "payments", "payments", "payments-signing", " --output-secret payments-signing.secret")
    told = story.run("keyvisor guest secret list --guest payments")
    story.require(told, "Association:")


def _apply_policy(story: Story) -> None:
    story.step("The guest applies the policy of its image, and can apply no other.")
    story.write("any-hsm.yaml", ANY_HSM_POLICY)
    told = story.run("keyvisor guest apply --guest payments any-hsm.yaml", refused=True)
    story.require(told, "the one in its image")
    story.run("keyvisor guest apply --guest payments")
    told = story.run("keyvisor guest hsms --guest payments")
    story.require(told, "associated")


def _sign(story: Story) -> None:
    story.step("The same pkcs11-tool makes a key now, and signs; openssl verifies.")
    story.tool("payments", _KEYPAIRGEN)
    (story.directory / "invoice").write_text("pay 42\n", encoding="utf-8")
    story.tool("payments", f"--token-label {HSM} {_SIGN} --output-file invoice.signature")
    story.tool(
        "payments", f"--token-label {HSM} --read-object --type pubkey --id 01 --output-file invoices.der"
    )
    told = story.run(
        "openssl dgst -sha256 -verify invoices.der -keyform DER -signature invoice.signature invoice"
    )
    story.require(told, "Verified OK")


def _unbind_and_return(story: Story) -> None:
    sign = f"--token-label {HSM} {_SIGN} --output-file again.signature"
    story.step("The guest unbinds: signing is refused. It binds and associates again: the key is there.")
    story.run(f"keyvisor guest unbind --guest payments {HSM}")
    story.tool("payments", sign, refused=True)
    story.run(f"keyvisor guest bind --guest payments {HSM}")
    story.run(f"keyvisor guest associate --guest payments {HSM} --secret payments-signing")
    story.tool("payments", sign)


def _others(story: Story, mkvp: str) -> None:
    story.step("Another guest, with a secret of its own on an HSM with the same master key, does not see it.")
    story.write("billing.yaml", BILLING_POLICY.format(mkvp=mkvp))
    _image(story, "billing", "billing.yaml")
    story.run("keyvisor host start billing --image billing.img")
    story.run(f"keyvisor host attach billing {SPARE}")
    _request(story, "billing", "billing", "billing-signing")
    story.run("keyvisor guest apply --guest billing")
    told = story.tool("billing", f"--token-label {SPARE} --login --list-objects")
    story.require_not(told, "invoices")
    story.run(f"keyvisor guest unbind --guest billing {SPARE}")


def _spare(story: Story, mkvp: str) -> None:
    story.step(
        "A new image may use the spare HSM too (another card, the same master key); the secret stays the same."
    )
    story.write("policy-with-spare.yaml", POLICY_WITH_SPARE.format(mkvp=mkvp))
    _image(story, "payments-2", "policy-with-spare.yaml")
    story.run("keyvisor host stop payments")
    story.run("keyvisor host start payments --image payments-2.img")
    story.run(f"keyvisor host attach payments {HSM} {SPARE}")
    _request(
        story, "payments", "payments-2", "payments-signing", " --input-secret payments-signing.secret --force"
    )
    story.run("keyvisor guest apply --guest payments")
    told = story.tool("payments", f"--token-label {SPARE} --login --list-objects")
    story.require(told, "invoices")
