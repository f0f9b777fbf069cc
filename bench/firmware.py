"""A firmware daemon for a run: `keyvisor up` on a state directory of its own, and guests whose HSMs are associated.

Everything goes the way that hosts, owners and guests go, so that the whole filter and the audit are on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from conformance.programs import clean_environment, serving

from bench.processes import children
from keyvisor_guest import Guest, Host, Owner
from keyvisor_guest.state_directory import pkcs11_socket
from keyvisor_guest.wire.messages import Hsm

_CARD: Final = 0x03
_GATE: Final = b"keyvisor_firmware.broker.gate"


def apqn(domain: int) -> str:
    """The HSM of that domain."""
    return f"{_CARD:02x}.{domain:04x}"


def configuration(hsms: int, idle_seconds: int = 60, guests: int | None = None) -> str:
    """A configuration with so many HSMs, each with a master key of its own, and room for as many guests, or for `guests`."""
    domains = "\n".join(
        f'      - {{number: "{number:04x}", master_key: mk-{number}}}' for number in range(hsms)
    )
    return (
        "version: 1\n"
        "cards:\n"
        f'  - number: "{_CARD:02x}"\n'
        "    generation: CEX8\n"
        "    mode: ep11\n"
        "    serial: BENCH00000000001\n"
        f"    domains:\n{domains}\n"
        f"gate: {{idle_seconds: {idle_seconds}}}\n"
        f"limits: {{guests: {guests or hsms}}}\n"
    )


def policy(secret: str, hsms: Iterable[Hsm], rules: int = 0, points: int = 0) -> str:
    """A policy that associates the HSMs; up to `rules` rules that no HSM meets stand before the ones that count.

    Its `points` control points are about the calls that are measured, and refuse none of them.
    """
    wanted = [_rule(f"rule-{hsm.apqn}", secret, f"{hsm.mkvp}") for hsm in hsms]
    others = [_rule(f"o-{n}", "o", f"{n:032x}") for n in range(rules - len(wanted))]
    asked = [_point(n) for n in range(points)]
    requests = ["requests:", "  rules:", *asked] if asked else []
    return "\n".join(["version: 1", "associations:", *others, *wanted, *requests, ""])


_KINDS: Final = (
    "deny: {call: [C_SignInit, C_EncryptInit, C_DigestInit], mechanism: [CKM_RSA_X_509, CKM_MD5, CKM_DES3_CBC]}",
    'deny: {call: [C_SignInit, C_DecryptInit], key: {CKA_MODULUS_BITS: "<1024"}}',
    'deny: {call: [C_GenerateKey, C_GenerateKeyPair], template: {CKA_LABEL: "refused-%d-*"}}',
    "deny: {mechanism: [CKM_MD2, CKM_RC4], key: {CKA_KEY_TYPE: CKK_RC4}}",
    "allow: {call: [C_SignInit], key: {CKA_CLASS: CKO_PRIVATE_KEY}}",
)


def _point(number: int) -> str:
    kind = _KINDS[number % len(_KINDS)]
    return f"    - {{name: point-{number}, {kind.replace('%d', str(number))}}}"


def _rule(name: str, secret: str, mkvp: str) -> str:
    """Short: as many rules as a policy may have must not be longer than a file may be."""
    return f"  - {{name: {name}, secret: {secret}, hsm: {{mode: ep11, mkvp: 0x{mkvp}}}}}"


class Firmware:
    """A running daemon: `process` is its process id, `host` its host, `owner` one who builds for its key."""

    def __init__(self, state: Path, process: int) -> None:
        self.process = process
        self._state = state
        self.host = Host(state=state)
        self.owner = Owner([self.host.host_key_document()])

    @classmethod
    @contextlib.contextmanager
    def up(cls, directory: Path, config: str) -> Iterator[Firmware]:
        """Start `keyvisor up` in `directory`, whose path is short, on the state that is there, if any; it ends with the block."""
        directory.mkdir(exist_ok=True)
        file, state = directory / "keyvisor.yaml", directory / "s"
        file.write_text(config, encoding="utf-8")
        command = Path(sys.executable).with_name("keyvisor")
        environment = clean_environment(KEYVISOR_STATE=str(state))
        words = (command, "up", "--config", file)
        with serving(words, environment, directory / "daemon.log", "ready") as process:
            yield cls(state, process.pid)

    def guest(self, name: str, hsms: Sequence[str], rules: int = 0, points: int = 0) -> None:
        """Start a guest, hand in a secret, and have its policy of `rules` rules, or more, associate the HSMs.

        The policy has `points` control points.
        """
        image = self.owner.build_image(kernel=f"kernel of {name}".encode())
        self.host.start(name, image.data)
        for hsm in hsms:
            self.host.attach(name, hsm)
        guest = Guest(name, state=self._state)
        guest.secrets.add(self.owner.association_request(name, image.identity).data)
        guest.apply(policy(name, guest.hsms(), rules, points), partial=True, strict=False)
        if any(hsm.state != "associated" for hsm in guest.hsms()):
            raise SystemExit(f"guest `{name}`: not every HSM is associated")

    def door(self, guest: str) -> Path:
        """A guest's door for PKCS#11."""
        return pkcs11_socket(self._state, guest)

    def gates(self) -> list[int]:
        """The process ids of the gates that run."""
        return [pid for pid, words in children(self.process) if _GATE in words]
