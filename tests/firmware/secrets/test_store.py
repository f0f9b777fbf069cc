"""What an owner, a guest and an attacker notice of the secret store."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.secrets import BootIdentity, NoSuchSecret, StoredSecret, StoreState, UvError
from keyvisor_guest.wire.asrcb_layout import FLAG_BITS, Flag
from keyvisor_guest.wire.errors import HostKeyUnusable
from keyvisor_guest.wire.secret_ids import NO_EXTENSION, id_from_name
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

EXTENSION = b"\xe1" * 32
DISABLE_DUMP = FLAG_BITS[Flag.DISABLE_DUMP]


def refused(code: int):
    return pytest.raises(UvError, check=lambda error: error.rc == code)


def test_part3_T1_each_flipped_byte_is_refused(guest):
    """Two slots, so that a slot of another host is among them."""
    request = guest.request(hosts=2, extension_secret=EXTENSION, cuid=guest.cuid, flags=DISABLE_DUMP)
    store = guest.store()
    for offset in range(len(request)):
        broken = bytearray(request)
        broken[offset] ^= 1 << offset % 8
        with pytest.raises(UvError):
            store.add(bytes(broken))
    assert store.state == StoreState()
    store.add(request)
    assert len(store.list()) == 1


@pytest.mark.parametrize("kind", [SecretKind.EC_P521, SecretKind.PLAINTEXT, SecretKind.UPDATE_CCK])
def test_part3_T1_each_flipped_byte_of_other_kinds_is_refused(guest, kind):
    request = guest.kind_request(kind)
    store = guest.store(cck=b"\xc0" * 32, scf=1 << 61)
    for offset in range(len(request)):
        broken = bytearray(request)
        broken[offset] ^= 1 << offset % 8
        with pytest.raises(UvError):
            store.add(bytes(broken))
    assert store.state == StoreState()
    store.add(request)


@pytest.mark.parametrize("kind", SecretKind)
def test_every_kind_is_taken_and_listed_as_the_format_has_it(guest, kind):
    row = KINDS[kind]
    store = guest.store(cck=b"\xc0" * 32, scf=1 << 61)
    store.add(guest.kind_request(kind))
    shown = [(entry.index, entry.kind, entry.length) for entry in store.list()]
    assert shown == ([(0, kind, row.lengths[0] + row.listed_extra)] if row.listed else [])
    assert store.secret_store_hash() != guest.store().secret_store_hash()


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (
            SecretKind.EC_P256,
            bytes(32),
            "the number of the EC P-256 private key is not one that the curve has",
        ),
        (
            SecretKind.EC_P521,
            b"\x01" * 80,
            "the number of the EC P-521 private key is not one that the curve has",
        ),
        (SecretKind.ED448, b"\x01" * 64, "a private key is padded with something else than zeros"),
        (SecretKind.AES_XTS_128, b"\x01" * 32, "the two halves of the AES-XTS key are equal"),
    ],
)
def test_a_key_that_is_none_of_its_kind_is_refused(guest, kind, value, reason):
    """Nobody could ever use it; the text says nothing of the value."""
    store = guest.store()
    with refused(0x010C) as refusal:
        store.add(guest.kind_request(kind, secret=value))
    assert store.state == StoreState()
    assert str(refusal.value) == (
        f"the secret could not be added: {reason}; the owner has to make a new request (0x010c)"
    )


@pytest.mark.parametrize("field", ["pld", "ald", "tld", "header_tag"])
def test_part3_T2_another_image_is_refused(guest, field):
    values = {name: getattr(guest.identity, name) for name in ("pld", "ald", "tld", "header_tag")}
    values[field] = values[field][:-1] + b"\x00"
    store = guest.store(identity=BootIdentity(**values))
    with refused(0x010C):
        store.add(guest.request())
    assert store.state == StoreState()


def test_part3_T2_another_instance_is_refused_and_zero_means_any(guest):
    store = guest.store()
    with refused(0x010C):
        store.add(guest.request(cuid=b"\xc1" * 15 + b"\xc0"))
    assert store.state == StoreState()
    store.add(guest.request(cuid=guest.cuid))
    store.add(guest.request(cuid=bytes(16)))


def test_part3_T2_another_host_key_is_refused_and_a_backup_key_is_not(guest):
    request = guest.request()
    for keys in ([], [guest.other_host_key]):
        store = guest.store(host_keys=keys)
        with refused(0x0108):
            store.add(request)
        assert store.state == StoreState()
    guest.store(host_keys=[guest.other_host_key, guest.host_key]).add(request)


def test_part3_T3_the_first_accepted_request_fixes_the_extension_secret(guest):
    store = guest.store()
    store.add(guest.request("one", extension_secret=EXTENSION))
    store.add(guest.request("two", extension_secret=EXTENSION))
    before = store.state
    for other in (NO_EXTENSION, b"\xe1" * 31 + b"\xe0"):
        with refused(0x010C):
            store.add(guest.request("three", extension_secret=other))
    assert store.state is before


def test_part3_T3_a_null_request_fixes_it_too(guest):
    store = guest.store()
    store.add(guest.request(None, extension_secret=EXTENSION))
    assert store.list() == ()
    with refused(0x010C):
        store.add(guest.request())
    store.add(guest.request(extension_secret=EXTENSION))


@pytest.mark.parametrize(
    "failing",
    [{"cuid": b"\x01" * 16}, {"identity": BootIdentity(bytes(64), bytes(64), bytes(64), bytes(16))}],
)
def test_part3_T3_a_refused_first_request_does_not_fix_it(guest, failing):
    store = guest.store()
    with refused(0x010C):
        store.add(guest.request(extension_secret=EXTENSION, **failing))
    assert store.state.extension_secret is None
    store.add(guest.request())


def test_part3_T3_zeros_are_a_value_and_not_unchecked(guest):
    store = guest.store()
    store.add(guest.request())
    assert store.state.extension_secret == bytes(32)
    with refused(0x010C):
        store.add(guest.request(extension_secret=EXTENSION))


def test_part3_T5_the_lock_ends_additions_and_nothing_else(guest):
    store = guest.store()
    store.add(guest.request())
    open_hash = store.secret_store_hash()
    store.lock()
    assert store.locked
    before = store.state
    with refused(0x0102):
        store.add(guest.request("two"))
    with refused(0x0102):
        store.add(guest.request(None))
    with refused(0x0102):
        store.lock()
    assert store.state is before
    assert len(store.list()) == 1
    assert store.association_secret(0) == b"\x5e" * 32
    assert store.secret_store_hash() != open_hash


def test_part3_T7_a_replay_is_one_more_entry_and_can_be_seen(guest):
    """Equal ids are accepted (formats, B.3), and so is the same request again; it shows in list and hash."""
    store = guest.store()
    request = guest.request()
    store.add(request)
    once = store.secret_store_hash()
    store.add(request)
    first, second = store.list()
    assert (first.index, second.index) == (0, 1)
    assert first.id == second.id
    assert store.secret_store_hash() != once
    assert store.find_association(first.id) == 0


def test_part3_T7_a_replay_after_the_lock_or_into_another_guest_is_refused(guest):
    request = guest.request(cuid=guest.cuid)
    store = guest.store()
    store.add(request)
    store.lock()
    with refused(0x0102):
        store.add(request)
    with refused(0x010C):
        guest.store(cuid=b"\xc9" * 16).add(request)
    guest.store().add(request)  # a new start of the same guest has an empty store


def test_part3_T9_an_association_secret_is_never_retrieved(guest):
    store = guest.store()
    with refused(0x010F):
        store.retrieve(0)
    store.add(guest.request())
    with refused(0x0111):
        store.retrieve(0)
    for index in (1, -1, 0x10000):
        with refused(0x0110):
            store.retrieve(index)
    store.lock()
    with refused(0x0111):
        store.retrieve(0)


def test_part3_T10_a_full_store_takes_no_secret_but_still_a_null_request(guest):
    store = guest.store(max_association_secrets=2)
    for name in ("one", "two"):
        store.add(guest.request(name))
    before = store.state
    with refused(0x010B):
        store.add(guest.request("three"))
    assert store.state is before
    store.add(guest.request(None, flags=DISABLE_DUMP))
    assert store.dump_disabled


def test_part3_T10_the_default_takes_512(guest):
    store = guest.store()
    request = guest.request()
    for _ in range(512):
        store.add(request)
    with refused(0x010B):
        store.add(request)
    assert [entry.index for entry in store.list()] == list(range(512))


def test_part3_T10_the_two_counters_are_apart(guest):
    store = guest.store(max_association_secrets=1, max_retrievable_secrets=2)
    store.add(guest.kind_request(SecretKind.PLAINTEXT))
    store.add(guest.kind_request(SecretKind.AES_128))
    before = store.state
    for kind in (SecretKind.PLAINTEXT, SecretKind.ED448):
        with refused(0x010B) as refusal:
            store.add(guest.kind_request(kind))
        assert "2 retrievable" in str(refusal.value)
    assert store.state is before
    store.add(guest.kind_request(SecretKind.ASSOCIATION))
    with refused(0x010B) as refusal:
        store.add(guest.kind_request(SecretKind.ASSOCIATION))
    assert "1 association" in str(refusal.value)
    store.add(guest.request(None))
    assert len(store.list()) == 3


def test_part3_T10_no_more_than_a_list_can_tell_of(guest):
    """Association secrets and retrievable ones together: 65535, whatever the two limits say."""
    entry = StoredSecret(SecretKind.ASSOCIATION, id_from_name("one"), b"\x5e" * 32)
    options: dict = {"max_association_secrets": 0xFFFF, "max_requests": 0x100000}
    store = guest.store(state=StoreState((entry,) * 0xFFFE), **options)
    store.add(guest.kind_request(SecretKind.PLAINTEXT))
    for kind in (SecretKind.PLAINTEXT, SecretKind.ASSOCIATION):
        with refused(0x010B):
            store.add(guest.kind_request(kind))
    assert store.list_page(0xFFFE).data[:4] == b"\x00\x01\xff\xff"


def test_part3_T10_what_null_requests_leave_behind_is_bounded(guest):
    store = guest.store(max_requests=3)
    for _ in range(3):
        store.add(guest.request(None))
    with refused(0x010B):
        store.add(guest.request(None))
    with refused(0x010B):
        store.add(guest.request())


def test_part3_T13_reordered_withheld_and_doubled_requests_show_in_the_hash(guest):
    requests = [guest.request(name) for name in ("one", "two", "three")]

    def hash_of(*handed_over: bytes) -> bytes:
        store = guest.store()
        for request in handed_over:
            store.add(request)
        return store.secret_store_hash()

    one, two, three = requests
    orders = [
        (one, two, three),
        (two, one, three),
        (one, three),
        (one, two, two, three),
        (one, two, three, three),
    ]
    assert len({hash_of(*order) for order in orders}) == len(orders)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    offset=st.sampled_from([0x0C, 0x24, 0x2C, 0x4B8 + 80 + 4]),
    value=st.one_of(
        st.integers(0, 2**32 - 1),
        st.integers(0, 3000),
        st.sampled_from([0, 31, 32, 64, 1416, 2**31, 2**32 - 1]),
    ),
    length=st.integers(0, 3000),
    valid_tag=st.booleans(),
)
def test_part3_T14_lengths_that_lie_are_refused(guest, offset, value, length, valid_tag):
    request = guest.request()
    lie = {offset: value.to_bytes(4, "big")}
    changed = (
        guest.patched(request, lie) if valid_tag else request[:offset] + lie[offset] + request[offset + 4 :]
    )
    changed = changed if valid_tag else (changed + bytes(3000))[:length]
    store = guest.store()
    if changed == request:
        store.add(changed)
        return
    with pytest.raises(UvError) as refusal:
        store.add(changed)
    assert refusal.value.rc in {0x0105, 0x0106, 0x0107, 0x0108, 0x010A, 0x010C}
    assert store.state == StoreState()


@given(request_bytes=st.binary(max_size=1500))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_part3_T14_any_bytes_are_refused(guest, request_bytes):
    with pytest.raises(UvError) as refusal:
        guest.store().add(request_bytes)
    assert refusal.value.rc in {0x0104, 0x0105}


def test_a_customer_key_off_the_curve_is_refused_before_it_is_used(guest):
    with refused(0x0108) as refusal:
        guest.store().add(guest.patched(guest.request(), {0x418: bytes(160)}))
    assert "not on the curve" in str(refusal.value)


def test_disable_dump_is_sticky(guest):
    store = guest.store()
    store.add(guest.request())
    assert not store.dump_disabled
    store.add(guest.request(flags=DISABLE_DUMP))
    store.add(guest.request())
    assert store.dump_disabled


def test_user_data_is_taken_as_it_is(guest):
    patched = guest.patched(guest.request(), {6: b"\x00\x02", 0x218: b"\x56" * 512})
    store = guest.store()
    store.add(patched)
    assert len(store.list()) == 1


def test_the_state_is_committed_before_it_is_visible(guest):
    seen = []

    def commit(state: StoreState) -> None:
        seen.append((state, store.state, len(store.list())))

    store = guest.store(commit=commit)
    store.add(guest.request())
    ((new, old, visible),) = seen
    assert (len(new.entries), old, visible) == (1, StoreState(), 0)
    assert store.state is new


def test_a_commit_that_fails_has_changed_nothing(guest):
    def full_disk(_state: StoreState) -> None:
        raise OSError("no space left")

    store = guest.store(commit=full_disk)
    with pytest.raises(OSError, match="no space left"):
        store.add(guest.request(extension_secret=EXTENSION, flags=DISABLE_DUMP))
    with pytest.raises(OSError, match="no space left"):
        store.lock()
    assert store.state == StoreState()
    assert (store.locked, store.dump_disabled, store.list()) == (False, False, ())


def test_a_refused_request_commits_nothing(guest):
    commits = []
    store = guest.store(commit=commits.append, max_association_secrets=0)
    with refused(0x010B):
        store.add(guest.request())
    assert commits == []


def test_association_secrets_are_found_by_id_and_by_index(guest):
    store = guest.store()
    store.add(guest.request("one", secret=b"\x01" * 32))
    store.add(guest.request("two", secret=b"\x02" * 32))
    store.add(guest.request("two", secret=b"\x03" * 32))
    assert store.find_association(id_from_name("two")) == 1
    assert store.association_secret(1) == b"\x02" * 32
    assert store.association_secret(2) == b"\x03" * 32
    for index in (-1, 3):
        with pytest.raises(NoSuchSecret):
            store.association_secret(index)
    for secret_id in (id_from_name("three"), b"", bytes(32)):
        with pytest.raises(NoSuchSecret):
            store.find_association(secret_id)


def test_lists_show_what_the_format_shows(guest):
    store = guest.store()
    store.add(guest.request(None))
    store.add(guest.request("one"))
    (entry,) = store.list()
    assert (entry.index, entry.kind, entry.id, entry.length) == (
        0,
        SecretKind.ASSOCIATION,
        id_from_name("one"),
        32,
    )


def test_secrets_are_in_no_repr_and_no_error(guest):
    secret, extension = b"never shown, not in any way, 32b"[:32], b"nor is this one, whatever is said"[:32]
    store = guest.store()
    store.add(guest.request(secret=secret, extension_secret=extension))
    texts = [repr(store), str(store), repr(store.state), repr(store.list())]
    for attempt in (
        lambda: store.retrieve(0),
        lambda: store.add(guest.request(extension_secret=bytes(32))),
        lambda: store.association_secret(7),
    ):
        with pytest.raises((UvError, NoSuchSecret)) as refusal:
            attempt()
        texts += [str(refusal.value), repr(refusal.value)]
    shown = "".join(texts)
    for value in (secret, extension):
        assert value.decode() not in shown
        assert value.hex() not in shown


def test_what_the_firmware_itself_gets_wrong_is_said_at_once(guest):
    with pytest.raises(ValueError, match="a CUID has 16 bytes"):
        guest.store(cuid=bytes(15))
    with pytest.raises(HostKeyUnusable, match="secp256r1"):
        guest.store(host_keys=[ec.derive_private_key(7, ec.SECP256R1())])
    for options in (
        {"max_association_secrets": -1},
        {"max_association_secrets": 0x10000},
        {"max_retrievable_secrets": 0x10000},
        {"max_retrievable_secrets": -1},
        {"max_requests": -1},
    ):
        with pytest.raises(ValueError, match="a store takes up to"):
            guest.store(**options)
