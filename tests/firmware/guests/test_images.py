"""Guests start from images, and from nothing else: whatever is wrong with one has its code and leaves no guest."""

from __future__ import annotations

import dataclasses
import gzip
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from keyvisor_firmware.guests.boot_secrets import BootSecrets
from sqlalchemy import update

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.errors import ApError, Conflict, ImageRefused, NotFound, StateUnusable
from keyvisor_firmware.guests.image_codes import IMAGE_MEANINGS, ImageCode
from keyvisor_firmware.guests.images import open_image
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.state.schema import BOOT_SECRETS
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.initrd import Entry, pack
from keyvisor_guest.wire.se_header import HeaderKeys, HeaderSecrets, Scf, open_header, seal_header
from keyvisor_guest.wire.se_image import ImageDraft, ImageKeys, build_image, identity_of, stage3b_address
from keyvisor_guest.wire.se_image_layout import HEADER_AT, IPIB_AT, RECORD_AT, find_header
from keyvisor_guest.wire.se_pages import ComponentKind

from ...images import an_image
from ..machine import HSM, SIGNING, SPARE, Machine, policy, step

HOST = ec.derive_private_key(0x1001, ec.SECP521R1())
IMAGE = an_image(HOST, policy=policy("payments-signing").text)
CCK = bytes(range(0xC0, 0xE0))
FILE = stat.S_IFREG | 0o444


def crafted(ramdisk: bytes, host: ec.EllipticCurvePrivateKey = HOST) -> bytes:
    """An image with any ramdisk: the owner's own tools would refuse a bad one."""
    parts = {ComponentKind.RAMDISK: ramdisk}
    secrets = HeaderSecrets(CCK, bytes(range(64)), 0, stage3b_address(parts), 0)
    keys = HeaderKeys(ec.generate_private_key(ec.SECP521R1()), b"\x17" * 32, b"\x55" * 12)
    fresh = ImageKeys(keys, {kind: bytes(6) for kind in ComponentKind})
    return build_image(ImageDraft(parts, secrets), fresh, [host.public_key()])


def with_policy(text: bytes, path: str = "etc/keyvisor/policy.yaml") -> bytes:
    return crafted(pack([Entry(path, FILE, text)]))


def refusal(image: bytes, host: ec.EllipticCurvePrivateKey = HOST) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        open_image(image, [host])
    return caught.value


def changed(at: int, value: bytes, data: bytes = IMAGE.data) -> bytes:
    return data[:at] + value + data[at + len(value) :]


# --- what is opened


def test_an_image_gives_its_identity_its_secrets_and_its_policy() -> None:
    image = an_image(
        HOST,
        policy=policy("a").text,
        kernel=b"k",
        cmdline="root=/dev/ram0",
        cck=CCK,
        scf=Scf.CCK_UPDATE_ALLOWED,
    )
    opened = open_image(image.data, [HOST])
    assert opened.identity == image.identity == identity_of(image.data)
    assert opened.secrets == BootSecrets(CCK, Scf.CCK_UPDATE_ALLOWED)
    assert opened.policy == PolicyRow("/etc/keyvisor/policy.yaml", policy("a").text, measured=True)
    assert repr(CCK)[2:18] not in repr(opened)  # four bytes of it: a digest may have two


def test_any_of_several_host_keys_opens_it() -> None:
    backup = ec.derive_private_key(0x2002, ec.SECP521R1())
    image = Owner([HOST.public_key(), backup.public_key()]).build_image(kernel=b"k")
    for keys in ([HOST], [backup], [backup, HOST]):
        assert open_image(image.data, keys).identity == image.identity


def test_an_image_without_a_policy_has_none() -> None:
    for ramdisk in (b"any file", pack([Entry("etc/hostname", FILE, b"g")]), gzip.compress(pack([]))):
        assert open_image(crafted(ramdisk), [HOST]).policy is None
    assert open_image(an_image(HOST).data, [HOST]).policy is None


def test_a_pvapconfig_list_in_the_image_is_its_policy() -> None:
    text = b"- name: a\n  mode: EP11\n  mkvp: 0x" + b"ab" * 16 + b"\n"
    opened = open_image(with_policy(text, "etc/pvapconfig.yaml"), [HOST])
    assert opened.policy == PolicyRow("/etc/pvapconfig.yaml", text.decode(), measured=True)


# --- what is refused


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"", ImageCode.NO_HEADER),
        (b"my image\n", ImageCode.NO_HEADER),
        (IMAGE.data[:HEADER_AT], ImageCode.NO_HEADER),
        (changed(HEADER_AT, b"IBMSecEy"), ImageCode.NO_HEADER),
        (IMAGE.data[: HEADER_AT + 0x30], ImageCode.NO_HEADER),
        (changed(HEADER_AT + 8, b"\x00\x00\x02\x00"), ImageCode.VERSION_UNSUPPORTED),
        (changed(HEADER_AT + 0x27, b"\x00"), ImageCode.HOST_KEYS_WRONG),
        (changed(HEADER_AT + 0x27, b"\x60"), ImageCode.HOST_KEYS_WRONG),
        (changed(HEADER_AT + 0x0E, b"\x00"), ImageCode.SIZE_WRONG),
        (changed(HEADER_AT + 0x2F, b"\x81"), ImageCode.SIZE_WRONG),
        (an_image(ec.generate_private_key(ec.SECP521R1())).data, ImageCode.CANNOT_DECRYPT),
        (changed(HEADER_AT + 0x40, bytes(160)), ImageCode.CANNOT_DECRYPT),
        (changed(HEADER_AT + 0x1A0 + 32, bytes(32)), ImageCode.CANNOT_DECRYPT),
        (changed(HEADER_AT + 0xE0, bytes(64)), ImageCode.CANNOT_DECRYPT),
        (IMAGE.data[HEADER_AT : HEADER_AT + 640], ImageCode.COMPONENTS_WRONG),
        (changed(RECORD_AT, b"SeImgLny"), ImageCode.COMPONENTS_WRONG),
        (IMAGE.data[:-1], ImageCode.COMPONENTS_WRONG),
        (changed(0x100, b"\x01"), ImageCode.COMPONENTS_WRONG),
        (IMAGE.data + b"\x01", ImageCode.COMPONENTS_WRONG),
        (changed(len(IMAGE.data) - 1, bytes([IMAGE.data[-1] ^ 1])), ImageCode.NOT_AS_MEASURED),
        (changed(IPIB_AT + 0x8F, bytes([IMAGE.data[IPIB_AT + 0x8F] ^ 1])), ImageCode.NOT_AS_MEASURED),
        (crafted(b"070701 and no archive"), ImageCode.RAMDISK_UNUSABLE),
        (crafted(pack([]) + pack([Entry("etc/keyvisor/policy.yaml", FILE)])), ImageCode.RAMDISK_UNUSABLE),
        (crafted(b"\xfd7zXZ\x00..."), ImageCode.RAMDISK_UNUSABLE),
        (with_policy(b"version: 2\n"), ImageCode.POLICY_UNUSABLE),
        (with_policy(b"\xff\xfe"), ImageCode.POLICY_UNUSABLE),
        (with_policy(b""), ImageCode.POLICY_UNUSABLE),
        (with_policy(b"#" * (1 << 20) + b"\n"), ImageCode.POLICY_UNUSABLE),
    ],
)
def test_each_wrong_image_has_its_code(image: bytes, code: ImageCode) -> None:
    refused = refusal(image)
    assert refused.code == code
    assert "\n" not in str(refused)
    assert str(refused).endswith(f"({code:#06x})")


@pytest.mark.parametrize("scf", [1, Scf.EXTENSION_FROM_CCK | Scf.CCK_UPDATE_ALLOWED])
def test_flags_that_cannot_be_are_refused_and_not_told(scf: int) -> None:
    image = crafted(b"any file")
    header, secrets = open_header(find_header(image), [HOST])
    bad = seal_header(header.associated, header.iv, b"\x17" * 32, dataclasses.replace(secrets, scf=scf))
    refused = refusal(changed(HEADER_AT, bad, image))
    assert refused.code == ImageCode.FLAG_UNKNOWN
    assert f"{scf:016x}" not in str(refused)


def test_every_code_says_the_way_out() -> None:
    assert set(IMAGE_MEANINGS) == set(ImageCode)
    for meaning in IMAGE_MEANINGS.values():
        assert meaning.text[0].islower()
        assert meaning.way_out


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(IMAGE.data) - 1), bits=st.integers(1, 255))
def test_part3_T2_a_flipped_byte_anywhere_starts_nothing(at: int, bits: int) -> None:
    refusal(changed(at, bytes([IMAGE.data[at] ^ bits])))


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, len(IMAGE.data) - 1))
def test_part3_T14_an_image_of_any_other_length_starts_nothing(cut: int) -> None:
    refusal(IMAGE.data[:cut])


def test_the_host_learns_where_a_policy_is_wrong_and_not_what_it_says() -> None:
    text = b"version: 1\nassociations:\n  - name: confidential\n    secrte: hush\n"
    refused = refusal(with_policy(text))
    assert refused.findings
    for finding in refused.findings:
        place, line, column, message = finding.split(":", 3)
        assert (place, message) == ("/etc/keyvisor/policy.yaml", " not as it must be")
        assert int(line) >= 3
        assert int(column) >= 1
    for word in ("confidential", "secrte", "hush"):
        assert word not in str(refused) + "".join(refused.findings)
        assert word not in str(refusal(crafted(pack([Entry(word, FILE)]) + b"x")))


def test_a_refused_image_leaves_no_guest_and_is_recorded(machine: Machine) -> None:
    before = machine.picture()
    bad = changed(40, b"\x01", machine.image("payments"))
    for image in (bad, machine.image("payments")[:-1], an_image(HOST).data, b""):
        with pytest.raises(ImageRefused):
            machine.start("payments", image)
    assert machine.picture() == before
    assert machine.gates.grants == {}
    events = [event for event in machine.firmware.audit_log() if event.event.startswith("start guest")]
    assert [event.guest for event in events] == ["payments"] * 4
    assert "0x0108" in str(events[2].detail)
    machine.start("payments")


# --- the policy inside


def started(machine: Machine, text: str) -> tuple[str, Instance]:
    """A guest from an image with this policy, with HSMs and the secret; its instance."""
    image = an_image(machine.host_key.private, policy=text)
    instance = machine.start("payments", image.data)
    for apqn in (HSM, SPARE):
        machine.firmware.attach("payments", apqn)
    machine.firmware.add_secret(instance.id, machine.request(instance, "payments-signing"))
    return text, instance


def test_the_policy_in_the_image_is_registered_and_no_other_takes_its_place(machine: Machine) -> None:
    text, instance = started(machine, policy("payments-signing").text)
    firmware = machine.firmware
    kept = PolicyRow("/etc/keyvisor/policy.yaml", text, measured=True)
    assert firmware.get_policy(instance.id) == kept
    for attempt in (
        lambda: firmware.set_policy(instance.id, policy("another")),
        lambda: firmware.set_policy(instance.id, PolicyRow("x", text + "\n")),
        lambda: firmware.apply_plan(instance.id, policy("another"), (step("bind", HSM),)),
    ):
        with pytest.raises(Conflict, match="the one in its image"):
            attempt()
    assert machine.state(instance, HSM) == "unbound"
    steps = (step("bind", HSM), step("associate", HSM, SIGNING))
    firmware.apply_plan(instance.id, PolicyRow("another name", text), steps)
    firmware.set_policy(instance.id, kept)
    assert firmware.get_policy(instance.id) == kept
    assert machine.state(instance, HSM) == "associated"
    machine.again()
    assert machine.state(instance, HSM) == "associated"
    with pytest.raises(Conflict, match="the one in its image"):
        machine.firmware.set_policy(instance.id, policy("another"))


def test_it_permits_associations_from_the_start(machine: Machine) -> None:
    _, instance = started(machine, policy("payments-signing").text)
    machine.firmware.bind(instance.id, HSM)
    machine.firmware.associate(instance.id, HSM, SIGNING)
    assert machine.state(instance, HSM) == "associated"


def test_a_guest_whose_image_has_none_registers_its_own(machine: Machine) -> None:
    guest = machine.guest("payments")
    with pytest.raises(NotFound, match="no policy is registered"):
        machine.firmware.get_policy(guest.id)
    for row in (policy("a"), policy("b")):
        machine.firmware.set_policy(guest.id, row)
        assert machine.firmware.get_policy(guest.id) == row


# --- the boot secrets


def test_boot_secrets_survive_a_restart_and_go_with_the_guest(machine: Machine) -> None:
    image = an_image(machine.host_key.private, kernel=b"k", cck=CCK, scf=Scf.EXTENSION_FROM_CCK)
    guest = machine.start("payments", image.data)
    for _ in range(2):
        with machine.database.transaction() as records:
            kept = machine.firmware._stores.boot_secrets(records, guest)
        assert kept == BootSecrets(CCK, Scf.EXTENSION_FROM_CCK)
        machine.again()
    machine.stop("payments")
    with machine.database.transaction() as records:
        assert records.boot_secrets(guest.id) is None


def test_boot_secrets_that_were_moved_to_another_guest_do_not_open(machine: Machine) -> None:
    guest, other = machine.guest("payments"), machine.guest("billing")
    with machine.database.transaction() as records:
        sealed = records.boot_secrets(guest.id)
    with machine.database._engine.begin() as connection:
        connection.execute(
            update(BOOT_SECRETS).where(BOOT_SECRETS.c.instance == other.id).values(sealed=sealed)
        )
    with pytest.raises(StateUnusable, match="boot secrets of guest `billing` do not open"):
        machine.again()


def test_no_file_and_no_log_holds_a_key_of_the_image_in_clear(machine: Machine) -> None:
    image_key = bytes(range(64))
    image = crafted(pack([]), machine.host_key.private)
    machine.start("payments", image)
    with pytest.raises(ImageRefused):
        machine.start("other", changed(len(image) - 1, b"\x01", image))
    told = "".join(machine.log.lines) + repr(machine.firmware.audit_log())
    machine.database.close()
    found = b"".join(path.read_bytes() for path in Path(machine.path).parent.iterdir())
    for secret in (CCK, image_key, image_key[:32], image_key[32:], b"\x17" * 32):
        assert secret not in found
        assert secret.hex() not in told
        assert repr(secret)[2:-1] not in told
    machine.up()


# --- opened after the lock

AFTER_LOCK = b"version: 1\naccess: after-lock\n"


def with_guest_file(text: bytes, *more: Entry) -> bytes:
    return crafted(pack([Entry("etc/keyvisor/guest.yaml", FILE, text), *more]))


@pytest.mark.parametrize(
    ("text", "closed"),
    [(AFTER_LOCK, True), (b"version: 1\naccess: always\n", False), (b"version: 1\n", False)],
)
def test_an_image_says_when_its_guest_opens(text: bytes, closed: bool) -> None:
    assert open_image(with_guest_file(text), [HOST]).opens_after_lock is closed


@pytest.mark.parametrize("text", [b"access: after-lock\n", b"version: 1\naccess: after_lock\n", b"\xff", b""])
def test_what_it_says_is_read_strictly(text: bytes) -> None:
    """A file that cannot be read is never taken for one that opens the guest; what it says, the host is not told."""
    refused = refusal(with_guest_file(text))
    assert refused.code is ImageCode.GUEST_FILE_UNUSABLE
    assert "after_lock" not in str(refused)
    assert all(finding.endswith(": not as it must be") for finding in refused.findings)


def closed_guest(machine: Machine, name: str = "payments") -> Instance:
    rules = Entry("etc/keyvisor/policy.yaml", FILE, policy("payments-signing").text.encode())
    image = crafted(
        pack([Entry("etc/keyvisor/guest.yaml", FILE, AFTER_LOCK), rules]), machine.host_key.private
    )
    instance = machine.start(name, image)
    machine.firmware.attach(name, HSM)
    return instance


def test_part3_T6_the_gate_is_closed_until_the_store_is_locked(machine: Machine) -> None:
    instance = closed_guest(machine)
    machine.firmware.add_secret(instance.id, machine.request(instance, "payments-signing"))
    row = machine.firmware.get_policy(instance.id)
    steps = [step("bind", HSM), step("associate", HSM, SIGNING)]
    for command in (
        lambda: machine.firmware.bind(instance.id, HSM),
        lambda: machine.firmware.apply_plan(instance.id, row, steps),
    ):
        with pytest.raises(ApError) as refused:
            command()
        assert refused.value.code is ApCode.NOT_OPEN_YET
        assert "keyvisor guest secret lock" in str(refused.value)
    assert not machine.firmware.is_open(instance.id)
    machine.firmware.lock_secrets(instance.id)
    assert machine.firmware.is_open(instance.id)
    (view,) = machine.firmware.apply_plan(instance.id, row, steps)
    assert view.state is State.ASSOCIATED


def test_part3_T6_it_stays_closed_over_a_restart_and_opens_for_no_other_guest(machine: Machine) -> None:
    first, second = closed_guest(machine), closed_guest(machine, "billing")
    machine.again()
    assert not machine.firmware.is_open(first.id)
    machine.firmware.lock_secrets(first.id)
    machine.again()
    assert machine.firmware.is_open(first.id)
    assert not machine.firmware.is_open(second.id)
    with pytest.raises(ApError):
        machine.firmware.bind(second.id, HSM)
    machine.firmware.bind(first.id, HSM)
