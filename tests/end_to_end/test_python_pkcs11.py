"""python-pkcs11's own examples, through `Guest.pkcs11()` and the stock client, on an associated HSM."""

from __future__ import annotations

import sys

import pytest
from tests.end_to_end.conftest import HSM, World

PREAMBLE = f"""
import pkcs11
from keyvisor_guest import Guest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, PROTECTED_AUTH
token = Guest("payments").pkcs11().get_token(token_label="{HSM}")
session = token.open(rw=True, user_pin=PROTECTED_AUTH)
data = b"INPUT DATA"
"""

EXAMPLES = {
    "rsa": """
public, private = session.generate_keypair(KeyType.RSA, 2048)
assert public.verify(data, private.sign(data)) is True
assert private.decrypt(public.encrypt(data)) == data
""",
    "ec": """
from pkcs11.util.ec import encode_named_curve_parameters
parameters = session.create_domain_parameters(
    KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
public, private = parameters.generate_keypair(store=True, label="signer")
signature = private.sign(bytes(32), mechanism=Mechanism.ECDSA)
assert public.verify(bytes(32), signature, mechanism=Mechanism.ECDSA)
""",
    "aes": """
key = session.generate_key(KeyType.AES, 256, label="my key")
block = b"0123456789abcdef"
assert key.decrypt(key.encrypt(block, mechanism=Mechanism.AES_ECB), mechanism=Mechanism.AES_ECB) == block
""",
    "find": """
session.generate_key(KeyType.AES, 256, label="found", store=True)
assert [key.label for key in session.get_objects({Attribute.LABEL: "found"})] == ["found"]
session.get_key(label="found").destroy()
assert list(session.get_objects({Attribute.LABEL: "found"})) == []
""",
    "digest": """
import hashlib
assert session.digest(data, mechanism=Mechanism.SHA256) == hashlib.sha256(data).digest()
assert session.digest((data[:3], data[3:]), mechanism=Mechanism.SHA512) == hashlib.sha512(data).digest()
""",
    "random": """
assert len(session.generate_random(1 << 16)) == 1 << 13
session.seed_random(b"seed")
""",
    "threads": """
import threading
failures = []
def work():
    try:
        with token.open(rw=True) as own:
            key = own.generate_key(KeyType.AES, 128, template={Attribute.TOKEN: False})
            for _ in range(50):
                block = own.generate_random(128)
                assert key.decrypt(key.encrypt(block, mechanism=Mechanism.AES_ECB), mechanism=Mechanism.AES_ECB) == block
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
""",
    "large": """
key = session.generate_key(KeyType.AES, 256, template={Attribute.TOKEN: False})
block = bytes(1 << 20)
assert key.decrypt(key.encrypt(block, mechanism=Mechanism.AES_ECB), mechanism=Mechanism.AES_ECB) == block
""",
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(associated: World, example: str) -> None:
    associated.run(sys.executable, "-W", "error", "-c", PREAMBLE + EXAMPLES[example]).ok()
