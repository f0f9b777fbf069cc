"""Guests start from images, and from nothing else: whatever is wrong with one has its code and leaves no guest."""

from __future__ import annotations

import dataclasses
import gzip
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.errors import ApError, Conflict, ImageRefused, NotFound, StateUnusable
from keyvisor_firmware.guests.image_codes import IMAGE_MEANINGS, ImageCode
from keyvisor_firmware.guests.images import BootFiles, BootHeader, set_parameters, verify
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_guest.errors import ImageUnusable
from keyvisor_guest.errors import Refused as HostRefused
from keyvisor_guest.hosting.image_loading import load
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.initrd import Entry, pack
from keyvisor_guest.wire.p521 import public_key_hash
from keyvisor_guest.wire.se_header import HeaderKeys, HeaderSecrets, Scf, open_header, seal_header
from keyvisor_guest.wire.se_image import ImageDraft, ImageKeys, build_image, identity_of, stage3b_address
from keyvisor_guest.wire.se_image_layout import HEADER_AT, find_header
from keyvisor_guest.wire.se_pages import Component, ComponentKind, Placement

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


def opened(image: bytes, *keys: ec.EllipticCurvePrivateKey) -> tuple[BootHeader, BootFiles]:
    """What the firmware learns of an image that an honest host hands over."""
    loaded = load(image)
    boot = set_parameters(loaded.header, keys or (HOST,))
    return boot, verify(boot, loaded.components)


def refusal(image: bytes) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        opened(image)
    return caught.value


HEADER = find_header(IMAGE.data)
COMPONENTS = load(IMAGE.data).components


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
    boot, files = opened(image.data)
    assert boot.header.identity() == image.identity == identity_of(image.data)
    assert (boot.secrets.cck, boot.secrets.scf) == (CCK, Scf.CCK_UPDATE_ALLOWED)
    assert boot.host_key_hash == public_key_hash(HOST.public_key())
    assert files.policy == PolicyRow("/etc/keyvisor/policy.yaml", policy("a").text, measured=True)
    assert repr(CCK)[2:18] not in repr((boot, files))  # four bytes of it: a digest may have two


def test_any_of_several_host_keys_opens_it() -> None:
    backup = ec.derive_private_key(0x2002, ec.SECP521R1())
    image = Owner([HOST.public_key(), backup.public_key()]).build_image(kernel=b"k")
    for keys in ([HOST], [backup], [backup, HOST]):
        assert opened(image.data, *keys)[0].header.identity() == image.identity


def test_an_image_without_a_policy_has_none() -> None:
    for ramdisk in (b"any file", pack([Entry("etc/hostname", FILE, b"g")]), gzip.compress(pack([]))):
        assert opened(crafted(ramdisk))[1].policy is None
    assert opened(an_image(HOST).data)[1].policy is None


def test_a_pvapconfig_list_in_the_image_is_its_policy() -> None:
    text = b"- name: a\n  mode: EP11\n  mkvp: 0x" + b"ab" * 16 + b"\n"
    _, files = opened(with_policy(text, "etc/pvapconfig.yaml"))
    assert files.policy == PolicyRow("/etc/pvapconfig.yaml", text.decode(), measured=True)


# --- what is refused


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", ImageCode.NO_HEADER),
        (b"my image\n", ImageCode.NO_HEADER),
        (changed(0, b"IBMSecEy", HEADER), ImageCode.NO_HEADER),
        (HEADER[:0x20], ImageCode.NO_HEADER),
        (changed(8, b"\x00\x00\x02\x00", HEADER), ImageCode.VERSION_UNSUPPORTED),
        (changed(0x27, b"\x00", HEADER), ImageCode.HOST_KEYS_WRONG),
        (changed(0x27, b"\x60", HEADER), ImageCode.HOST_KEYS_WRONG),
        (changed(0x0E, b"\x00", HEADER), ImageCode.SIZE_WRONG),
        (changed(0x2F, b"\x81", HEADER), ImageCode.SIZE_WRONG),
        (HEADER[:-1], ImageCode.SIZE_WRONG),
        (HEADER + b"\x00", ImageCode.SIZE_WRONG),
        (find_header(an_image(ec.generate_private_key(ec.SECP521R1())).data), ImageCode.CANNOT_DECRYPT),
        (changed(0x40, bytes(160), HEADER), ImageCode.CANNOT_DECRYPT),
        (changed(0x1A0 + 32, bytes(32), HEADER), ImageCode.CANNOT_DECRYPT),
        (changed(0xE0, bytes(64), HEADER), ImageCode.CANNOT_DECRYPT),
    ],
)
def test_each_wrong_header_has_its_code(header: bytes, code: ImageCode) -> None:
    with pytest.raises(ImageRefused) as refused:
        set_parameters(header, [HOST])
    require_code(refused.value, code)


def test_part3_T14_a_header_that_is_cut_is_none() -> None:
    for length in range(len(HEADER)):
        with pytest.raises(ImageRefused) as refused:
            set_parameters(HEADER[:length], [HOST])
        assert refused.value.code in (ImageCode.NO_HEADER, ImageCode.SIZE_WRONG)


def other(component: Component, pages: bytes | None = None, **place: object) -> Component:
    """A component with something else in it."""
    placement = dataclasses.replace(component.placement, **place)  # type: ignore[arg-type]
    return Component(placement, component.pages if pages is None else pages)


def lies() -> dict[str, Sequence[Component]]:
    """What a host can hand over in place of the image's components."""
    *before, last = COMPONENTS
    tweak = last.placement.tweak_prefix
    first_page = Component(Placement(last.placement.address, PAGE, tweak), last.pages[:PAGE])
    return {
        "none": (),
        "one less": before,
        "one twice": (*COMPONENTS, last),
        "another order": tuple(reversed(COMPONENTS)),
        "a page more": (*before, other(last, last.pages + bytes(PAGE), size=last.placement.size + PAGE)),
        "a page less": (*COMPONENTS[1:-1], last),
        "elsewhere": (*before, other(last, address=last.placement.address + PAGE)),
        "another tweak": (*before, other(last, tweak_prefix=changed(7, bytes([tweak[7] ^ 1]), tweak))),
        "another kind": (*before, other(last, tweak_prefix=b"\x00\x02" + tweak[2:])),
        "a bit": (*before, other(last, changed(9, bytes([last.pages[9] ^ 1]), last.pages))),
        "the last bit": (*before, other(last, last.pages[:-1] + bytes([last.pages[-1] ^ 1]))),
        "in two parts": (*before, first_page, first_page),
    }


@pytest.mark.parametrize("components", lies().values(), ids=lies())
def test_what_was_not_measured_by_the_owner_starts_nothing(components: Sequence[Component]) -> None:
    """Nothing but the measurement says so: the order, the places, the tweaks, every byte."""
    with pytest.raises(ImageRefused) as refused:
        verify(set_parameters(HEADER, [HOST]), components)
    require_code(refused.value, ImageCode.NOT_AS_MEASURED)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (crafted(b"070701 and no archive"), ImageCode.RAMDISK_UNUSABLE),
        (crafted(pack([]) + pack([Entry("etc/keyvisor/policy.yaml", FILE)])), ImageCode.RAMDISK_UNUSABLE),
        (crafted(b"\xfd7zXZ\x00..."), ImageCode.RAMDISK_UNUSABLE),
        (with_policy(b"version: 2\n"), ImageCode.POLICY_UNUSABLE),
        (with_policy(b"\xff\xfe"), ImageCode.POLICY_UNUSABLE),
        (with_policy(b""), ImageCode.POLICY_UNUSABLE),
        (with_policy(b"#" * (1 << 20) + b"\n"), ImageCode.POLICY_UNUSABLE),
    ],
)
def test_each_wrong_ramdisk_has_its_code(image: bytes, code: ImageCode) -> None:
    require_code(refusal(image), code)


def require_code(refused: ImageRefused, code: ImageCode) -> None:
    """In one line, and in the text too."""
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
    """The host sees it, or the firmware does."""
    with pytest.raises((ImageUnusable, ImageRefused)):
        opened(changed(at, bytes([IMAGE.data[at] ^ bits])))


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, len(IMAGE.data) - 1))
def test_part3_T14_an_image_of_any_other_length_starts_nothing(cut: int) -> None:
    with pytest.raises((ImageUnusable, ImageRefused)):
        opened(IMAGE.data[:cut])


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
    machine.host.init()
    before = machine.picture()
    good = machine.image("payments")
    for image, code in (
        (changed(len(good) - 1, bytes([good[-1] ^ 1]), good), ImageCode.NOT_AS_MEASURED),
        (changed(HEADER_AT + 0xE0, bytes(64), good), ImageCode.CANNOT_DECRYPT),
        (an_image(HOST).data, ImageCode.CANNOT_DECRYPT),
        (crafted(b"070701 and no archive", machine.host_key.private), ImageCode.RAMDISK_UNUSABLE),
    ):
        with pytest.raises(HostRefused) as refused:
            machine.start("payments", image)
        assert (refused.value.kind, refused.value.code) == ("uv", code)
        assert machine.picture() == before
    assert machine.gates.grants == {}
    events = [event for event in machine.firmware.audit_log() if event.detail["outcome"] == "refused"]
    assert [(event.guest, event.event) for event in events] == [
        ("payments", call) for call in ("verify", "set parameters", "set parameters", "verify")
    ]
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


# --- what is kept of an image


def base_of(machine: Machine, name: str) -> Span:
    """The guest's base area."""
    return machine.configuration(name).slot.base


def test_boot_secrets_survive_a_restart_and_go_with_the_guest(machine: Machine) -> None:
    image = an_image(machine.host_key.private, kernel=b"k", cck=CCK, scf=Scf.EXTENSION_FROM_CCK)
    machine.start("payments", image.data)
    for _ in range(2):
        record = machine.configuration("payments").known
        assert (record.cck, record.scf) == (CCK, Scf.EXTENSION_FROM_CCK)
        assert (record.header, record.runs) == (None, ()), "what was measured is not kept"
        machine.again()
    base = base_of(machine, "payments")
    machine.stop("payments")
    assert machine.host.memory.read(base.start, base.length) == bytes(base.length)


def test_boot_secrets_that_were_moved_to_another_guest_do_not_open(machine: Machine) -> None:
    machine.guest("payments")
    machine.guest("billing")
    with machine.database.transaction() as records:
        contents = Contents(records)
        sealed = contents.read(base_of(machine, "payments"))
        contents.write(base_of(machine, "billing").start, sealed)
    with pytest.raises(StateUnusable, match="base storage of guest `billing` does not open"):
        machine.again()


KERNEL = bytes(range(7, 207)) * 41  # more than one page


@pytest.mark.parametrize("last", ["unpack", "verify", "start_guest", "nothing"])
def test_part2_T12_no_file_and_no_log_holds_what_is_in_an_image_in_clear(machine: Machine, last: str) -> None:
    """Its keys, its pages, and the keys that the firmware made for the guest; wherever its start has come to."""
    image_key, host = bytes(range(64)), machine.host_key.private
    image = crafted(KERNEL, host)
    handle = machine.start_until(last, "payments", image)
    with pytest.raises(HostRefused):
        machine.start("other", changed(len(image) - 1, b"\x01", image))
    record = machine.holdings.guests[handle].known
    told = "".join(machine.log.lines) + repr(machine.firmware.audit_log())
    machine.database.close()
    found = b"".join(path.read_bytes() for path in Path(machine.path).parent.iterdir())
    assert b"payments" in found, "the scan sees what is in clear"
    keys = (CCK, image_key, image_key[:32], image_key[32:], b"\x17" * 32, record.page_key)
    for secret in (*keys, record.memory_key, record.memory_key[:32], record.memory_key[32:], KERNEL[:32]):
        assert secret not in found
        assert secret.hex() not in told
        assert repr(secret)[2:-1] not in told
    machine.up()


def test_a_guest_reads_its_image_in_clear_and_its_pages_at_rest_are_neither_that_nor_the_images(
    machine: Machine,
) -> None:
    image = crafted(KERNEL, machine.host_key.private)
    place = load(image).components[0].placement
    instance = machine.start("payments", image)
    assert machine.firmware.paging.read(instance.id, Span(place.address, len(KERNEL))) == KERNEL
    second = machine.start("billing", image)
    assert machine.firmware.paging.read(second.id, Span(place.address, len(KERNEL))) == KERNEL
    at_rest = []
    for name in ("payments", "billing"):
        guest = machine.configuration(name)
        (span,) = machine.holdings.host.spaces.translate(guest.slot.asce, place.address, place.size) or ()
        with machine.database.transaction() as records:
            at_rest.append(Contents(records).read(span))
    pages = [image[place.address : place.end], *at_rest]
    for number in range(0, place.size, 4096):
        assert len({page[number : number + 4096] for page in pages}) == 3


# --- opened after the lock

AFTER_LOCK = b"version: 1\naccess: after-lock\n"


def with_guest_file(text: bytes, *more: Entry) -> bytes:
    return crafted(pack([Entry("etc/keyvisor/guest.yaml", FILE, text), *more]))


@pytest.mark.parametrize(
    ("text", "closed"),
    [(AFTER_LOCK, True), (b"version: 1\naccess: always\n", False), (b"version: 1\n", False)],
)
def test_an_image_says_when_its_guest_opens(text: bytes, closed: bool) -> None:
    assert opened(with_guest_file(text))[1].opens_after_lock is closed


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
