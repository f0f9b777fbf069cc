"""What the firmware takes from an image, and the code of whatever is wrong with its header or its pages."""

from __future__ import annotations

import dataclasses
import gzip
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.errors import ImageRefused
from keyvisor_firmware.guests.image_codes import IMAGE_MEANINGS, ImageCode
from keyvisor_firmware.guests.images import BootFiles, BootHeader, set_parameters, verify
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_guest.hosting.image_loading import load
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.initrd import Entry, pack
from keyvisor_guest.wire.se_header import HeaderKeys, HeaderSecrets, Scf, open_header, seal_header
from keyvisor_guest.wire.se_image import ImageDraft, ImageKeys, build_image, identity_of, stage3b_address
from keyvisor_guest.wire.se_image_layout import HEADER_AT, find_header
from keyvisor_guest.wire.se_pages import Component, ComponentKind, Placement

from ...images import an_image
from ..machine import policy

HOST = ec.derive_private_key(0x1001, ec.SECP521R1())
IMAGE = an_image(HOST, policy=policy("payments-signing").text)
LOADED = load(IMAGE.data)
HEADER, PAGES = LOADED.header, LOADED.components
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


def opened(image: bytes, host_keys: list[ec.EllipticCurvePrivateKey]) -> tuple[BootHeader, BootFiles]:
    """What the firmware takes from an image that a host loaded."""
    loaded = load(image)
    boot = set_parameters(loaded.header, host_keys)
    return boot, verify(boot, loaded.components)


def refusal(image: bytes, host: ec.EllipticCurvePrivateKey = HOST) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        opened(image, [host])
    return caught.value


def header_refusal(header: bytes) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        set_parameters(header, [HOST])
    return caught.value


def pages_refusal(components: list[Component]) -> ImageRefused:
    boot = set_parameters(HEADER, [HOST])
    with pytest.raises(ImageRefused) as caught:
        verify(boot, components)
    return caught.value


def changed(at: int, value: bytes, data: bytes = IMAGE.data) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def moved(component: Component, address: int | None = None, tweak_prefix: bytes | None = None) -> Component:
    place = component.placement
    there = place.address if address is None else address
    tweak = tweak_prefix or place.tweak_prefix
    return dataclasses.replace(component, placement=Placement(there, place.size, tweak))


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
    boot, files = opened(image.data, [HOST])
    assert boot.header.identity() == image.identity == identity_of(image.data)
    assert (boot.secrets.cck, boot.secrets.scf) == (CCK, Scf.CCK_UPDATE_ALLOWED)
    assert files.policy == PolicyRow("/etc/keyvisor/policy.yaml", policy("a").text, measured=True)
    assert repr(CCK)[2:18] not in repr((boot, files))  # four bytes of it: a digest may have two


def test_any_of_several_host_keys_opens_it() -> None:
    backup = ec.derive_private_key(0x2002, ec.SECP521R1())
    image = Owner([HOST.public_key(), backup.public_key()]).build_image(kernel=b"k")
    for keys in ([HOST], [backup], [backup, HOST]):
        assert opened(image.data, keys)[0].header.identity() == image.identity


def test_an_image_without_a_policy_has_none() -> None:
    for ramdisk in (b"any file", pack([Entry("etc/hostname", FILE, b"g")]), gzip.compress(pack([]))):
        assert opened(crafted(ramdisk), [HOST])[1].policy is None
    assert opened(an_image(HOST).data, [HOST])[1].policy is None


def test_a_pvapconfig_list_in_the_image_is_its_policy() -> None:
    text = b"- name: a\n  mode: EP11\n  mkvp: 0x" + b"ab" * 16 + b"\n"
    _, files = opened(with_policy(text, "etc/pvapconfig.yaml"), [HOST])
    assert files.policy == PolicyRow("/etc/pvapconfig.yaml", text.decode(), measured=True)


# --- what is refused


def assert_told(refused: ImageRefused, code: ImageCode) -> None:
    assert refused.code == code
    assert "\n" not in str(refused)
    assert str(refused).endswith(f"({code:#06x})")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", ImageCode.NO_HEADER),
        (HEADER[:0x30], ImageCode.NO_HEADER),
        (changed(0, b"IBMSecEy", HEADER), ImageCode.VERSION_UNSUPPORTED),
        (changed(8, b"\x00\x00\x02\x00", HEADER), ImageCode.VERSION_UNSUPPORTED),
        (changed(0x27, b"\x00", HEADER), ImageCode.HOST_KEYS_WRONG),
        (changed(0x27, b"\x60", HEADER), ImageCode.HOST_KEYS_WRONG),
        (changed(0x0E, b"\x00", HEADER), ImageCode.SIZE_WRONG),
        (changed(0x2F, b"\x81", HEADER), ImageCode.SIZE_WRONG),
        (HEADER[:-1], ImageCode.SIZE_WRONG),
        (HEADER + b"\x00", ImageCode.SIZE_WRONG),
        (load(an_image(ec.generate_private_key(ec.SECP521R1())).data).header, ImageCode.CANNOT_DECRYPT),
        (changed(0x40, bytes(160), HEADER), ImageCode.CANNOT_DECRYPT),
        (changed(0x1A0 + 32, bytes(32), HEADER), ImageCode.CANNOT_DECRYPT),
        (changed(0xE0, bytes(64), HEADER), ImageCode.CANNOT_DECRYPT),
    ],
)
def test_each_wrong_header_has_its_code(header: bytes, code: ImageCode) -> None:
    assert_told(header_refusal(header), code)


@pytest.mark.parametrize(
    "components",
    [
        [],
        list(PAGES[:-1]),
        list(reversed(PAGES)),
        [*PAGES, PAGES[0]],
        [moved(PAGES[0], address=0), *PAGES[1:]],
        [moved(PAGES[0], tweak_prefix=b"\x00\x02" + bytes(6)), *PAGES[1:]],
        [moved(PAGES[0], tweak_prefix=b"\xff" * 8), *PAGES[1:]],
        list(load(an_image(HOST).data).components),
    ],
)
def test_pages_that_the_owner_did_not_measure_are_refused(components: list[Component]) -> None:
    assert_told(pages_refusal(components), ImageCode.NOT_AS_MEASURED)


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
def test_each_wrong_image_has_its_code(image: bytes, code: ImageCode) -> None:
    assert_told(refusal(image), code)


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


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(HEADER) - 1), bits=st.integers(1, 255))
def test_part3_T2_a_flipped_byte_anywhere_in_the_header_starts_nothing(at: int, bits: int) -> None:
    header_refusal(changed(at, bytes([HEADER[at] ^ bits]), HEADER))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), bits=st.integers(1, 255))
def test_part3_T2_a_flipped_byte_anywhere_in_the_pages_starts_nothing(data: st.DataObject, bits: int) -> None:
    components = list(PAGES)
    which = data.draw(st.integers(0, len(components) - 1))
    pages = components[which].pages
    at = data.draw(st.integers(0, len(pages) - 1))
    flipped = changed(at, bytes([pages[at] ^ bits]), pages)
    components[which] = dataclasses.replace(components[which], pages=flipped)
    assert pages_refusal(components).code == ImageCode.NOT_AS_MEASURED


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, len(HEADER) - 1))
def test_part3_T14_a_header_of_any_other_length_starts_nothing(cut: int) -> None:
    header_refusal(HEADER[:cut])


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


# --- opened after the lock

AFTER_LOCK = b"version: 1\naccess: after-lock\n"


def with_guest_file(text: bytes, *more: Entry) -> bytes:
    return crafted(pack([Entry("etc/keyvisor/guest.yaml", FILE, text), *more]))


@pytest.mark.parametrize(
    ("text", "closed"),
    [(AFTER_LOCK, True), (b"version: 1\naccess: always\n", False), (b"version: 1\n", False)],
)
def test_an_image_says_when_its_guest_opens(text: bytes, closed: bool) -> None:
    assert opened(with_guest_file(text), [HOST])[1].opens_after_lock is closed


@pytest.mark.parametrize("text", [b"access: after-lock\n", b"version: 1\naccess: after_lock\n", b"\xff", b""])
def test_what_it_says_is_read_strictly(text: bytes) -> None:
    """A file that cannot be read is never taken for one that opens the guest; what it says, the host is not told."""
    refused = refusal(with_guest_file(text))
    assert refused.code is ImageCode.GUEST_FILE_UNUSABLE
    assert "after_lock" not in str(refused)
    assert all(finding.endswith(": not as it must be") for finding in refused.findings)
