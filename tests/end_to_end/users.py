"""Users who make one instance of a generic image theirs, with the real command, and the guests that they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from .conftest import Ran, World

DESCRIPTION = """\
version: 1
files:
  - {secret: token, path: etc/token, mode: "0640"}
keys:
  - {secret: signer, path: etc/signer.pem}
"""


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as a file has it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def generic_image(world: World, *more: str) -> None:
    """`service.img`, the same for everybody: a kernel, and that nothing opens before the secret store is locked."""
    place = world.directory / "image/etc/keyvisor"
    place.mkdir(parents=True)
    (place / "guest.yaml").write_text("version: 1\naccess: after-lock\n", encoding="utf-8")
    (world.directory / "kernel").write_text("everybody's kernel\n", encoding="utf-8")
    (world.directory / "description.yaml").write_text(DESCRIPTION, encoding="utf-8")
    world.build("service", "--kernel", "kernel", "--root", "image", *more)


def start(world: World, *guests: str) -> None:
    """Start instances of the generic image, each with a directory of its name."""
    for guest in guests:
        world.keyvisor("host", "start", guest, "--image", "service.img").ok()
        (world.directory / guest).mkdir(exist_ok=True)


def listed(world: World, guest: str) -> tuple[int, bool]:
    """How many secrets the store has, and whether it is locked."""
    found = world.json("guest", "secret", "list", "--guest", guest)
    return len(found["secrets"]), found["locked"]


def personalize(world: World, guest: str, user: User, *requests: str, contents: bool = False) -> Ran:
    """`keyvisor guest personalize` with what was brought; --contents names all that the user made."""
    words = ["--description", "description.yaml", "--root", guest, "--user-cert", f"{user.name}.pub"]
    if contents:
        words += ["--contents", f"{user.name}.contents"]
    return world.keyvisor("guest", "personalize", "--guest", guest, *words, *requests)


@dataclass(frozen=True)
class User:
    """One user at their desk: their signing key, the secret that all their requests share, and a list of the requests."""

    world: World
    name: str

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP521R1())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for suffix, content in (("key", pem(key)), ("pub", public), ("extension", self.extension)):
            (self.world.directory / f"{self.name}.{suffix}").write_bytes(content)

    @property
    def extension(self) -> bytes:
        """32 bytes, the same for one name."""
        return self.name.encode().ljust(32, b"\xc7")

    def request(self, name: str, kind: str, content: bytes, *options: str) -> str:
        """A signed request for a retrievable secret; the name of its file."""
        self._write("secret", content)
        return self.make(name, "retrievable", name, "--type", kind, "--secret", "secret", *options)

    def make(self, name: str, *words: str) -> str:
        """A signed request by the words of its verb; the name of its file."""
        output = f"{self.name}-{name}.request"
        shared = ("-k", "host-key.pem", "--no-verify", "--force", "--identity", "service.identity")
        own = ("--user-sign-key", f"{self.name}.key", "--extension-secret", f"{self.name}.extension")
        listing = ("--toc-policy", f"{self.name}.contents", "--output", output)
        self.world.keyvisor("owner", "request", *words, *shared, *own, *listing).ok()
        return output

    def two(self, token: bytes, signer: ec.EllipticCurvePrivateKey, *options: str) -> Sequence[str]:
        """Requests for what the description places."""
        return [
            self.request("token", "plain", token, *options),
            self.request("signer", "ec", pem(signer), *options),
        ]

    def _write(self, name: str, content: bytes) -> Path:
        path = self.world.directory / name
        path.write_bytes(content)
        return path
