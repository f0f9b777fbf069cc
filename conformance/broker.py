"""The broker's side: a firmware daemon of its own, and for every suite a guest whose HSM is associated.

Each guest has an association secret of its own, so that it meets an empty key partition, in which PINs are
set as an application would.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from conformance.programs import clean_environment, serving
from conformance.sides import BROKER, LABEL, PINS, Side
from keyvisor_guest import Guest, Host, Owner, stock_client
from keyvisor_guest.state_directory import pkcs11_socket

_SPARE: Final = "05.0011"  # bound and not associated: what the uninitialised second slot is to SoftHSM
_POLICY: Final = """\
version: 1
associations:
  - name: conformance
    secret: {secret}
    hsm: {{mode: ep11, mkvp: 0x{mkvp}, serial: {serial}}}
"""


class Firmware:
    """A running daemon."""

    def __init__(self, directory: Path, state: Path) -> None:
        self._directory = directory
        self._state = state
        self._host = Host(state=state)

    @classmethod
    @contextlib.contextmanager
    def up(cls, directory: Path) -> Iterator[Firmware]:
        """Start `keyvisor up` on a new state directory; it ends with the block."""
        state = directory / "state"
        environment = clean_environment(KEYVISOR_STATE=str(state))
        command = Path(sys.executable).with_name("keyvisor")
        with serving((command, "up"), environment, directory / "daemon.log", "ready"):
            yield cls(directory, state)

    @contextlib.contextmanager
    def side(self, name: str) -> Iterator[Side]:
        """A guest of that name, its HSM associated; it is stopped when the block ends."""
        owner = Owner([self._host.host_key_document()])
        image = owner.build_image(kernel=f"kernel of {name}".encode())
        self._host.start(name, image.data)
        try:
            self._associate(name, owner.association_request(name, image.identity).data)
            work = self._directory / name
            work.mkdir()
            leading = {stock_client.ADDRESS_VARIABLE: stock_client.address(pkcs11_socket(self._state, name))}
            side = Side(BROKER, work, clean_environment(**leading), stock_client.find())
            set_pins(side)
            yield side
        finally:
            self._host.stop(name)

    def _associate(self, name: str, request: bytes) -> None:
        guest = Guest(name, state=self._state)
        for apqn in (LABEL, _SPARE):
            self._host.attach(name, apqn)
        guest.secrets.add(request)
        hsm = next(hsm for hsm in guest.hsms() if hsm.apqn == LABEL)
        guest.apply(_POLICY.format(secret=name, mkvp=hsm.mkvp, serial=hsm.serial))
        guest.bind(_SPARE)


def set_pins(side: Side) -> None:
    """Make the side's token anew with pkcs11-tool, and set PINS. Raises SystemExit where that fails."""
    tool = ("pkcs11-tool", "--module", side.client, "--token-label", LABEL)
    so = ("--login", "--login-type", "so", "--so-pin", PINS.so)
    for words in (
        ("--init-token", "--label", LABEL, "--so-pin", PINS.so),
        (*so, "--init-pin", "--new-pin", PINS.user),
    ):
        ran = side.run(*tool, *words)
        if ran.code:
            raise SystemExit(f"the {side.name} side's token took no PINs: {ran.told.strip()}")
