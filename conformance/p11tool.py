"""p11tool: what a user of GnuTLS does on a token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from conformance.commands import Step, run_steps
from conformance.outcomes import Outcome, TestId
from conformance.sides import LABEL, PINS, Side

STEPS: Final = (
    Step("--list-tokens", "{tool} --list-tokens"),
    Step("--list-token-urls", "{tool} --list-token-urls"),
    Step("--list-mechanisms", "{tool} --list-mechanisms {token}"),
    Step("--list-all of an empty token", "{tool} --list-all {token}"),
    Step("--generate-random", "{tool} --generate-random 16 --outfile random {token}"),
    Step("RSA key pair", "{tool} --login --generate-privkey rsa --bits 2048 --label r --id 01 {token}"),
    Step(
        "EC key pair", "{tool} --login --generate-privkey ecdsa --curve secp256r1 --label e --id 02 {token}"
    ),
    Step(
        "certificate written",
        "{tool} --login --write --load-certificate certificate.pem --label c --id 03 {token}",
    ),
    Step("private key written", "{tool} --login --write --load-privkey rsa.pem --label w --id 03 {token}"),
    Step("public key written", "{tool} --login --write --load-pubkey public.pem --label p --id 04 {token}"),
    Step(
        "secret key written",
        "{tool} --login --write --secret-key 000102030405060708090a0b0c0d0e0f --label s --id 05 {token}",
    ),
    Step("--list-all", "{tool} --login --list-all {token}", unordered=True),
    Step("--list-all without a login", "{tool} --list-all {token}", unordered=True),
    Step("--list-all-privkeys", "{tool} --login --list-all-privkeys {token}", unordered=True),
    Step("--list-all-certs", "{tool} --list-all-certs {token}"),
    Step("--list-certs", "{tool} --login --list-certs {token}"),
    Step("--info of a certificate", "{tool} --info {token}';object=c'"),
    Step(
        "--export of a certificate",
        "{tool} --export --outder --outfile read.der {token}';object=c;type=cert'",
        equal=("read.der", "certificate.der"),
    ),
    Step("--export-pubkey", "{tool} --login --export-pubkey --outfile r.pem {token}';object=r;type=private'"),
    Step("--test-sign with RSA", "{tool} --login --test-sign {token}';object=r;type=private'"),
    Step("--test-sign with EC", "{tool} --login --test-sign {token}';object=e;type=private'"),
    Step("--test-sign with a key written", "{tool} --login --test-sign {token}';object=w;type=private'"),
    Step("--set-label", "{tool} --login --set-label d {token}';object=c;type=cert'"),
    Step("--set-id", "{tool} --login --set-id 09 {token}';object=d;type=cert'"),
    Step("--delete", "{tool} --login --delete {token}';object=d'"),
    Step("--list-all in the end", "{tool} --login --list-all {token}", unordered=True),
    Step("--initialize", "{tool} --initialize --label {label} {token}"),
    Step("--list-all after it", "{tool} --list-all {token}"),
    Step("--initialize-pin", "{tool} --initialize-pin {token}"),
    Step("--list-all with the new PIN", "{tool} --login --list-all {token}"),
)


def commands(side: Side) -> Iterator[tuple[TestId, Outcome]]:
    """What a user does. GnuTLS takes the PIN from the environment."""
    side = replace(side, environment={**side.environment, "GNUTLS_PIN": PINS.user, "GNUTLS_SO_PIN": PINS.so})
    words = {
        "tool": f"p11tool --batch --provider {side.client}",
        "token": f"pkcs11:token={LABEL}",
        "label": LABEL,
    }
    return run_steps(side, STEPS, words)
