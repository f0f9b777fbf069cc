"""Each control point of each profile, asked by a real application: refused with it, allowed without it, on one open session."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.end_to_end.conftest import HSM, World

from keyvisor_policy.profiles import PROFILES, profile_text

DRIVER = Path(__file__).with_name("control_point_driver.py")
MECHANISM, TEMPLATE, USE = "MechanismInvalid", "TemplateInconsistent", "KEY_FUNCTION_NOT_PERMITTED"

# What is asked, and how it is refused.
ASKED = {
    "no-export": {
        "no wrapping": ("wrap", USE),
        "no extractable keys": ("make extractable", TEMPLATE),
        "no readable keys": ("make readable", TEMPLATE),
    },
    "modern-only": {
        "no old digests": ("digest sha-1", MECHANISM),
        "no signatures over old digests": ("sign sha-1", MECHANISM),
        "no HMAC over old digests": ("hmac sha-1", MECHANISM),
        "no DES": ("make des3", MECHANISM),
        "no DES, RC2 and RC4 keys": ("take in des3", TEMPLATE),
        "no small RSA keys": ("make rsa 1024", TEMPLATE),
        "no use of small RSA keys": ("sign small", USE),
        "no raw RSA": ("sign raw", MECHANISM),
        "no encryption with PKCS 1 v1.5": ("encrypt pkcs 1", MECHANISM),
        "no DSA and no DH of the multiplicative group": ("make dh parameters", MECHANISM),
        "no small curves": ("make secp192r1", TEMPLATE),
    },
    "fips2021-like": {
        "no new signatures over SHA-1": ("sign sha-1", MECHANISM),
        "no MD2, MD5 and RIPEMD": ("digest md5", MECHANISM),
        "no new encryption with DES": ("make des3", MECHANISM),
        "no RSA keys below 2048 bits": ("make rsa 1024", TEMPLATE),
        "no new signatures with RSA below 2048 bits": ("sign small", USE),
        "no new DSA": ("make dsa parameters", MECHANISM),
        "approved curves only": ("make secp256k1", TEMPLATE),
        "no key transport with PKCS 1 v1.5": ("encrypt pkcs 1", MECHANISM),
        "no short HMAC keys": ("make short hmac", TEMPLATE),
    },
    "bsi-like": {
        "no digests below 256 bits": ("digest sha-1", MECHANISM),
        "no signatures over digests below 256 bits": ("sign sha-1", MECHANISM),
        "no HMAC over digests below 256 bits": ("hmac sha-1", MECHANISM),
        "AES alone": ("make des3", MECHANISM),
        "no ECB": ("encrypt ecb", MECHANISM),
        "no RSA keys below 3000 bits": ("make rsa 2048", TEMPLATE),
        "no use of RSA keys below 3000 bits": ("sign small", USE),
        "encryption with OAEP alone": ("encrypt pkcs 1", MECHANISM),
        "signatures with PSS alone": ("sign sha-256", MECHANISM),
        "no small curves": ("make secp192r1", TEMPLATE),
    },
    "sign-only": {
        "no encryption": ("encrypt ecb", USE),
        "no keys in and out": ("wrap", USE),
        "no raw RSA": ("sign raw", MECHANISM),
    },
    "read-only": {
        "no new token object": ("make token object", TEMPLATE),
        "no change of a token object": ("change token object", USE),
        "no end of a token object": ("destroy token object", USE),
    },
}
# By pkcs11-tool, in a test of their own: they want that no session is open.
BY_TOOL = {("read-only", "no emptying"), ("no-admin", "no emptying"), ("no-admin", "no new PINs")}
NOT_HERE = {
    (
        "modern-only",
        "no RC2 and RC4",
    ),  # SoftHSM has none of these mechanisms, and refuses them in the same way
    ("fips2021-like", "no RC2 and RC4"),
    ("no-export", "no saved operations"),  # neither program can call C_GetOperationState
    ("sign-only", "no operation state"),
    ("sign-only", "no derivation"),  # the stock client does not carry SoftHSM's derivations
}
"""These have their pair in the gate's unit tests (tests/firmware/broker/test_control_points.py)."""

PAIRS = [(profile, point, *how) for profile, points in ASKED.items() for point, how in points.items()]


def rules(profile: str) -> dict[str, Any]:
    """A profile's control points by name."""
    return {rule["name"]: rule for rule in yaml.safe_load(profile_text(profile))["rules"]}


class Application:
    """The driver, in the guest."""

    def __init__(self, world: World) -> None:
        self._base = world.policy("payments-signing").read_text(encoding="utf-8")
        words = ["keyvisor", "guest", "exec", "--guest", "payments", "--", sys.executable, str(DRIVER), HSM]
        self._process = subprocess.Popen(
            words, env=world.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Application:
        assert self._hear() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def apply(self, *points: Any) -> None:
        """From now on the guest's policy has these control points."""
        requests = yaml.safe_dump({"requests": {"rules": list(points)}}) if points else ""
        assert self._say({"policy": self._base + requests}) == "applied"

    def ask(self, what: str) -> str:
        return str(self._say({"ask": what}))

    def _say(self, what: dict[str, str]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the application ended"
        return json.loads(line)


@pytest.fixture(scope="module")
def application(associated: World) -> Iterator[Application]:
    with Application(associated) as application:
        yield application


def test_every_control_point_of_every_profile_has_its_pair() -> None:
    told = {(profile, point) for profile, point, *_ in PAIRS} | BY_TOOL | NOT_HERE
    assert told == {(profile, point) for profile in PROFILES for point in rules(profile)}


@pytest.mark.parametrize(("profile", "point", "what", "refusal"), PAIRS, ids=lambda value: str(value))
def test_a_control_point_refuses_what_is_allowed_without_it(
    profile: str, point: str, what: str, refusal: str, application: Application
) -> None:
    application.apply()
    without = application.ask(what)
    assert without == "ok"
    application.apply(rules(profile)[point])
    refused = application.ask(what)
    assert refused.startswith(refusal) or code_of(refusal) in refused
    application.apply()
    assert application.ask(what) == without


def code_of(refusal: str) -> str:
    """How python-pkcs11 tells a code that it has no class for."""
    return "0x68" if refusal == USE else refusal


def test_why_is_told(application: Application, associated: World) -> None:
    application.apply(rules("modern-only")["no raw RSA"])
    application.ask("sign raw")
    application.apply()
    told = associated.keyvisor("guest", "refusals", "--guest", "payments").ok()
    assert "no raw RSA" in told
    assert "C_SignInit" in told


ADMIN = [
    ("no-admin", "no emptying", ("--init-token", "--label", "new", "--so-pin", "12345678")),
    ("read-only", "no emptying", ("--init-token", "--label", "new", "--so-pin", "12345678")),
    (
        "no-admin",
        "no new PINs",
        ("--init-pin", "--login", "--login-type", "so", "--so-pin", "12345678", "--new-pin", "123456"),
    ),
]


def test_administration_by_pkcs11_tool(world: World) -> None:
    world.ready("payments", "payments-signing")
    base = world.policy("payments-signing")
    text = base.read_text(encoding="utf-8")
    for profile, point, options in ADMIN:
        base.write_text(
            text + yaml.safe_dump({"requests": {"rules": [rules(profile)[point]]}}), encoding="utf-8"
        )
        world.keyvisor("guest", "apply", "--guest", "payments", base).ok()
        assert (
            "CKR_KEY_FUNCTION_NOT_PERMITTED"
            in world.tool("payments", "--slot", "0x30011", *options, token=HSM).refused()
        )
        base.write_text(text, encoding="utf-8")
        world.keyvisor("guest", "apply", "--guest", "payments", base).ok()
        if profile != "read-only":
            world.tool("payments", "--slot", "0x30011", *options).ok()
