"""`keyvisor owner attest` and `keyvisor guest attest`: files in, files out, and what they prove."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from keyvisor_firmware.attestation.attest import AttestCall, Subject
from keyvisor_firmware.attestation.attest import attest as firmware_attest
from keyvisor_guest import Guest, Refused, SdkError
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.attestation import secret_store_hash
from keyvisor_guest.wire.attestation_file import AttestationFile
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.p521 import public_key_hash

from .host_keys import HOST_KEY, write_host_keys

IDENTITY = BootIdentity(b"\x01" * 64, b"\x02" * 64, b"\x03" * 64, b"\x04" * 16)
FIELDS = {name: getattr(IDENTITY, name).hex() for name in ("pld", "ald", "tld", "header_tag")}
CUID = b"\x42" * 16
TRUST = ("-C", "signing-key.crt", "--crl", "signing-key.crl", "--root-ca", "root-ca.crt")
MAKE = ("create", "-k", "host-key.crt", "-o", "request.bin", "--arpk", "key.bin")
VERIFY = ("verify", "-i", "answer.bin", "--arpk", "key.bin", "--identity", "identity.json")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "desk"
    folder.mkdir()
    write_host_keys(folder)
    (folder / "identity.json").write_text(json.dumps(FIELDS))
    owner = Owner([HOST_KEY.public_key()])
    for name in ("first", "second"):
        (folder / name).write_bytes(owner.association_request(name, IDENTITY).data)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def attest(keyvisor: Callable[..., Any], desk: Path) -> Callable[..., Any]:
    return lambda *arguments: keyvisor("owner", "attest", *arguments)


def answer(desk: Path, user_data: bytes = b"", cuid: bytes = CUID, locked: bool = True) -> None:
    """What an honest firmware makes of request.bin, as answer.bin: two secrets were added."""
    asked = AttestationFile.decode((desk / "request.bin").read_bytes())
    tags = [(desk / name).read_bytes()[-16:] for name in ("first", "second")]
    phkh = public_key_hash(HOST_KEY.public_key())
    subject = Subject(IDENTITY, cuid, phkh, secret_store_hash(tags, locked=locked))
    found = firmware_attest(AttestCall(asked.request, user_data), subject, [HOST_KEY])
    made = AttestationFile(asked.request, found.measurement, found.additional, user_data, found.cuid)
    (desk / "answer.bin").write_bytes(made.encode())


def test_a_request_is_for_hosts_that_are_vouched_for(attest: Callable[..., Any], desk: Path) -> None:
    assert attest(*MAKE, *TRUST).code == 0
    assert attest(*MAKE, *TRUST, "--crl", "revoking.crl", "--force").code == 1
    assert {stat.S_IMODE((desk / name).stat().st_mode) for name in ("request.bin", "key.bin")} == {0o600}
    assert len((desk / "key.bin").read_bytes()) == 32


def test_the_requests_key_is_never_printed(attest: Callable[..., Any], desk: Path) -> None:
    attest(*MAKE, *TRUST)
    answer(desk)
    ended = attest(*VERIFY, "--json")
    assert (desk / "key.bin").read_bytes().hex() not in ended.out + ended.err


def test_nothing_is_overwritten_without_force(attest: Callable[..., Any], desk: Path) -> None:
    (desk / "key.bin").write_text("somebody's")
    ended = attest(*MAKE, *TRUST)
    assert (ended.code, ended.err) == (1, "error: `key.bin`: exists already: give another name, or --force\n")
    assert (desk / "key.bin").read_text() == "somebody's"
    assert not (desk / "request.bin").exists()


def test_a_verified_answer_tells_the_cuid_as_yaml(attest: Callable[..., Any], desk: Path) -> None:
    attest(*MAKE, *TRUST)
    answer(desk)
    ended = attest(*VERIFY)
    assert (ended.code, ended.err) == (0, "")
    assert yaml.safe_load(ended.out) == {
        "cuid": f"0x{CUID.hex()}",
        "boot_identity": FIELDS,
        "verified": ["measurement"],
    }
    assert json.loads(attest(*VERIFY, "--json").out) == yaml.safe_load(ended.out)
    assert attest(*VERIFY, "-o", "cuid.yaml").out == ""
    assert (desk / "cuid.yaml").read_text() == ended.out


def test_everything_that_can_be_expected(attest: Callable[..., Any], desk: Path) -> None:
    asked = ("phkh-img", "phkh-att", "secret-store-hash")
    attest(*MAKE, *TRUST, *(word for name in asked for word in ("--add-data", name)))
    (desk / "mine").write_bytes(b"hash of a key")
    answer(desk, b"hash of a key")
    given = ("-u", "mine", "--request", "first", "--request", "second", "--locked", "-k", "host-key.crt")
    ended = attest(*VERIFY, *given, "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    assert found["verified"] == ["measurement", "user_data", "secret_store_hash", "host_keys"]
    assert list(found["add_fields"]) == ["image_phkh", "attestation_phkh", "secret_store_hash"]
    assert found["add_fields"]["image_phkh"] == f"0x{public_key_hash(HOST_KEY.public_key()).hex()}"
    assert found["user_data"] == f"0x{b'hash of a key'.hex()}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("-u", "first"), "too long for user data"),
        (("-u", "identity.json"), "too long for user data"),
        (("-u", "other"), "other user data"),
        (("--request", "first", "--locked"), "secret store is not in the expected state"),
        (("--request", "second", "--request", "first", "--locked"), "not in the expected state"),
        (("--request", "first", "--request", "second", "--open"), "not in the expected state"),
        (("--locked",), "not in the expected state"),
        (("--request", "identity.json", "--locked"), "`identity.json` is no add-secret request"),
        (("-k", "host-key-backup.crt"), "in none of the given host-key documents"),
    ],
)
def test_what_is_not_as_expected_ends_with_1(
    attest: Callable[..., Any], desk: Path, given: tuple[str, ...], said: str
) -> None:
    attest(*MAKE, *TRUST, "--add-data", "secret-store-hash", "--add-data", "phkh-att")
    (desk / "other").write_bytes(b"other")
    answer(desk)
    ended = attest(*VERIFY, *given, "-o", "cuid.yaml")
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert ended.out == ""
    assert not (desk / "cuid.yaml").exists()


def test_a_lie_is_told_loudly(attest: Callable[..., Any], desk: Path) -> None:
    attest(*MAKE, *TRUST)
    answer(desk)
    lie = bytearray((desk / "answer.bin").read_bytes())
    lie[-1] ^= 1
    (desk / "answer.bin").write_bytes(bytes(lie))
    ended = attest(*VERIFY)
    assert ended.code == 1
    assert ended.err.startswith("error: `answer.bin` is NOT verified: the measurement is not that of a guest")


def test_files_of_another_kind_are_named(attest: Callable[..., Any], desk: Path) -> None:
    attest(*MAKE, *TRUST)
    answer(desk)
    (desk / "short").write_bytes(b"123")
    ended = attest("verify", "-i", "answer.bin", "--arpk", "short", "--identity", "identity.json")
    assert "`short` has 3 bytes, a request's protection key 32" in ended.err
    ended = attest("verify", "-i", "first", "--arpk", "key.bin", "--identity", "identity.json")
    assert ended.err.startswith("error: `first`: not an attestation file")
    ended = attest("verify", "-i", "request.bin", "--arpk", "key.bin", "--identity", "identity.json")
    assert "the file's measurement has 0 bytes, not 64" in ended.err


def test_requests_go_with_a_lock_or_none(attest: Callable[..., Any], desk: Path) -> None:
    attest(*MAKE, *TRUST)
    answer(desk)
    ended = attest(*VERIFY, "--request", "first")
    assert ended.code == 2
    assert "--request goes with --locked or --open" in ended.err


# --- the guest's side, against the firmware's story


@pytest.fixture
def guest(keyvisor: Callable[..., Any], firmware: Any) -> Callable[..., Any]:
    return lambda *arguments: keyvisor(
        "guest", "attest", *arguments, "--guest", "payments", "--state", str(firmware.state)
    )


def test_a_guest_hands_on_request_and_room_and_writes_the_answer(
    attest: Callable[..., Any], guest: Callable[..., Any], desk: Path, firmware: Any
) -> None:
    attest(*MAKE, *TRUST, "--add-data", "phkh-img")
    (desk / "mine").write_bytes(b"\0mine\xff")
    ended = guest("-i", "request.bin", "-o", "answer.bin", "--user-data", "mine")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    (told,) = firmware.story.attested
    asked = AttestationFile.decode((desk / "request.bin").read_bytes())
    assert (told.request, told.user_data) == (asked.request, b"\0mine\xff")
    assert (told.measurement_length, told.additional_length) == (64, 32)
    written = AttestationFile.decode((desk / "answer.bin").read_bytes())
    assert written == AttestationFile(asked.request, b"\xaa" * 64, b"\xbb" * 32, b"\0mine\xff", b"\x0f" * 16)


def test_a_guest_names_a_file_that_is_no_request(guest: Callable[..., Any], desk: Path) -> None:
    ended = guest("-i", "first", "-o", "answer.bin")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: `first`: not an attestation file")
    assert not (desk / "answer.bin").exists()


def test_a_refusal_reaches_the_guest_with_its_code(firmware: Any) -> None:
    guest = Guest("payments", state=firmware.state)
    with pytest.raises(Refused) as refused:
        guest.attest(b"request", additional_length=0)
    assert (refused.value.kind, refused.value.code) == ("attest", 0x010E)
    with pytest.raises(SdkError, match="at most 1048576 bytes"):
        guest.attest(bytes(0x100001))
