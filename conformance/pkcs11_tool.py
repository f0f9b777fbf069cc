"""pkcs11-tool: what a user of OpenSC does on a token, command by command, and its own tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from conformance.commands import Step, run_steps
from conformance.outcomes import Outcome, TestId
from conformance.sides import LABEL, PINS, Side

STEPS: Final = (
    Step("slots", "{tool} -L"),
    Step("slots with tokens", "{tool} -T"),
    Step("mechanisms", "{tool} -M"),
    Step("objects of an empty token", "{tool} -O"),
    Step("information", "{tool} -I"),
    Step("interfaces", "{tool} --list-interfaces"),
    Step("random", "{tool} --generate-random 16 -o random"),
    *(
        Step(f"{hash_} digest", f"{{tool}} --hash -m {hash_} -i data -o hash", same="hash")
        for hash_ in ("MD5", "SHA-1", "SHA256", "SHA384", "SHA512")
    ),
    # keys are made
    Step("AES key", "{tool} {login} --keygen --key-type AES:32 --label aes --id 10"),
    Step(
        "AES key, extractable", "{tool} {login} --keygen --key-type AES:16 --label out --id 11 --extractable"
    ),
    Step("generic key", "{tool} {login} --keygen --key-type GENERIC:32 --label gen --id 12"),
    Step("AES key without a login", "{tool} --keygen --key-type AES:32 --label no --id 13"),
    Step("DES3 key", "{tool} {login} --keygen --key-type DES3:24 --label des --id 14"),
    Step("RSA key pair", "{tool} {login} --keypairgen --key-type rsa:2048 --label r --id 01"),
    Step(
        "P-256 key pair",
        "{tool} {login} --keypairgen --key-type EC:prime256v1 --label e --id 02 --usage-derive",
    ),
    Step("P-384 key pair", "{tool} {login} --keypairgen --key-type EC:secp384r1 --label e3 --id 03"),
    Step("P-521 key pair", "{tool} {login} --keypairgen --key-type EC:secp521r1 --label e5 --id 04"),
    Step("Ed25519 key pair", "{tool} {login} --keypairgen --key-type EC:edwards25519 --label ed --id 05"),
    Step(
        "RSA key pair, authenticated at each use",
        "{tool} {login} --keypairgen --key-type rsa:2048 --label aa --id 06 --always-auth",
    ),
    Step("public key read", "{tool} --read-object --type pubkey --id 01 -o public"),
    # signatures
    Step("SHA256-RSA-PKCS", "{tool} {login} --sign -m SHA256-RSA-PKCS --id 01 -i data -o s1"),
    Step(
        "SHA256-RSA-PKCS, verified",
        "{tool} {login} --verify -m SHA256-RSA-PKCS --id 01 -i data --signature-file s1",
    ),
    Step(
        "SHA256-RSA-PKCS, verified by OpenSSL",
        "openssl dgst -sha256 -verify public -keyform DER -signature s1 data",
    ),
    Step(
        "SHA256-RSA-PKCS, verified without a login",
        "{tool} --verify -m SHA256-RSA-PKCS --id 01 -i data --signature-file s1",
    ),
    Step(
        "SHA256-RSA-PKCS, of other data",
        "{tool} {login} --verify -m SHA256-RSA-PKCS --id 01 -i digest --signature-file s1",
    ),
    Step("signature without a login", "{tool} --sign -m SHA256-RSA-PKCS --id 01 -i data -o none"),
    Step(
        "RSA-PKCS-PSS",
        "{tool} {login} --sign -m RSA-PKCS-PSS --hash-algorithm SHA256 --mgf MGF1-SHA256 --id 01 -i digest -o s2",
    ),
    Step(
        "RSA-PKCS-PSS, verified",
        "{tool} {login} --verify -m RSA-PKCS-PSS --hash-algorithm SHA256 --mgf MGF1-SHA256 --id 01 -i digest --signature-file s2",
    ),
    Step("SHA256-RSA-PKCS-PSS", "{tool} {login} --sign -m SHA256-RSA-PKCS-PSS --id 01 -i data -o none"),
    Step("signature, authenticated", "{tool} {login} --sign -m SHA256-RSA-PKCS --id 06 -i data -o s6"),
    Step("ECDSA", "{tool} {login} --sign -m ECDSA --id 02 -i digest -o s3"),
    Step("ECDSA, verified", "{tool} {login} --verify -m ECDSA --id 02 -i digest --signature-file s3"),
    Step("ECDSA-SHA1", "{tool} {login} --sign -m ECDSA-SHA1 --id 03 -i data -o s4"),
    Step("ECDSA-SHA256", "{tool} {login} --sign -m ECDSA-SHA256 --id 04 -i data -o none"),
    Step("SHA256-HMAC", "{tool} {login} --sign -m SHA256-HMAC --id 12 -i data -o mac"),
    Step(
        "SHA256-HMAC, verified", "{tool} {login} --verify -m SHA256-HMAC --id 12 -i data --signature-file mac"
    ),
    # encryption
    Step("AES-ECB", "{tool} {login} --encrypt -m AES-ECB --id 10 -i data -o c1"),
    Step("AES-ECB, back", "{tool} {login} --decrypt -m AES-ECB --id 10 -i c1 -o p1", equal=("p1", "data")),
    Step("AES-CBC", "{tool} {login} --encrypt -m AES-CBC --iv " + "00" * 16 + " --id 10 -i data -o none"),
    Step("RSA-PKCS, by OpenSSL", "{encrypt} -out c2"),
    Step(
        "RSA-PKCS, back", "{tool} {login} --decrypt -m RSA-PKCS --id 01 -i c2 -o p2", equal=("p2", "digest")
    ),
    Step("RSA-PKCS-OAEP, by OpenSSL", "{encrypt} -pkeyopt rsa_padding_mode:oaep -out c6"),
    Step("RSA-PKCS-OAEP, back", "{oaep} --hash-algorithm SHA-1 --id 01 -i c6 -o p6", equal=("p6", "digest")),
    Step("RSA-PKCS-OAEP of what is none", "{oaep} --hash-algorithm SHA-1 --id 01 -i c2 -o none"),
    Step("RSA-PKCS-OAEP with SHA-256", "{oaep} --hash-algorithm SHA256 --id 01 -i c6 -o none"),
    Step("ECDH1-DERIVE", "{tool} {login} --derive -m ECDH1-DERIVE --id 02 -i ec_public.der -o none"),
    # keys and data come in and go out
    Step("data object, private", "{tool} {login} --write-object data --type data --label d1 --private"),
    Step(
        "data object, private, without a login", "{tool} --write-object data --type data --label d0 --private"
    ),
    Step("data object", "{tool} --write-object data --type data --label d2"),
    Step("certificate", "{tool} {login} --write-object certificate.der --type cert --label c --id 20"),
    Step(
        "RSA private key taken in", "{tool} {login} --write-object rsa.der --type privkey --label ri --id 21"
    ),
    Step("EC private key taken in", "{tool} {login} --write-object ec.der --type privkey --label ei --id 22"),
    Step(
        "EC public key taken in",
        "{tool} {login} --write-object ec_public.der --type pubkey --label ei --id 22",
    ),
    Step(
        "AES key taken in",
        "{tool} {login} --write-object aes --type secrkey --key-type AES:32 --label ai --id 23",
    ),
    Step(
        "RSA key taken in signs", "{tool} {login} --sign -m SHA256-RSA-PKCS --id 21 -i data -o s5", same="s5"
    ),
    Step("AES key taken in encrypts", "{tool} {login} --encrypt -m AES-ECB --id 23 -i data -o c3", same="c3"),
    Step(
        "certificate read",
        "{tool} --read-object --type cert --id 20 -o read",
        equal=("read", "certificate.der"),
    ),
    Step(
        "data object read", "{tool} {login} --read-object --type data --label d1 -o d1", equal=("d1", "data")
    ),
    Step("private data object read without a login", "{tool} --read-object --type data --label d1 -o none"),
    Step("secret key read", "{tool} {login} --read-object --type secrkey --id 10 -o none"),
    Step("private key read", "{tool} {login} --read-object --type privkey --id 01 -o none"),
    Step("key wrapped", "{tool} {login} --wrap -m RSA-PKCS --id 01 --application-id 11 -o w1"),
    Step(
        "key unwrapped",
        "{tool} {login} --unwrap -m RSA-PKCS --id 01 -i w1 --key-type AES: --application-id 30",
    ),
    Step(
        "key that stays in, wrapped", "{tool} {login} --wrap -m RSA-PKCS --id 01 --application-id 10 -o none"
    ),
    Step("key wrapped encrypts", "{tool} {login} --encrypt -m AES-ECB --id 11 -i data -o c4"),
    Step(
        "key unwrapped encrypts",
        "{tool} {login} --encrypt -m AES-ECB --id 30 -i data -o c5",
        equal=("c4", "c5"),
    ),
    # objects are found, changed and deleted
    Step("objects", "{tool} {login} -O", unordered=True),
    Step("objects without a login", "{tool} -O", unordered=True),
    Step("certificates", "{tool} -O --type cert"),
    Step("id changed", "{tool} {login} --set-id 99 --type pubkey --id 03"),
    Step("data object deleted", "{tool} {login} --delete-object --type data --label d2"),
    Step("secret key deleted", "{tool} {login} --delete-object --type secrkey --id 10"),
    Step("secret key deleted twice", "{tool} {login} --delete-object --type secrkey --id 10"),
    Step("private key deleted without a login", "{tool} --delete-object --type privkey --id 01"),
    Step("objects in the end", "{tool} {login} -O", unordered=True),
    # logins and PINs
    Step("wrong PIN", "{tool} --login --pin 9999 -O"),
    Step("PIN changed", "{tool} {login} --change-pin --new-pin 1111"),
    Step("old PIN", "{tool} {login} -O"),
    Step("PIN changed back", "{tool} --login --pin 1111 --change-pin --new-pin {pin}"),
    Step("PIN changed to a short one", "{tool} {login} --change-pin --new-pin 12"),
    Step("PIN set by the security officer", "{tool} {so_login} {so} --init-pin --new-pin {pin}"),
    Step("PIN of the security officer, changed", "{tool} {so_login} {so} --change-pin --new-pin 8765"),
    Step("PIN of the security officer, old", "{tool} {so_login} {so} --init-pin --new-pin {pin}"),
    Step("PIN of the security officer, changed back", "{tool} {so_login} 8765 --change-pin --new-pin {so}"),
    Step("token made anew with a wrong PIN", "{tool} --init-token --label {label} --so-pin 9999"),
    Step("token made anew", "{tool} --init-token --label {label} --so-pin {so}"),
    Step("objects of the new token", "{tool} -O"),
    Step("PIN before one is set", "{tool} {login} -O"),
    Step("PIN set on the new token", "{tool} {so_login} {so} --init-pin --new-pin {pin}"),
    Step("objects of the new token with a login", "{tool} {login} -O"),
)

OWN_TESTS: Final = (
    Step("one key to test with", "{tool} {login} --keypairgen --key-type rsa:2048 --label r --id 01"),
    Step("--test", "{tool} {login} --test"),
    Step("--test without a login", "{tool} --test"),
    Step("--test-ec", "{tool} {login} --session-rw --test-ec --id 55 --key-type EC:prime256v1"),
    Step("--test-fork", "{tool} {login} --test-fork"),
    Step("--moz-cert", "{tool} {login} --moz-cert certificate.der"),
)


def commands(side: Side) -> Iterator[tuple[TestId, Outcome]]:
    """What a user does."""
    return run_steps(side, STEPS, _words(side))


def own_tests(side: Side) -> Iterator[tuple[TestId, Outcome]]:
    """The tests that pkcs11-tool brings, on a token with one key."""
    return run_steps(side, OWN_TESTS, _words(side))


def _words(side: Side) -> dict[str, str]:
    login = f"--login --pin {PINS.user}"
    tool = f"pkcs11-tool --module {side.client} --token-label {LABEL}"
    return {
        "tool": tool,
        "login": login,
        "label": LABEL,
        "pin": PINS.user,
        "so": PINS.so,
        "so_login": "--login --login-type so --so-pin",
        "encrypt": "openssl pkeyutl -encrypt -pubin -inkey public -keyform DER -in digest",
        "oaep": f"{tool} {login} --decrypt -m RSA-PKCS-OAEP",
    }
