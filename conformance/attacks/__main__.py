"""`python -m conformance.attacks NAME --module PATH`: try one attack. Exit code 0: a key came out; 1: it was refused."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Final

from conformance.attacks.token import RefusedByToken, Token

NAMES: Final = (
    "wrap_decrypt", "wrap_raw_sign", "encrypt_unwrap", "double_unwrap", "reimport", "type_confusion", "key_conjuring",
    "trojan_public_key", "known_wrapping_key", "key_separation", "copy_separation", "related_keys",
)  # fmt: skip


def main() -> int:
    """Try it, and say how it went."""
    parser = argparse.ArgumentParser(description="tries a published attack on a PKCS#11 token")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--module", required=True, type=Path)
    parser.add_argument("--slot", type=int, help="by its number; the first with a token if left out")
    parser.add_argument("--pin", help="of a test token; left out for one with a protected path")
    options = parser.parse_args()
    pin = None if options.pin is None else options.pin.encode()
    token = Token.open(options.module, options.slot, pin)
    victim = token.victim()
    attack = importlib.import_module(f"conformance.attacks.{options.name}").attack
    try:
        value: bytes = attack(token, victim)
    except RefusedByToken as refused:
        print(f"{options.name}: refused, {refused}")
        return 1
    if not token.is_value_of(victim, value):
        print(f"{options.name}: what came out is not the key")
        return 1
    print(f"{options.name}: the sensitive key came out")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
