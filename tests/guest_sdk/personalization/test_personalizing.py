"""The order of things: sort, hand over, lock, furnish; and what happens when a host does not play along."""

from __future__ import annotations

import itertools
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from keyvisor_guest.errors import PersonalizationFailed, SdkError
from keyvisor_guest.personalization import Description, Fate, Named, PlacedSecret, personalize
from keyvisor_guest.wire.asrcb import parse

from .people import STRANGER, USER, FakeGuest, FakeSecrets, public, request

FIRST, SECOND, OTHERS = request("first"), request("second"), request("other", STRANGER)
USER_KEY = public(USER)


def run(guest: FakeGuest, *requests: bytes, **options: Any) -> Any:
    named = [Named(f"r{at}", data) for at, data in enumerate(requests)]
    return personalize(guest, named, USER_KEY, **options)  # type: ignore[arg-type]  # stands in for a Guest


def test_the_firmware_sees_the_users_requests_alone_in_their_order_and_then_the_lock() -> None:
    guest = FakeGuest()
    done = run(guest, FIRST, OTHERS, SECOND)
    assert guest.secrets.seen == [FIRST, SECOND]
    assert guest.secrets.locked
    assert [outcome.fate for outcome in done.outcomes] == [Fate.TAKEN, Fate.DROPPED, Fate.TAKEN]


def test_part3_T13_a_host_that_withholds_a_request_is_noticed_and_nothing_is_opened() -> None:
    guest = FakeGuest()
    contents = [parse(FIRST).tag, parse(SECOND).tag]
    with pytest.raises(PersonalizationFailed, match="did not come") as failed:
        run(guest, FIRST, contents=contents)
    assert parse(SECOND).tag.hex() in str(failed.value)
    assert [outcome.fate for outcome in failed.value.outcomes] == [Fate.HELD]
    assert not guest.secrets.locked
    run(guest, SECOND, FIRST, contents=contents)  # what was missing comes later
    assert guest.secrets.locked
    assert guest.secrets.seen == [SECOND, FIRST], "nothing is in the store twice"


def test_part3_T13_a_host_that_duplicates_requests_adds_nothing() -> None:
    guest = FakeGuest()
    done = run(guest, FIRST, FIRST, SECOND, FIRST)
    assert guest.secrets.taken == [FIRST, SECOND]
    assert [outcome.fate for outcome in done.outcomes].count(Fate.DROPPED) == 2


@pytest.mark.parametrize("order", tuple(itertools.permutations((FIRST, SECOND, OTHERS))))
def test_part3_T13_a_host_that_reorders_requests_changes_nothing_that_counts(
    order: tuple[bytes, ...],
) -> None:
    guest = FakeGuest()
    run(guest, *order, contents=[parse(FIRST).tag, parse(SECOND).tag])
    assert sorted(guest.secrets.taken) == sorted((FIRST, SECOND))


def test_a_copy_with_another_tag_takes_nothing_away() -> None:
    """The tag is not signed, so that whoever brings requests can bring such a copy; the firmware refuses it."""
    forged = FIRST[:-1] + bytes((FIRST[-1] ^ 1,))
    guest = FakeGuest(FakeSecrets(refuses=lambda data: data == forged))
    done = run(guest, forged, FIRST)
    assert [outcome.fate for outcome in done.outcomes] == [Fate.REFUSED, Fate.TAKEN]
    assert guest.secrets.locked


def test_a_copy_with_the_signatures_other_form_takes_nothing_away() -> None:
    """Of an ECDSA signature (r, s) anybody makes (r, n - s), which verifies as well."""
    length = int.from_bytes(FIRST[0x218 + 0x190 : 0x218 + 0x192], "big")
    r, s = decode_dss_signature(FIRST[0x318 : 0x318 + length])
    order = int(
        "1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    )
    other = encode_dss_signature(r, order - s)
    area = FIRST[0x218 : 0x218 + 0x100] + other.ljust(0x90, b"\0") + len(other).to_bytes(2, "big")
    forged = FIRST[:0x218] + area.ljust(512, b"\0") + FIRST[0x418:]
    guest = FakeGuest(FakeSecrets(refuses=lambda data: data == forged))
    done = run(guest, forged, FIRST)
    assert [outcome.fate for outcome in done.outcomes] == [Fate.REFUSED, Fate.TAKEN]
    assert guest.secrets.locked


def test_a_refused_request_is_told_and_nothing_is_locked() -> None:
    guest = FakeGuest(FakeSecrets(refuses=lambda data: data == SECOND))
    with pytest.raises(
        PersonalizationFailed, match="`r1` is refused: the request cannot be decrypted"
    ) as failed:
        run(guest, FIRST, SECOND)
    assert [outcome.fate for outcome in failed.value.outcomes] == [Fate.TAKEN, Fate.REFUSED]
    assert not guest.secrets.locked


def test_nothing_of_the_users_locks_nothing() -> None:
    guest = FakeGuest()
    with pytest.raises(PersonalizationFailed, match="none of the requests was taken"):
        run(guest, OTHERS)
    assert guest.secrets.seen == []
    assert not guest.secrets.locked


def test_a_secret_that_the_description_places_and_that_is_not_there_is_missed_before_the_lock() -> None:
    guest = FakeGuest()
    description = Description(files=(PlacedSecret("certificate", PurePosixPath("crt"), 0o644),))
    with pytest.raises(PersonalizationFailed, match="the secret `certificate` did not come"):
        run(guest, FIRST, description=description)
    assert not guest.secrets.locked


def test_a_store_that_is_locked_already_is_named() -> None:
    guest = FakeGuest(FakeSecrets(locked=True))
    with pytest.raises(SdkError, match="locked already"):
        run(guest, FIRST)
    assert guest.secrets.seen == []


def test_the_guest_is_furnished_after_the_lock(tmp_path: Path) -> None:
    guest = FakeGuest(FakeSecrets(values={"certificate": b"a certificate", "key": b"a key"}))
    description = Description(
        files=(PlacedSecret("certificate", PurePosixPath("tls/crt"), 0o644),),
        keys=(PlacedSecret("key", PurePosixPath("tls/key"), 0o600),),
        apply=True,
        command=("sh", "-c", "cat tls/crt > seen; exit 7"),
    )
    said: list[str] = []
    done = run(guest, FIRST, description=description, root=tmp_path, say=said.append)
    assert (tmp_path / "tls" / "key").read_bytes() == b"PEM of a key"
    assert (tmp_path / "seen").read_bytes() == b"a certificate"
    assert (done.exit_code, guest.applied) == (7, 1)
    assert said[:2] == ["r0 is taken", "locking the secret store"]
    assert not any("a certificate" in line for line in said)
