"""OpenSSL's pkcs11 engine: sign with a key of the HSM, and serve TLS with one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from conformance.commands import Step, run_steps
from conformance.masks import masked
from conformance.outcomes import Outcome, Result, TestId
from conformance.programs import serving
from conformance.sides import LABEL, PINS, Side

_PSS: Final = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"
_TOOL_STEPS: Final = (
    Step("RSA key pair", "{tool} {login} --keypairgen --key-type rsa:2048 --label rsa --id 01"),
    Step("EC key pair", "{tool} {login} --keypairgen --key-type EC:prime256v1 --label ec --id 02"),
)
_KEYS: Final = ("rsa", "ec")


def _per_key(key: str) -> tuple[Step, ...]:
    """What OpenSSL does with one key pair: its public half by itself, its private half through the engine."""
    return (
        Step(
            f"{key}: public key",
            f"openssl pkey -engine pkcs11 -inform engine -in {{{key}}} -pubin -pubout -out {key}.pem",
        ),
        Step(
            f"{key}: sign",
            f"openssl dgst -sha256 -engine pkcs11 -keyform engine -sign {{{key}}} -out {key}.sig data",
        ),
        Step(f"{key}: verify", f"openssl dgst -sha256 -verify {key}.pem -signature {key}.sig data"),
        Step(
            f"{key}: certificate",
            f"openssl req -x509 -new -engine pkcs11 -keyform engine -key {{{key}}} -subj /CN=localhost -out {key}.crt",
        ),
        Step(f"{key}: certificate, verified", f"openssl verify -CAfile {key}.crt {key}.crt"),
    )


STEPS: Final = (
    *_TOOL_STEPS,
    *(step for key in _KEYS for step in _per_key(key)),
    Step(
        "rsa: sign with PSS",
        f"openssl dgst -sha256 -engine pkcs11 -keyform engine -sign {{rsa}} {_PSS} -out pss.sig data",
    ),
    Step("rsa: verify with PSS", f"openssl dgst -sha256 -verify rsa.pem {_PSS} -signature pss.sig data"),
    Step("rsa: encrypt", "openssl pkeyutl -encrypt -pubin -inkey rsa.pem -in digest -out secret"),
    Step(
        "rsa: decrypt",
        "openssl pkeyutl -decrypt -engine pkcs11 -keyform engine -inkey {rsa} -in secret -out clear",
        equal=("clear", "digest"),
    ),
    Step("no such key", "openssl dgst -sha256 -engine pkcs11 -keyform engine -sign {none} -out none data"),
)


@dataclass(frozen=True, slots=True)
class Handshake:
    """One TLS server with one key, and one client."""

    key: str
    version: str

    @property
    def test(self) -> TestId:
        """What it is called in the report."""
        return TestId(f"{self.key}: TLS {self.version.replace('_', '.')} server")


HANDSHAKES: Final = tuple(Handshake(key, version) for key in _KEYS for version in ("1_2", "1_3"))


def commands(side: Side) -> Iterator[tuple[TestId, Outcome]]:
    """Make keys with pkcs11-tool, use them with OpenSSL."""
    side = replace(side, environment={**side.environment, "PKCS11_MODULE_PATH": str(side.client)})
    yield from run_steps(side, STEPS, _words(side))
    for handshake in HANDSHAKES:
        yield handshake.test, _serve(side, handshake)


def _words(side: Side) -> dict[str, str]:
    return {
        "tool": f"pkcs11-tool --module {side.client} --token-label {LABEL}",
        "login": f"--login --pin {PINS.user}",
        **{key: f"'{_uri(key)}'" for key in (*_KEYS, "none")},
    }


def _uri(key: str) -> str:
    return f"pkcs11:token={LABEL};object={key};type=private?pin-value={PINS.user}"


def _serve(side: Side, handshake: Handshake) -> Outcome:
    """A server whose key is in the HSM, a client that trusts its certificate, connects, and reads the server's page."""
    port = _free_port()
    key = ("-engine", "pkcs11", "-keyform", "engine", "-key", _uri(handshake.key))
    server = (
        "openssl",
        "s_server",
        *key,
        "-cert",
        f"{handshake.key}.crt",
        "-accept",
        f"127.0.0.1:{port}",
        "-www",
    )
    client = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", f"{handshake.key}.crt")
    wanted = (f"-tls{handshake.version}", "-verify_return_error", "-verify_hostname", "localhost", "-ign_eof")
    log = side.directory / f"server-{handshake.key}-{handshake.version}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(serving(server, side.environment, log, "ACCEPT", directory=side.directory))
        except SystemExit as end:
            return Outcome(Result.FAILED, masked(str(end)))
        ran = side.run(*client, *wanted, given="GET / HTTP/1.0\r\n\r\n")
    return _judged(ran.code, ran.told, log)


# The lines of what s_client prints that have to be the same on both sides.
_COMPARED: Final = (
    "New, ",
    "Server public key",
    "Peer signature type",
    "Verif",
    "HTTP/",
    "SSL-Session",
    "    Protocol",
)


def _judged(code: int, told: str, log: Path) -> Outcome:
    lines = [line for line in told.splitlines() if line.startswith(_COMPARED)]
    if code or "HTTP/1.0 200 ok" not in told:
        return Outcome(Result.FAILED, "\n".join([*lines, log.read_text(encoding="utf-8").strip()]))
    return Outcome(Result.PASSED, "\n".join(lines))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
