"""A process that asks one thing of a guest's HSM, as an application: a question comes in as JSON, what came of it goes out.

`python -m keyvisor_guest.cli.request_asking STATE GUEST`. A process of its own, since p11-kit's client stays with the guest that
it was loaded for. It makes the key that is to be used, or asks. Decides nothing: the gate does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import PROTECTED_AUTH, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.constants import DEFAULT

from keyvisor_guest.guest import Guest

KEY_ID: Final = b"replayed"

_BITS: Final = {KeyType.AES: 256, KeyType.GENERIC_SECRET: 256, KeyType.RSA: 2048}
_PAIRS: Final = frozenset((KeyType.RSA, KeyType.EC, KeyType.EC_EDWARDS, KeyType.DSA, KeyType.DH))
_BY_MECHANISM: Final = {
    Mechanism.AES_KEY_GEN: KeyType.AES,
    Mechanism.GENERIC_SECRET_KEY_GEN: KeyType.GENERIC_SECRET,
    Mechanism.DES2_KEY_GEN: KeyType.DES2,
    Mechanism.DES3_KEY_GEN: KeyType.DES3,
    Mechanism.RSA_PKCS_KEY_PAIR_GEN: KeyType.RSA,
}
# What python-pkcs11 asks for by itself: only what is in the question is to be asked.
_LEFT_OUT: Final = dict.fromkeys(
    (
        *(
            Attribute.ID,
            Attribute.LABEL,
            Attribute.TOKEN,
            Attribute.PRIVATE,
            Attribute.SENSITIVE,
            Attribute.MODIFIABLE,
        ),
        *(
            Attribute.ENCRYPT,
            Attribute.DECRYPT,
            Attribute.WRAP,
            Attribute.UNWRAP,
            Attribute.SIGN,
            Attribute.VERIFY,
        ),
        *(
            Attribute.DERIVE,
            Attribute.SIGN_RECOVER,
            Attribute.VERIFY_RECOVER,
            Attribute.EXTRACTABLE,
            Attribute.CLASS,
        ),
        Attribute.KEY_TYPE,
    ),
    DEFAULT,
)
_SECP256R1: Final = bytes.fromhex("06082a8648ce3d030107")


class NotAsked(Exception):
    """This cannot be asked from here; the text says why."""


def main(state: str, guest: str) -> None:
    """One question from standard input; prints {"asked": how it ended} or {"not_asked": why}."""
    question = json.load(sys.stdin)
    (token,) = Guest(guest, state=Path(state)).pkcs11().get_tokens()
    with token.open(user_pin=PROTECTED_AUTH, rw=True) as session:
        try:
            print(json.dumps({"asked": _done(session, question)}))
        except (NotAsked, ValueError, KeyError) as error:
            print(json.dumps({"not_asked": str(error)}))


def _done(session: pkcs11.Session, question: Mapping[str, Any]) -> str:
    template = _attributes(question["template"])
    mechanism = None if question["mechanism"] is None else Mechanism(question["mechanism"])
    try:
        if question["make"]:
            _make_key(session, _attributes(question["key"]))
        else:
            _ask(session, question["call"], mechanism, template)
    except pkcs11.PKCS11Error as error:
        return type(error).__name__
    return "done"


def _attributes(values: Mapping[str, Any]) -> dict[Attribute, Any]:
    return {Attribute(int(number)): _value(Attribute(int(number)), value) for number, value in values.items()}


def _value(attribute: Attribute, value: Any) -> Any:
    if isinstance(value, dict):
        data = bytes.fromhex(value["hex"])
        return data.decode() if attribute is Attribute.LABEL else data
    kinds: Mapping[Attribute, Callable[[int], Any]] = {
        Attribute.CLASS: ObjectClass,
        Attribute.KEY_TYPE: KeyType,
        Attribute.KEY_GEN_MECHANISM: Mechanism,
    }
    return kinds[attribute](value) if attribute in kinds else value


def _make_key(session: pkcs11.Session, wanted: dict[Attribute, Any]) -> None:
    """A token object that is as the question's key is. Raises NotAsked where the HSM makes none."""
    kind = wanted.get(Attribute.KEY_TYPE) or (
        KeyType.RSA
        if Attribute.MODULUS_BITS in wanted
        else KeyType.EC
        if Attribute.EC_PARAMS in wanted
        else KeyType.AES
    )
    asked: dict[Attribute, Any] = dict(wanted)
    for told in (Attribute.CLASS, Attribute.KEY_TYPE):
        asked.pop(told, None)
    if kind in _PAIRS:
        pair = _pair(session, kind, asked, wanted.get(Attribute.CLASS))
        made = pair[0 if wanted.get(Attribute.CLASS) is ObjectClass.PUBLIC_KEY else 1]
    else:
        bits = 8 * asked.pop(Attribute.VALUE_LEN, _BITS.get(kind, 0) // 8)
        made = session.generate_key(kind, bits or None, id=KEY_ID, store=True, template=asked)
    for attribute, value in wanted.items():
        if attribute is not Attribute.MODULUS_BITS and made[attribute] != value:
            raise NotAsked(f"the HSM makes no key with {attribute.name} {value}")


def _pair(
    session: pkcs11.Session, kind: KeyType, asked: dict[Attribute, Any], half: ObjectClass | None
) -> Any:
    public, private = (asked, None) if half is ObjectClass.PUBLIC_KEY else (None, asked)
    if kind is KeyType.RSA:
        bits = asked.pop(Attribute.MODULUS_BITS, _BITS[kind])
        return session.generate_keypair(
            kind, bits, id=KEY_ID, store=True, public_template=public, private_template=private
        )
    if kind is not KeyType.EC:
        raise NotAsked(f"no key of type {kind.name} is made here")
    curve = session.create_domain_parameters(
        kind, {Attribute.EC_PARAMS: asked.pop(Attribute.EC_PARAMS, _SECP256R1)}, local=True
    )
    return curve.generate_keypair(id=KEY_ID, store=True, public_template=public, private_template=private)


def _ask(
    session: pkcs11.Session, call: str, mechanism: Mechanism | None, template: dict[Attribute, Any]
) -> None:
    if call in ("C_GenerateKey", "C_GenerateKeyPair"):
        _generate(session, call, mechanism, template)
    elif call == "C_CreateObject":
        session.create_object(template)
    elif call == "C_DigestInit":
        session.digest(b"", mechanism=mechanism)
    elif call == "C_GenerateRandom":
        session.generate_random(8)
    elif call == "C_SeedRandom":
        session.seed_random(bytes(8))
    elif call in _WITH_KEY:
        keys = list(session.get_objects({Attribute.ID: KEY_ID}))
        _WITH_KEY[call](keys, mechanism)
    else:
        raise NotAsked(f"{call} is not asked from here")


def _generate(
    session: pkcs11.Session, call: str, mechanism: Mechanism | None, template: dict[Attribute, Any]
) -> None:
    kind = template.get(Attribute.KEY_TYPE) or (None if mechanism is None else _BY_MECHANISM.get(mechanism))
    if kind is None or mechanism is None:
        raise NotAsked("what such a mechanism makes is not known here")
    asked = {**_LEFT_OUT, **template}
    if call == "C_GenerateKey":
        session.generate_key(kind, _BITS.get(kind), mechanism=mechanism, template=asked)
    elif kind is KeyType.RSA:
        bits = template.get(Attribute.MODULUS_BITS, _BITS[kind])
        public = template.get(Attribute.CLASS) is not ObjectClass.PRIVATE_KEY
        session.generate_keypair(
            kind,
            max(bits, 1),
            mechanism=mechanism,
            public_template=asked if public else _LEFT_OUT,
            private_template=_LEFT_OUT if public else {**asked, Attribute.MODULUS_BITS: DEFAULT},
        )
    else:
        raise NotAsked(f"no pair of type {kind.name} is asked for from here")


def _first(keys: list[Any], verb: str) -> Callable[..., Any]:
    for key in keys:
        if hasattr(key, verb):
            return getattr(key, verb)  # type: ignore[no-any-return]
    raise NotAsked(f"the HSM's key has no {verb}")


_WITH_KEY: Final[Mapping[str, Callable[[list[Any], Mechanism | None], Any]]] = {
    "C_SignInit": lambda keys, mechanism: _first(keys, "sign")(b"replayed", mechanism=mechanism),
    "C_VerifyInit": lambda keys, mechanism: _first(keys, "verify")(
        b"replayed", bytes(64), mechanism=mechanism
    ),
    "C_EncryptInit": lambda keys, mechanism: _first(keys, "encrypt")(bytes(16), mechanism=mechanism),
    "C_DecryptInit": lambda keys, mechanism: _first(keys, "decrypt")(bytes(16), mechanism=mechanism),
    "C_DestroyObject": lambda keys, _: keys[0].destroy(),
}


if __name__ == "__main__":
    main(*sys.argv[1:])
