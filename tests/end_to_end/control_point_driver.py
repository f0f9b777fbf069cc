"""An application that asks an HSM for one thing after the other, while its guest's policy changes: what each was answered.

Runs in the guest, with python-pkcs11 and the stock client. Reads a line of JSON, does it, answers a line of JSON:
`{"policy": TEXT}` applies a policy, `{"ask": NAME}` asks. The session and its keys are made first, and stay.
"""

from __future__ import annotations

import json
import os
import sys

from pkcs11 import PROTECTED_AUTH, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_named_curve_parameters

from keyvisor_guest import Guest

HSM = sys.argv[1]
guest = Guest(os.environ["KEYVISOR_GUEST"])
token = guest.pkcs11().get_token(token_label=HSM)
session = token.open(rw=True, user_pin=PROTECTED_AUTH)
SIGN, ENCRYPT = MechanismFlag.SIGN | MechanismFlag.VERIFY, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
WRAP = MechanismFlag.WRAP | MechanismFlag.UNWRAP
DATA = b"sixteen bytes.. "


def rsa(bits, capabilities=SIGN):
    return session.generate_keypair(KeyType.RSA, bits, capabilities=capabilities)


def curve(name):
    parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters(name)}
    return session.create_domain_parameters(KeyType.EC, parameters, local=True).generate_keypair()


def aes(capabilities=ENCRYPT, **more):
    return session.generate_key(KeyType.AES, 256, capabilities=capabilities, **more)


def generic(bits):
    return session.generate_key(
        KeyType.GENERIC_SECRET, bits, mechanism=Mechanism.GENERIC_SECRET_KEY_GEN, capabilities=SIGN
    )


def imported(key_type, length):
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.VALUE: bytes([7]) * length,
            Attribute.TOKEN: False,
        }
    )


KEPT = {
    "small": rsa(1024),
    "big": rsa(3072),
    "cipher": rsa(2048, ENCRYPT),
    "aes": aes(),
    "kek": rsa(2048, WRAP),
    "leaves": aes(template={Attribute.EXTRACTABLE: True}),
    "hmac": generic(256),
    "token": aes(store=True, label="kept"),
}


def sign(key, mechanism, data=DATA):
    return KEPT[key][1].sign(data, mechanism=mechanism)


ASKED = {
    "digest sha-1": lambda: session.digest(DATA, mechanism=Mechanism.SHA_1),
    "digest md5": lambda: session.digest(DATA, mechanism=Mechanism._MD5),
    "sign sha-1": lambda: sign("big", Mechanism.SHA1_RSA_PKCS),
    "sign sha-256": lambda: sign("big", Mechanism.SHA256_RSA_PKCS),
    "sign small": lambda: sign("small", Mechanism.SHA256_RSA_PKCS),
    "sign raw": lambda: rsa(2048)[1].sign(bytes(256), mechanism=Mechanism.RSA_X_509),
    "hmac sha-1": lambda: KEPT["hmac"].sign(DATA, mechanism=Mechanism.SHA_1_HMAC),
    "make des3": lambda: session.generate_key(KeyType.DES3, capabilities=ENCRYPT),
    "take in des3": lambda: imported(KeyType.DES3, 24),
    "make rsa 1024": lambda: rsa(1024),
    "make rsa 2048": lambda: rsa(2048),
    "encrypt pkcs 1": lambda: KEPT["cipher"][0].encrypt(DATA, mechanism=Mechanism.RSA_PKCS),
    "encrypt ecb": lambda: KEPT["aes"].encrypt(DATA, mechanism=Mechanism.AES_ECB),
    "make dh parameters": lambda: session.generate_domain_parameters(KeyType.DH, 512),
    "make dsa parameters": lambda: session.generate_domain_parameters(KeyType.DSA, 1024),
    "make secp192r1": lambda: curve("secp192r1"),
    "make secp256k1": lambda: curve("secp256k1"),
    "make short hmac": lambda: generic(64),
    "wrap": lambda: KEPT["kek"][0].wrap_key(KEPT["leaves"], mechanism=Mechanism.RSA_PKCS_OAEP),
    "make extractable": lambda: aes(template={Attribute.EXTRACTABLE: True}),
    "make readable": lambda: aes(template={Attribute.SENSITIVE: False}),
    "make token object": lambda: aes(store=True, label="new"),
    "change token object": lambda: KEPT["token"].__setitem__(Attribute.LABEL, "renamed"),
    "destroy token object": lambda: aes(store=True, label="spare").destroy(),
}


def ask(name):
    """The answer: `ok`, or the name of the exception with what it holds."""
    try:
        ASKED[name]()
    except PKCS11Error as error:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    return "ok"


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    wanted = json.loads(line)
    if "policy" in wanted:
        guest.apply(wanted["policy"])
        print(json.dumps("applied"), flush=True)
        continue
    print(json.dumps(ask(wanted["ask"])), flush=True)
