"""The PINs of one key partition: which are set, how often they were missed, and what a call makes of that.

A pure core. A transition takes a record and gives a new one, or raises Failed with the CK_RV for the wire. PINs come in
hashed already, since hashing is slow on purpose and nobody may wait for it. It knows no file, no session and no login.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass, field, replace
from typing import Final

from keyvisor_firmware.broker.errors import Failed
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import (
    CKF_PROTECTED_AUTHENTICATION_PATH,
    CKF_SO_PIN_COUNT_LOW,
    CKF_SO_PIN_FINAL_TRY,
    CKF_SO_PIN_LOCKED,
    CKF_USER_PIN_COUNT_LOW,
    CKF_USER_PIN_FINAL_TRY,
    CKF_USER_PIN_INITIALIZED,
    CKF_USER_PIN_LOCKED,
    CKU_SO,
    CKU_USER,
)

MIN_PIN: Final = 4  # bytes
MAX_PIN: Final = 255  # bytes
MAX_TRIES: Final = 10  # wrong PINs in a row, then the PIN is locked
SALT_SIZE: Final = 16  # bytes
DIGEST_SIZE: Final = 32  # bytes
LABEL_SIZE: Final = 32  # bytes

_COST: Final = 2**14  # scrypt's n; with 128 * r * n = 16 MiB of memory for each PIN that is hashed
_BLOCK: Final = 8
_LANES: Final = 1


class Who(enum.IntEnum):
    """Whose PIN it is, by the user types of the standard."""

    SO = CKU_SO
    USER = CKU_USER


@dataclass(frozen=True, slots=True)
class PinHash:
    """A PIN as it is kept: scrypt of it with a salt of its own."""

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pin:
    """A PIN that is set, and how many wrong ones were tried since the last right one."""

    hash: PinHash
    wrong: int = 0

    @property
    def locked(self) -> bool:
        """Whether not even the right PIN opens any more."""
        return self.wrong >= MAX_TRIES


@dataclass(frozen=True, slots=True)
class TokenPins:
    """All that applications have set on a partition's token: its label of 32 bytes and its PINs; None is not set."""

    label: bytes | None = None
    so: Pin | None = None
    user: Pin | None = None

    def pin(self, who: Who) -> Pin | None:
        """The PIN of `who`."""
        return self.so if who is Who.SO else self.user

    @property
    def untouched(self) -> bool:
        """Whether nobody has set a PIN, so that a login without one opens. Who makes the token anew sets the SO's."""
        return self.so is None and self.user is None


class WrongPin(Failed):
    """A wrong PIN. `counted` is the record with the try counted, to be kept before anybody is answered."""

    def __init__(self, counted: TokenPins) -> None:
        super().__init__(CKR.PIN_INCORRECT, "the PIN is wrong")
        self.counted = counted


# --- hashing


def hash_new(pin: bytes, salt: bytes) -> PinHash:
    """The hash of a PIN that is to be set. Raises Failed unless it has 4 to 255 bytes. Slow."""
    if not MIN_PIN <= len(pin) <= MAX_PIN:
        raise Failed(CKR.PIN_LEN_RANGE, f"a PIN has {MIN_PIN} to {MAX_PIN} bytes")
    return _hash(pin, salt)


def hash_tried(record: TokenPins, who: Who, pin: bytes) -> PinHash:
    """The hash of a PIN that is to be checked, with the salt of the one that is set. Slow.

    Raises Failed where no PIN can be right: none is set, it is locked, or none was given, which is no try and not
    counted.
    """
    known = _usable(record, who)
    if not pin:
        raise Failed(CKR.PIN_INCORRECT, "a PIN is set, and none was given")
    # What is too long to be right stays so, and costs no more than the longest that could be.
    return _hash(pin[: MAX_PIN + 1], known.hash.salt)


def _hash(pin: bytes, salt: bytes) -> PinHash:
    # scrypt begins with HMAC, which fills a short key with zeros: `1234` and `1234\0` would be one PIN. The last byte
    # keeps them apart.
    digest = hashlib.scrypt(pin + b"\1", salt=salt, n=_COST, r=_BLOCK, p=_LANES, dklen=DIGEST_SIZE)
    return PinHash(salt, digest)


# --- transitions


def verified(record: TokenPins, who: Who, tried: PinHash) -> TokenPins:
    """The record after the right PIN. Raises WrongPin, and Failed if the PIN is locked, or not the one `tried` was for."""
    known = _usable(record, who)
    if known.hash.salt != tried.salt:
        raise Failed(CKR.PIN_INCORRECT, "the PIN was changed meanwhile")
    if not hmac.compare_digest(known.hash.digest, tried.digest):
        raise WrongPin(_with(record, who, replace(known, wrong=known.wrong + 1)))
    return _with(record, who, replace(known, wrong=0))


def changed(record: TokenPins, who: Who, new: PinHash) -> TokenPins:
    """The record with a PIN set anew, nothing counted against it."""
    return _with(record, who, Pin(new))


def initialised(label: bytes, so: PinHash) -> TokenPins:
    """The record of a token made anew: no user PIN. The label is cut to 32 bytes, or filled with spaces."""
    return TokenPins(label[:LABEL_SIZE].ljust(LABEL_SIZE), so=Pin(so))


def require_unset(record: TokenPins, who: Who) -> None:
    """Raise Failed if a PIN was set since somebody saw that there was none."""
    if record.pin(who) is not None:
        raise Failed(CKR.PIN_INCORRECT, "a PIN was set meanwhile")


def _usable(record: TokenPins, who: Who) -> Pin:
    known = record.pin(who)
    if known is None:
        raise Failed(CKR.USER_PIN_NOT_INITIALIZED, f"no {_NAMES[who]} PIN is set")
    if known.locked:
        raise Failed(CKR.PIN_LOCKED, f"the {_NAMES[who]} PIN is locked after {MAX_TRIES} wrong ones")
    return known


def _with(record: TokenPins, who: Who, pin: Pin) -> TokenPins:
    return replace(record, so=pin) if who is Who.SO else replace(record, user=pin)


_NAMES: Final = {Who.SO: "SO", Who.USER: "user"}


# --- what the token says of its PINs

# A wrong one was tried; the next wrong one locks; locked.
_COUNT_FLAGS: Final = {
    Who.SO: (CKF_SO_PIN_COUNT_LOW, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED),
    Who.USER: (CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED),
}


def token_flags(record: TokenPins) -> int:
    """The flags of CK_TOKEN_INFO that PINs decide (PKCS#11 2.40, 3.2).

    Applications do not log in where CKF_USER_PIN_INITIALIZED is missing, so it stands with the protected path too.
    """
    flags = 0 if record.user is None else CKF_USER_PIN_INITIALIZED
    if record.untouched:
        flags |= CKF_USER_PIN_INITIALIZED | CKF_PROTECTED_AUTHENTICATION_PATH
    for who, (low, final, locked) in _COUNT_FLAGS.items():
        pin = record.pin(who)
        if pin is not None:
            flags |= low if pin.wrong else 0
            flags |= final if pin.wrong == MAX_TRIES - 1 else 0
            flags |= locked if pin.locked else 0
    return flags
