"""The three peers, each as a client needs it: SoftHSM in the client's process, `p11-kit server`, keyvisor.

Every peer has the same tokens: one for the keys, one for the objects that are searched, and one or more that only
logins are tried on. On SoftHSM every client process has a login token of its own: it cannot have two processes log
in to one at the same time (pkcs11-rpc, section 12). With keyvisor one is enough for all.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from conformance.programs import clean_environment, serving

from bench.firmware import Firmware
from keyvisor_firmware.config import Config
from keyvisor_guest import stock_client

DIRECT: Final = "SoftHSM in the process"
SERVER: Final = "p11-kit server"
KEYVISOR: Final = "keyvisor"

_PIN: Final = "1234"  # of tokens that live as long as a run


@dataclass(frozen=True, slots=True)
class Peer:
    """What leads a client to its tokens, which are named by their labels. `process` answers it, if there is one."""

    name: str
    library: Path
    environment: Mapping[str, str] = field(repr=False)
    pin: str = field(repr=False)
    keys: str
    objects: str
    logins: Sequence[str]
    process: int | None = None
    door: Path | None = None

    @property
    def tokens(self) -> tuple[str, ...]:
        """The labels of its tokens, each once."""
        return tuple(dict.fromkeys((self.keys, self.objects, *self.logins)))


def direct(directory: Path, logins: int = 1) -> Peer:
    """SoftHSM in the client's own process, with new tokens in `directory`."""
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n", encoding="utf-8"
    )
    environment = clean_environment(SOFTHSM2_CONF=str(configuration))
    peer = Peer(
        DIRECT,
        Config().module_path(),
        environment,
        _PIN,
        "keys",
        "objects",
        [f"logins-{number}" for number in range(logins)],
    )
    for label in peer.tokens:
        make = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", _PIN, "--so-pin", _PIN]
        subprocess.run(make, env=environment, check=True, capture_output=True)
    return peer


@contextlib.contextmanager
def server(directory: Path, logins: int = 1) -> Iterator[Peer]:
    """SoftHSM behind `p11-kit server`, with new tokens in `directory`, whose path is short."""
    behind = direct(directory, logins)
    socket = directory / "p.sock"
    words = ("p11-kit", "server", "-f", "-n", socket, "--provider", behind.library, "pkcs11:")
    with serving(words, behind.environment, directory / "log", stock_client.ADDRESS_VARIABLE) as process:
        yield replace(
            behind,
            name=SERVER,
            library=stock_client.find(),
            environment=_led_to(socket),
            process=process.pid,
            door=socket,
        )


def keyvisor(firmware: Firmware, guest: str, hsms: Sequence[str]) -> Peer:
    """A guest whose HSMs are associated: the last ones have the keys of the roles that it has no HSM for."""
    keys, objects, logins = [*hsms, *[hsms[-1]] * 2][:3]
    door = firmware.door(guest)
    return Peer(
        KEYVISOR, stock_client.find(), _led_to(door), "", keys, objects, [logins], firmware.process, door
    )


def _led_to(socket: Path) -> dict[str, str]:
    return clean_environment(**{stock_client.ADDRESS_VARIABLE: stock_client.address(socket)})
