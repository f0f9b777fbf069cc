"""The rules of PINs, alone: transitions of a record, and the same in a model that keeps PINs in clear and counts."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.pins import (
    MAX_TRIES,
    Pin,
    PinHash,
    TokenPins,
    Who,
    WrongPin,
    changed,
    hash_new,
    hash_tried,
    initialised,
    require_unset,
    token_flags,
    verified,
)
from keyvisor_hsm.cryptoki import CKR

SALT, OTHER_SALT = bytes(16), bytes(range(16))
PROTECTED, INITIALIZED = 1 << 8, 1 << 3
LOW, FINAL, LOCKED = 1 << 16, 1 << 17, 1 << 18  # of the user; those of the SO stand four bits higher
WHOSE = pytest.mark.parametrize("who", Who)


def quick(pin: bytes, salt: bytes = SALT) -> PinHash:
    """In the place of scrypt, which tests of rules need not wait for."""
    return PinHash(salt, hashlib.sha256(salt + pin).digest())


def having(who: Who, pin: bytes = b"1234") -> TokenPins:
    return changed(TokenPins(), who, quick(pin))


def missed(record: TokenPins, who: Who, times: int) -> TokenPins:
    """The record after wrong PINs."""
    for _ in range(times):
        with pytest.raises(WrongPin) as wrong:
            verified(record, who, quick(b"wrong"))
        assert wrong.value.rv == CKR.PIN_INCORRECT
        record = wrong.value.counted
    return record


@WHOSE
def test_the_right_pin_opens_and_forgets_wrong_ones(who: Who) -> None:
    record = missed(having(who), who, MAX_TRIES - 1)
    assert verified(record, who, quick(b"1234")) == having(who)


@WHOSE
def test_after_the_last_try_not_even_the_right_pin_opens(who: Who) -> None:
    record = missed(having(who), who, MAX_TRIES)
    for tried in (b"1234", b"wrong"):
        with pytest.raises(Failed) as failed:
            verified(record, who, quick(tried))
        assert failed.value.rv == CKR.PIN_LOCKED
        with pytest.raises(Failed) as failed:
            hash_tried(record, who, tried)
        assert failed.value.rv == CKR.PIN_LOCKED
    assert verified(changed(record, who, quick(b"new pin")), who, quick(b"new pin"))


@WHOSE
def test_one_pin_says_nothing_of_the_other(who: Who) -> None:
    other = Who(1 - who)
    record = changed(having(who), other, quick(b"another"))
    assert missed(record, who, 3).pin(other) == record.pin(other)
    with pytest.raises(WrongPin):
        verified(record, who, quick(b"another"))


@WHOSE
def test_no_pin_is_no_open_door(who: Who) -> None:
    for check in (lambda: verified(TokenPins(), who, quick(b"")), lambda: hash_tried(TokenPins(), who, b"")):
        with pytest.raises(Failed) as failed:
            check()
        assert failed.value.rv == CKR.USER_PIN_NOT_INITIALIZED


def test_a_try_for_a_pin_that_was_changed_meanwhile_neither_opens_nor_counts() -> None:
    record = changed(TokenPins(), Who.USER, quick(b"1234", OTHER_SALT))
    with pytest.raises(Failed) as failed:
        verified(record, Who.USER, quick(b"1234"))
    assert failed.value.rv == CKR.PIN_INCORRECT
    assert not isinstance(failed.value, WrongPin)
    with pytest.raises(Failed):
        require_unset(record, Who.USER)
    require_unset(record, Who.SO)


@pytest.mark.parametrize("length", [0, 1, 3, 256, 1 << 20])
def test_a_pin_has_4_to_255_bytes(length: int) -> None:
    with pytest.raises(Failed) as failed:
        hash_new(bytes(length), SALT)
    assert failed.value.rv == CKR.PIN_LEN_RANGE


@pytest.mark.parametrize("pin", [b"1234", b"\0" * 4, b"p" * 255, "schlüssel".encode()])
def test_a_pin_is_kept_as_scrypt_of_it(pin: bytes) -> None:
    kept = hash_new(pin, SALT)
    assert kept.digest == hashlib.scrypt(pin + b"\1", salt=SALT, n=16384, r=8, p=1, dklen=32)
    record = changed(TokenPins(), Who.USER, kept)
    assert verified(record, Who.USER, hash_tried(record, Who.USER, pin)) == record
    for wrong in (pin[:-1], pin + b"\0", pin + b"\1" * 300):
        with pytest.raises(WrongPin):
            verified(record, Who.USER, hash_tried(record, Who.USER, wrong))


def test_the_same_pin_with_another_salt_is_another_hash() -> None:
    assert hash_new(b"1234", SALT).digest != hash_new(b"1234", OTHER_SALT).digest


def test_giving_no_pin_is_no_try() -> None:
    with pytest.raises(Failed) as failed:
        hash_tried(having(Who.USER), Who.USER, b"")
    assert failed.value.rv == CKR.PIN_INCORRECT
    assert not isinstance(failed.value, WrongPin)


def test_a_record_does_not_show_its_hashes() -> None:
    record = TokenPins(bytes(32), Pin(hash_new(b"so pin", SALT)), Pin(hash_new(b"1234", OTHER_SALT)))
    told = repr(record) + repr(WrongPin(record)) + str(WrongPin(record))
    for secret in (record.so, record.user):
        assert secret is not None
        assert repr(secret.hash.digest)[2:-1] not in told
        assert secret.hash.digest.hex() not in told
    assert "1234" not in told


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"", b" " * 32),
        (b"payments", b"payments".ljust(32)),
        (b"x" * 40, b"x" * 32),
        (b"\xff" * 32, b"\xff" * 32),
    ],
)
def test_a_label_has_32_bytes(given: bytes, kept: bytes) -> None:
    assert initialised(given, quick(b"so pin")).label == kept


def test_a_token_made_anew_forgets_the_user() -> None:
    assert initialised(b"new", quick(b"so pin")).user is None


@WHOSE
@pytest.mark.parametrize(
    ("wrong", "flags"),
    [(0, 0), (1, LOW), (MAX_TRIES - 2, LOW), (MAX_TRIES - 1, LOW | FINAL), (MAX_TRIES, LOW | LOCKED)],
)
def test_the_token_tells_how_many_tries_are_left(who: Who, wrong: int, flags: int) -> None:
    before = having(who)
    counted = token_flags(missed(before, who, wrong)) & ~token_flags(before)
    assert counted == (flags if who is Who.USER else flags << 4)


def test_the_protected_path_stands_while_nobody_has_set_a_pin() -> None:
    """Made anew by an SO, the token is an ordinary one: GnuTLS would else log the SO in without a PIN to set the user's."""
    assert token_flags(TokenPins()) == PROTECTED | INITIALIZED
    assert token_flags(having(Who.SO)) == 0
    assert token_flags(having(Who.USER)) == INITIALIZED


# --- the same, against a model

_PINS = st.sampled_from([b"1234", b"4321", b"so pin"])
_WHOSE = st.sampled_from(Who)


class Pins(RuleBasedStateMachine):
    """Any sequence of transitions. The model: per holder the PIN in clear, and the number of wrong ones."""

    def __init__(self) -> None:
        super().__init__()
        self.record = TokenPins()
        self.known: dict[Who, tuple[bytes, int]] = {}

    @rule(who=_WHOSE, pin=_PINS)
    def is_set(self, who: Who, pin: bytes) -> None:
        self.record = changed(self.record, who, quick(pin))
        self.known[who] = pin, 0

    @rule(pin=_PINS, label=st.binary(max_size=40))
    def is_initialised(self, pin: bytes, label: bytes) -> None:
        self.record = initialised(label, quick(pin))
        self.known = {Who.SO: (pin, 0)}

    @rule(who=_WHOSE, pin=_PINS, times=st.integers(1, MAX_TRIES))
    def is_tried(self, who: Who, pin: bytes, times: int) -> None:
        for _ in range(times):
            assert self._try(who, pin) == self._expect(who, pin)

    def _try(self, who: Who, pin: bytes) -> int:
        try:
            self.record = verified(self.record, who, quick(pin))
        except WrongPin as wrong:
            self.record = wrong.counted
            return wrong.rv
        except Failed as failed:
            return failed.rv
        return CKR.OK

    def _expect(self, who: Who, pin: bytes) -> int:
        if who not in self.known:
            return CKR.USER_PIN_NOT_INITIALIZED
        right, wrong = self.known[who]
        if wrong >= MAX_TRIES:
            return CKR.PIN_LOCKED
        self.known[who] = right, 0 if pin == right else wrong + 1
        return CKR.OK if pin == right else CKR.PIN_INCORRECT

    @invariant()
    def the_record_is_the_models(self) -> None:
        for who in Who:
            pin = self.record.pin(who)
            assert (None if pin is None else pin.wrong) == self.known.get(who, (b"", None))[1]
        assert bool(token_flags(self.record) & PROTECTED) == (not self.known)
        assert bool(token_flags(self.record) & LOCKED) == (self.known.get(Who.USER, (b"", 0))[1] == MAX_TRIES)


TestPins = Pins.TestCase
TestPins.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_model_would_notice() -> None:
    """The broken twin: a record that does not count."""
    machine = Pins()
    machine.is_set(Who.USER, b"1234")
    machine.is_tried(Who.USER, b"4321", 1)
    user = machine.record.user
    assert user is not None
    machine.record = dataclasses.replace(machine.record, user=dataclasses.replace(user, wrong=0))
    with pytest.raises(AssertionError):
        machine.the_record_is_the_models()
