"""`keyvisor policy prove --replay`: asks a running firmware for what a policy is said to allow.

The firmware is one of its own, in a state directory that goes again: a card that is as the HSM of the example, one guest
with the example's secret, the policy registered through the guest's door. Its master key is a fresh one, as every
master key is, so that the example's MKVP is put for that one's in the policy; nothing else in it changes but a secret's
id that no name gives. No guest and no card of the machine takes part.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from keyvisor_guest.errors import CommandUnusable, Refused
from keyvisor_guest.guest import Guest
from keyvisor_guest.host import Host
from keyvisor_guest.owner import Owner
from keyvisor_guest.state_directory import STATE_VARIABLE, pkcs11_socket
from keyvisor_guest.wire.messages import Refusal
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_policy.hsms import Hsm, generation_name, version_name
from keyvisor_policy.matching import secret_text
from keyvisor_policy.prove import Allowed
from keyvisor_policy.replaying import Replayed, Substituted

__all__ = ["replay"]

GUEST: Final = "replay"
SECRET: Final = "replayed-secret"  # noqa: S105 - a name, where the rule has none
_HIGHEST_VERSION: Final = 999  # of a card's firmware, major and minor
_HIGHEST_API: Final = 0xFFFF
_START_SECONDS: Final = 60.0
_DIGITS: Final = {"ap": "02x", "uv": "04x", "http": "d"}


def replay(policy: str, example: Allowed) -> Replayed:
    """Start a firmware, ask it for the association or the binding, and end it. Raises SdkError where none starts."""
    return on_a_firmware(example, lambda rehearsal: rehearsal.ask(policy))


def on_a_firmware(example: Allowed, do: Callable[[Rehearsal], Replayed]) -> Replayed:
    """Do something with a firmware of its own, with a card like the example's HSM. Raises SdkError where none starts."""
    unlike = _no_such_card(example.hsm)
    if unlike:
        return Replayed("not replayed", f"no emulated card can be like this HSM: {unlike}")
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        directory = Path(name)
        pkcs11_socket(directory / "s", GUEST)  # a path that is too long is told before anything starts
        with _firmware(directory, _configuration(example.hsm)):
            return do(Rehearsal(directory / "s", example))


class Rehearsal:
    """The guest, its secret and its HSM. `changes` is what stands for what, in the words that a policy has."""

    def __init__(self, state: Path, example: Allowed) -> None:
        self.state = state
        self._example = example
        self._apqn = example.hsm.apqn
        self._host = Host(state=state)
        self._owner = Owner([self._host.host_key_document()])
        self._image = self._owner.build_image(kernel=b"a kernel that decides nothing")
        self._host.start(GUEST, self._image.data)
        self._host.attach(GUEST, self._apqn)
        self._guest = Guest(GUEST, state=state)
        self.changes = tuple(self._changes())
        self._add_secret()

    def hold(self, policy: str) -> None:
        """Register the policy, and hold the HSM as it is said to allow. Raises Refused."""
        self.register(policy)
        self._associate()

    def register(self, policy: str) -> None:
        """Register the policy; what it allows of what is held stays. Raises Refused."""
        for change in self.changes:
            policy = _rewritten(policy, change)
        self._guest.apply(f"{policy}\n", partial=True, strict=False)

    def refusals(self) -> list[Refusal]:
        """What the gate refused, oldest first."""
        return list(self._guest.refusals())

    def ask(self, policy: str) -> Replayed:
        """Register the policy, and ask for what it is said to allow."""
        changes = self.changes
        try:
            self.hold(policy)
        except Refused as error:
            return Replayed("refused", str(error).replace("\n", "; "), _code(error), changes)
        secret = self._example.rule.secret
        if secret is None:
            return Replayed("bound", f"the firmware bound {self._apqn}", None, changes)
        message = f"the firmware associated secret {secret_text(secret)} with {self._apqn}"
        return Replayed("associated", message, None, changes)

    def _changes(self) -> Iterator[Substituted]:
        """What stands for what, in the words that a policy has."""
        (hsm,) = self._guest.hsms()
        if self._example.hsm.mkvp is not None:
            yield Substituted("mkvp", f"0x{self._example.hsm.mkvp.hex()}", f"0x{hsm.mkvp}")
        secret_id = self._example.secret_id
        if secret_id is not None and self._secret_name == SECRET:
            yield Substituted("secret_id", f"0x{secret_id.hex()}", f"0x{id_from_name(SECRET).hex()}")

    @property
    def _secret_name(self) -> str:
        """The name of the rule's secret, and ours for one that no name gives."""
        secret = self._example.rule.secret
        if secret is None or secret.name is None or secret.id.hex() != id_from_name(secret.name).hex():
            return SECRET
        return secret.name

    def _add_secret(self) -> None:
        if self._example.rule.secret is not None:
            request = self._owner.association_request(self._secret_name, self._image.identity)
            self._guest.secrets.add(request.data)

    def _associate(self) -> None:
        """What applying the plan has not done already, as another rule may have come first."""
        (hsm,) = self._guest.hsms()
        if hsm.state == "unbound":
            hsm = self._guest.bind(self._apqn)
        if hsm.state == "bound" and self._example.rule.secret is not None:
            self._guest.associate(self._apqn, self._secret_name)


def _rewritten(policy: str, change: Substituted) -> str:
    """The policy with a word for another wherever it stands, with or without `0x` as it stood, in either case."""
    was, becomes = change.was.removeprefix("0x"), change.becomes.removeprefix("0x")
    return re.sub(rf"\b(0x)?{was}\b", lambda found: f"{found[1] or ''}{becomes}", policy, flags=re.IGNORECASE)


def _no_such_card(hsm: Hsm) -> str:
    """What of it the firmware's configuration has no room for; nothing where it has."""
    if hsm.mode == "accel" and hsm.mkvp is not None:
        return "an accelerator has no master key"
    if max(hsm.firmware) > _HIGHEST_VERSION:
        return f"firmware {version_name(hsm.firmware)} has more than three digits"
    return f"api {hsm.api} is more than {_HIGHEST_API}" if hsm.api > _HIGHEST_API else ""


def _configuration(hsm: Hsm) -> str:
    """One card with one domain. JSON is YAML too, and quotes whatever a serial number has in it."""
    domain: dict[str, object] = {"number": hsm.apqn[3:]}
    if hsm.mode == "ep11":
        domain["master_key"] = "replayed"
    card = {
        "number": hsm.card,
        "generation": generation_name(hsm.generation),
        "mode": hsm.mode,
        "serial": hsm.serial,
        "firmware": version_name(hsm.firmware),
        "api": hsm.api,
        "compliance": sorted(hsm.compliance),
        "domains": [domain],
    }
    return f"version: 1\ncards: {json.dumps([card])}\n"


@contextlib.contextmanager
def _firmware(directory: Path, configuration: str) -> Iterator[None]:
    """`keyvisor up` on a state directory of its own, for as long as the block lasts."""
    (directory / "keyvisor.yaml").write_text(configuration, encoding="utf-8")
    command = Path(sys.executable).with_name("keyvisor")
    log = directory / "daemon.log"
    with log.open("w") as told:
        daemon = subprocess.Popen(
            [command, "up", "--config", directory / "keyvisor.yaml"],
            env={**os.environ, STATE_VARIABLE: str(directory / "s")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        )
    try:
        assert daemon.stdout is not None  # noqa: S101 - it is a pipe
        if not _says_something(daemon.stdout):
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise CommandUnusable(
                f"the firmware to replay on did not start: {said[-1] if said else 'it said nothing'};"
                " `keyvisor doctor` says what is missing"
            )
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate()


def _says_something(stream: IO[str]) -> bool:
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(_START_SECONDS)
    return bool(lines and lines[0].strip())


def _code(error: Refused) -> str:
    return f"{error.kind} {error.code:{_DIGITS.get(error.kind, '02x')}}"
