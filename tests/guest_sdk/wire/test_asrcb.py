"""Requests: what is built is read and opened again, and nothing else is."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_guest.wire import messages
from keyvisor_guest.wire.asrcb import Contents, Draft, FreshKeys, build, open_request, parse, seal
from keyvisor_guest.wire.asrcb_layout import (
    FLAG_BITS,
    MAX_REQUEST,
    Flag,
    UserData,
    UserDataKind,
    check_lengths,
    read_block,
    read_head,
)
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import (
    CannotDecrypt,
    HostKeyUnusable,
    Malformed,
    Truncated,
    Unbuildable,
    WireError,
)
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

IDENTITY = BootIdentity(b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa4" * 16)
SECRET_HEADER_AT = 0x4B8 + 80

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def exactly(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    row = draw(st.sampled_from(list(KINDS.values())))
    length = draw(st.sampled_from(row.lengths))
    return Draft(
        row.kind,
        BootIdentity(*(draw(exactly(n)) for n in (64, 64, 64, 16))),
        draw(exactly(32)) if row.has_id else None,
        draw(exactly(length)) if length < 256 else bytes(length),
        draw(exactly(32)),
        draw(exactly(16)),
        draw(st.sampled_from([0, *FLAG_BITS.values()])),
        UserData(draw(st.sampled_from(UserDataKind)), draw(exactly(8)) * 64),
    )


@pytest.fixture
def association(customer_key, host_key) -> bytes:
    draft = Draft(SecretKind.ASSOCIATION, IDENTITY, id_from_name("payments"), b"\x5e" * 32)
    return build(draft, FreshKeys(customer_key, b"\x0a" * 32, bytes(12)), [host_key.public_key()])


@few
@given(draft=drafts(), key=exactly(32), iv=exactly(12), others=st.integers(0, 3), data=st.data())
def test_what_is_built_is_read_and_opened_again(
    customer_key, host_key, other_key, draft, key, iv, others, data
):
    place = data.draw(st.integers(0, others))
    hosts = [other_key.public_key()] * others
    hosts.insert(place, host_key.public_key())

    request = build(draft, FreshKeys(customer_key, key, iv), hosts)
    block = parse(request)

    public = block.public
    assert (
        Draft(
            SecretKind(public.secret.kind),
            public.identity,
            public.secret.id,
            *_both(open_request(block, [host_key])),
            public.cuid,
            public.flags,
            public.user_data,
        )
        == draft
    )
    assert seal(public, key, open_request(block, [host_key])) == request


def _both(contents: Contents) -> tuple[bytes, bytes]:
    return contents.secret, contents.extension_secret


@pytest.mark.parametrize(("kind", "slots", "size"), [(1, 1, 1352), (1, 7, 1832), (2, 1, 1416), (3, 1, 9576)])
def test_sizes_are_those_of_the_format(customer_key, host_key, kind, slots, size):
    row = KINDS[kind]
    secret_id = bytes(32) if row.has_id else None
    draft = Draft(row.kind, IDENTITY, secret_id, bytes(row.lengths[-1]))
    assert (
        len(build(draft, FreshKeys(customer_key, bytes(32), bytes(12)), [host_key.public_key()] * slots))
        == size
    )


def test_part3_T2_another_host_key_does_not_open_it(association, other_key):
    with pytest.raises(CannotDecrypt, match="no key slot"):
        open_request(parse(association), [other_key])
    with pytest.raises(CannotDecrypt, match="no key slot"):
        open_request(parse(association), [])


def test_a_customer_key_off_the_curve_is_never_computed_with(association, host_key):
    off = bytearray(association)
    off[0x4B7] ^= 1
    with pytest.raises(CannotDecrypt, match="not on the curve"):
        open_request(read_block(bytes(off)), [host_key])


def test_the_first_slot_with_our_name_decides(customer_key, host_key):
    """A slot of ours that is broken ends it, even where a good one follows."""
    draft = Draft(SecretKind.NULL, IDENTITY)
    request = build(draft, FreshKeys(customer_key, bytes(32), bytes(12)), [host_key.public_key()] * 2)
    broken = bytearray(request)
    broken[0x4B8 + 79] ^= 1
    with pytest.raises(CannotDecrypt, match="not as it was made"):
        open_request(parse(bytes(broken)), [host_key])


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (0, b"X", "does not begin with"),
        (8, b"\x00\x00\x02\x00", "version 0x200"),
        (0x27, b"\x00", "no host key"),
        (0x27, b"\x02", "do not add up"),
        (0x0C, b"\x7f\xff\xff\xff", "the request says it has"),
        (0x2C, b"\xff\xff\xff\xff", "do not add up"),
        (0x2C, b"\x00\x00\x00\x1f", "the least"),
        (0x30, b"\x40", "unknown flags"),
        (0x37, b"\x01", "unknown flags"),
        (6, b"\x00\x05", "user-data kind 5"),
        (0x1C, b"\x01", "reserved field at 0x1c"),
        (0x20, b"\x01", "reserved field at 0x20"),
        (0x28, b"\x01", "reserved field at 0x28"),
        (0x118, b"\x01", "reserved field at 0x118"),
        (0x217, b"\x01", "reserved field at 0x118"),
        (SECRET_HEADER_AT, b"\x01", "reserved field at 0x508"),
        (SECRET_HEADER_AT + 8, b"\x01", "reserved field at 0x510"),
        (SECRET_HEADER_AT + 2, b"\x00\x00", "0000 is reserved"),
        (SECRET_HEADER_AT + 2, b"\x00\x0b", "000b is reserved"),
        (SECRET_HEADER_AT + 2, b"\x00\x01", "null has 0 bytes"),
        (SECRET_HEADER_AT + 2, b"\x00\x07\x00\x00\x00\x21", "AES-XTS-128 key has 32 bytes, not 33"),
        (SECRET_HEADER_AT + 2, b"\x00\x01\x00\x00\x00\x00", "has no id"),
        (SECRET_HEADER_AT + 2, b"\x00\x08\x00\x00\x00\x40", "64 bytes is announced"),
    ],
)
def test_what_can_be_seen_without_a_key_is_refused(association, offset, value, said):
    changed = association[:offset] + value + association[offset + len(value) :]
    with pytest.raises(Malformed, match=said):
        parse(changed)


def test_an_association_header_without_id_is_refused(association):
    """A null request's short header, in a request that is otherwise as long as its lengths say."""
    cut = association[: SECRET_HEADER_AT + 16] + association[SECRET_HEADER_AT + 48 :]
    shorter = cut[:0x0C] + len(cut).to_bytes(4, "big") + cut[0x10:]
    with pytest.raises(Malformed, match="has an id"):
        parse(shorter)


def test_part3_T14_every_cut_and_every_addition_is_refused(association):
    for length in range(len(association)):
        with pytest.raises(Malformed):
            parse(association[:length])
    with pytest.raises(Malformed, match="the request says it has"):
        parse(association + b"\x00")


def test_every_short_read_is_one_error(association):
    for length in range(0x30):
        with pytest.raises(Truncated):
            read_head(association[:length])


def test_the_limit_of_the_device_is_held_before_anything_is_read():
    with pytest.raises(Malformed, match="at most 1048576"):
        parse(bytes(MAX_REQUEST + 1))
    assert messages.MAX_REQUEST == MAX_REQUEST


@given(data=st.binary(max_size=2000))
def test_part3_T14_any_bytes_are_refused_in_one_way(data):
    with pytest.raises(Malformed):
        parse(data)


@few
@given(
    offset=st.sampled_from([0x0C, 0x27, 0x2C, SECRET_HEADER_AT + 4]),
    value=exactly(4),
    length=st.integers(0, 3000),
)
def test_part3_T14_lengths_that_lie_are_refused(association, host_key, offset, value, length):
    changed = association[:offset] + value + association[offset + 4 :]
    changed = (changed + bytes(3000))[:length]
    if changed == association:
        return
    with pytest.raises(WireError):
        open_request(parse(changed), [host_key])


def test_reading_a_block_holds_the_lengths_by_itself(association):
    """A reader that forgets the check still gets no more bytes than there are."""
    with pytest.raises(Malformed):
        read_block(association[:-1])
    with pytest.raises(Malformed):
        check_lengths(read_head(association), len(association) + 1)


def _draft(**changes: object) -> Draft:
    values: dict = {
        "kind": SecretKind.ASSOCIATION,
        "identity": IDENTITY,
        "secret_id": bytes(32),
        "secret": bytes(32),
    }
    return Draft(**{**values, **changes})


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (_draft(secret=bytes(31)), "association has 32 bytes, not 31"),
        (_draft(secret_id=None), "has an id"),
        (_draft(secret_id=bytes(31)), "a secret id has 32 bytes"),
        (_draft(kind=SecretKind.NULL, secret=b""), "has no id"),
        (_draft(kind=SecretKind.PLAINTEXT, secret=bytes(17)), "16 to 8192 bytes in steps of 16, not 17"),
        (_draft(extension_secret=bytes(31)), "the extension secret has 32 bytes"),
        (_draft(cuid=bytes(15)), "the CUID has 16 bytes"),
    ],
)
def test_a_draft_that_the_format_cannot_hold_is_not_built(customer_key, host_key, draft, said):
    with pytest.raises(Unbuildable, match=said):
        build(draft, FreshKeys(customer_key, bytes(32), bytes(12)), [host_key.public_key()])


def test_keys_of_other_lengths_curves_and_numbers_are_not_built_with(customer_key, host_key):
    host = host_key.public_key()
    with pytest.raises(Unbuildable, match="the IV has 12 bytes"):
        build(_draft(), FreshKeys(customer_key, bytes(32), bytes(11)), [host])
    with pytest.raises(Unbuildable, match="request protection key has 32 bytes"):
        build(_draft(), FreshKeys(customer_key, bytes(31), bytes(12)), [host])
    for count in (0, 256):
        with pytest.raises(Unbuildable, match="1 to 255 host keys"):
            build(_draft(), FreshKeys(customer_key, bytes(32), bytes(12)), [host] * count)
    p384 = ec.derive_private_key(7, ec.SECP384R1())
    with pytest.raises(HostKeyUnusable, match="secp384r1"):
        build(_draft(), FreshKeys(customer_key, bytes(32), bytes(12)), [p384.public_key()])
    with pytest.raises(HostKeyUnusable, match="secp384r1"):
        build(_draft(), FreshKeys(p384, bytes(32), bytes(12)), [host])


def test_contents_of_other_lengths_are_not_sealed(association, host_key):
    block = parse(association)
    with pytest.raises(Unbuildable, match="lengths"):
        seal(block.public, bytes(32), Contents(bytes(16), bytes(32)))
    with pytest.raises(Unbuildable, match="lengths"):
        seal(block.public, bytes(32), Contents(bytes(32), bytes(16)))


def test_secrets_are_in_no_repr(customer_key):
    secret = b"never-shown-anywhere-0123456789ab"[:32]
    shown = repr([_draft(secret=secret, extension_secret=secret), Contents(secret, secret)])
    shown += repr(FreshKeys(customer_key, secret, bytes(12)))
    assert "never-shown" not in shown
    assert secret.hex() not in shown


def test_flags_have_their_bit():
    assert FLAG_BITS[Flag.DISABLE_DUMP] == 0x8000000000000000
    assert set(FLAG_BITS) == set(Flag)
