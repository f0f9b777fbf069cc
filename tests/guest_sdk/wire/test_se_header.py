"""Image headers: the published one byte for byte, every check with its broken twin, every byte under the tag."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import CannotDecrypt, Malformed, Truncated, Unbuildable, WireError
from keyvisor_guest.wire.key_slots import key_encryption_key, unwrap_slot
from keyvisor_guest.wire.p521 import shared_secret
from keyvisor_guest.wire.se_header import (
    DEFAULT_PCF,
    MAX_HEADER_SLOTS,
    HeaderDraft,
    HeaderKeys,
    HeaderSecrets,
    Measurement,
    Pcf,
    Scf,
    build_header,
    check_scf,
    header_key,
    open_header,
    parse_header,
    unseal_header,
)

MEASURED = Measurement(3, b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64)
SECRETS = HeaderSecrets(b"\x0c" * 32, bytes(range(64)), 0x180000000, 0x17000, Scf.CCK_UPDATE_ALLOWED)
KEY = b"\x17" * 32
IV = b"\x55" * 12
HOST = ec.derive_private_key(0x1001, ec.SECP521R1())
CUSTOMER = ec.derive_private_key(0x3003, ec.SECP521R1())
FRESH = HeaderKeys(CUSTOMER, KEY, IV)


def a_header(secrets=SECRETS, hosts=(HOST,), measured=MEASURED, pcf=DEFAULT_PCF):
    return build_header(HeaderDraft(measured, secrets, pcf), FRESH, [host.public_key() for host in hosts])


HEADER = a_header()


def changed(at, value, data=HEADER):
    return data[:at] + value + data[at + len(value) :]


def resealed(clear, header=HEADER):
    """The header with another encrypted part, and a tag that fits."""
    associated = parse_header(header).associated
    return associated + AESGCM(KEY).encrypt(IV, clear, associated)


def test_the_published_header_opens_and_is_built_again(vectors):
    data = vectors.read("upstream/pvimg_builder_test.hdr")
    header = parse_header(data)
    kek = key_encryption_key(shared_secret(vectors.keys["customer"], vectors.upstream_host()))
    key = unwrap_slot(header.slots[0], kek)
    secrets = unseal_header(header, key)

    assert header.encode() == data
    assert (len(data), header.measured.page_count, header.pcf, len(header.slots)) == (640, 1, 0, 1)
    assert (secrets.cck, secrets.image_key, secrets.scf) == (b"1" * 32, b"\x03" * 64, 0)
    assert (secrets.psw_mask, secrets.psw_address) == (5678, 1234)
    assert header.identity() == BootIdentity(
        header.measured.pld, header.measured.ald, header.measured.tld, data[-16:]
    )
    fresh = HeaderKeys(vectors.keys["customer"], key, header.iv)
    draft = HeaderDraft(header.measured, secrets, header.pcf)
    assert build_header(draft, fresh, [vectors.upstream_host()]) == data


def test_a_header_comes_back_for_each_of_its_hosts(host_key, other_key):
    data = a_header(hosts=(other_key, host_key), pcf=DEFAULT_PCF | Pcf.DUMP_ALLOWED)
    for key in (host_key, other_key):
        header, secrets = open_header(data, [key])
        assert secrets == SECRETS
        assert header.measured == MEASURED
        assert header.pcf == 0x200000E0
    assert len(data) == 0x1A0 + 2 * 80 + 128 + 16


def test_part3_T2_another_hosts_header_does_not_open(other_key):
    with pytest.raises(CannotDecrypt, match="no key slot is for this host's key"):
        open_header(HEADER, [other_key])


def test_part3_T1_each_flipped_byte_of_a_header_is_refused():
    for at in range(len(HEADER)):
        with pytest.raises((Malformed, CannotDecrypt)):
            open_header(changed(at, bytes([HEADER[at] ^ 1])), [HOST])


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0x000, b"IBMSecEy", "does not begin with `IBMSecEx`"),
        (0x008, b"\x00\x00\x02\x00", "header version 0x200"),
        (0x00C, (640 + 16).to_bytes(4, "big"), "do not add up"),
        (0x00C, (8193).to_bytes(4, "big"), "at most 8192 bytes"),
        (0x01C, b"\x00\x00\x00\x01", "reserved field of the header at 0x1c"),
        (0x020, bytes(8), "1 to 95 host keys, not 0"),
        (0x020, (96).to_bytes(8, "big"), "1 to 95 host keys, not 96"),
        (0x020, b"\xff" * 8, "1 to 95 host keys"),
        (0x028, (144).to_bytes(8, "big"), "144 bytes, not 128"),
        (0x028, b"\xff" * 8, "not 128"),
    ],
)
def test_what_a_header_says_is_held_against_it(at, value, said):
    with pytest.raises(Malformed, match=said):
        parse_header(changed(at, value))


def test_a_customer_key_that_is_no_point_is_refused_before_it_is_used():
    header = parse_header(changed(0x40, b"\x00" * 79 + b"\x01"))
    with pytest.raises(CannotDecrypt, match="not on the curve"):
        header_key(header, [HOST])


def test_a_header_is_as_long_as_it_says():
    for cut in (0, 1, 0x3F, 0x40, 0x1A0, len(HEADER) - 1):
        with pytest.raises(Malformed):
            parse_header(HEADER[:cut])
    with pytest.raises(Truncated):
        parse_header(b"")
    with pytest.raises(Malformed, match="left over"):
        parse_header(HEADER + b"\x00")


def test_the_encrypted_part_is_read_strictly():
    clear = SECRETS.encode()
    assert open_header(resealed(clear), [HOST])[1] == SECRETS
    for bad, said in (
        (clear[:-8] + b"\x00\x00\x00\x01" + bytes(4), "optional items"),
        (clear[:-1] + b"\x01", "optional items is not zero"),
        (clear[:112] + b"\x80" + clear[113:], "unknown secret control flags"),
        (clear[:112] + b"\x60" + clear[113:], "exclude each other"),
    ):
        with pytest.raises(Malformed, match=said):
            open_header(resealed(bad), [HOST])


def test_control_flags():
    for good in (0, Scf.EXTENSION_FROM_CCK, Scf.CCK_UPDATE_ALLOWED):
        check_scf(good)
    assert (Scf.EXTENSION_FROM_CCK, Scf.CCK_UPDATE_ALLOWED) == (0x4000000000000000, 0x2000000000000000)
    with pytest.raises(Unbuildable, match="exclude each other"):
        a_header(dataclasses.replace(SECRETS, scf=Scf.EXTENSION_FROM_CCK | Scf.CCK_UPDATE_ALLOWED))
    with pytest.raises(Unbuildable, match="unknown"):
        a_header(dataclasses.replace(SECRETS, scf=1))


def test_a_header_has_room_for_95_hosts_and_no_more():
    assert len(a_header(hosts=(HOST,) * MAX_HEADER_SLOTS)) <= 8192
    for hosts in ((), (HOST,) * (MAX_HEADER_SLOTS + 1)):
        with pytest.raises(Unbuildable, match="1 to 95 host keys"):
            a_header(hosts=hosts)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: a_header(dataclasses.replace(SECRETS, cck=b"short")),
        lambda: a_header(dataclasses.replace(SECRETS, image_key=b"short")),
        lambda: build_header(
            HeaderDraft(MEASURED, SECRETS), HeaderKeys(CUSTOMER, KEY, b"iv"), [HOST.public_key()]
        ),
        lambda: build_header(
            HeaderDraft(MEASURED, SECRETS), HeaderKeys(CUSTOMER, b"k", IV), [HOST.public_key()]
        ),
    ],
)
def test_lengths_are_held_when_a_header_is_built(bad):
    with pytest.raises(Unbuildable):
        bad()


def test_no_secret_of_a_header_is_shown():
    shown = repr(SECRETS) + repr(parse_header(HEADER)) + repr(FRESH)
    for secret in (SECRETS.cck, SECRETS.image_key, KEY):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


@given(data=st.binary(max_size=2000))
def test_part3_T14_bytes_that_are_no_header_raise_nothing_but_malformed(data):
    for text in (data, b"IBMSecEx\x00\x00\x01\x00" + data):
        with pytest.raises(Malformed):
            parse_header(text)


@given(
    total=st.integers(0, 2**32 - 1) | st.integers(0, 9000),
    slots=st.integers(0, 2**64 - 1) | st.integers(0, 100),
    sealed=st.integers(0, 2**64 - 1) | st.integers(0, 300),
    tail=st.integers(0, 300),
)
def test_part3_T14_lengths_of_a_header_raise_nothing_but_their_own(total, slots, sealed, tail):
    data = changed(0x0C, total.to_bytes(4, "big"))
    data = changed(0x28, sealed.to_bytes(8, "big"), changed(0x20, slots.to_bytes(8, "big"), data))
    try:
        header = parse_header(data + bytes(tail))
    except WireError:
        return
    assert header.encode() == data == HEADER


@given(
    pages=st.integers(0, 2**64 - 1),
    mask=st.integers(0, 2**64 - 1),
    address=st.integers(0, 2**64 - 1),
    scf=st.sampled_from([0, *Scf]),
    pcf=st.integers(0, 2**64 - 1),
)
def test_what_is_built_is_what_is_read(pages, mask, address, scf, pcf):
    measured = dataclasses.replace(MEASURED, page_count=pages)
    secrets = HeaderSecrets(SECRETS.cck, SECRETS.image_key, mask, address, scf)
    data = a_header(secrets, measured=measured, pcf=pcf)
    header, opened = open_header(data, [HOST])
    assert (header.measured, header.pcf, opened, header.encode()) == (measured, pcf, secrets, data)
