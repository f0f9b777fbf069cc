"""The customer communication key: what an image demands of extension secrets, and who may replace it."""

import pytest

from keyvisor_firmware.secrets import BootIdentity, StoreState, UvError, decode_state, encode_state
from keyvisor_guest.wire.secret_ids import derive_extension_secret, id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind

from .conftest import VALUES

CCK = b"\xc0" * 32
NEW_CCK = VALUES[SecretKind.UPDATE_CCK]
FROM_CCK, UPDATE_ALLOWED = 1 << 62, 1 << 61


def refused(code: int, text: str):
    return pytest.raises(UvError, match=text, check=lambda error: error.rc == code)


def derived(guest, cck: bytes = CCK) -> bytes:
    return derive_extension_secret(cck, guest.identity.header_tag)


def test_part3_T3_the_image_can_demand_a_derived_extension_secret_from_the_first_request_on(guest):
    store = guest.store(cck=CCK, scf=FROM_CCK)
    for extension in (bytes(32), b"\xe1" * 32, derived(guest, NEW_CCK)):
        for name in ("one", None):
            with refused(0x010C, "derived"):
                store.add(guest.request(name, extension_secret=extension))
    assert store.state == StoreState()
    store.add(guest.request(extension_secret=derived(guest)))
    with refused(0x010C, "derived"):
        store.add(guest.request())
    store.add(guest.request("two", extension_secret=derived(guest)))


def test_part3_T3_without_the_demand_a_derived_value_is_one_like_any_other(guest):
    store = guest.store(cck=CCK)
    store.add(guest.request(extension_secret=derived(guest, NEW_CCK)))
    with refused(0x010C, "requests before"):
        store.add(guest.request(extension_secret=derived(guest)))


def test_part3_T3_the_derived_value_is_another_for_another_image(guest):
    other = BootIdentity(b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa5" * 16)
    store = guest.store(identity=other, cck=CCK, scf=FROM_CCK)
    with refused(0x010C, "derived"):
        store.add(guest.request(identity=other, extension_secret=derived(guest)))


def test_an_update_is_taken_where_the_image_allows_it_and_leaves_no_entry(guest):
    store = guest.store(cck=CCK, scf=UPDATE_ALLOWED)
    store.add(guest.kind_request(SecretKind.UPDATE_CCK))
    assert store.state.cck == NEW_CCK
    assert store.list() == ()
    assert len(store.state.request_tags) == 1
    assert store.state.extension_secret == bytes(32), "it fixes the extension secret like any other"
    assert decode_state(encode_state(store.state)).cck == NEW_CCK


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "has no CCK"),
        ({"scf": UPDATE_ALLOWED}, "has no CCK"),
        ({"cck": CCK}, "does not allow"),
        ({"cck": CCK, "scf": 1 << 60}, "does not allow"),
        ({"cck": CCK, "scf": 0b10}, "does not allow"),
    ],
)
def test_an_update_that_the_image_does_not_allow_changes_nothing(guest, options, text):
    store = guest.store(**options)
    with refused(0x010C, text):
        store.add(guest.kind_request(SecretKind.UPDATE_CCK))
    assert store.state == StoreState()


def test_an_update_with_an_id_is_refused(guest):
    store = guest.store(cck=CCK, scf=UPDATE_ALLOWED)
    with refused(0x010C, "not zero"):
        store.add(guest.kind_request(SecretKind.UPDATE_CCK, secret_id=id_from_name("one")))
    assert store.state == StoreState()


def test_later_derivations_use_the_new_key(guest):
    """Tools refuse to set both flags; a header that has them all the same gets what the words say."""
    store = guest.store(cck=CCK, scf=FROM_CCK | UPDATE_ALLOWED)
    with refused(0x010C, "derived"):
        store.add(guest.kind_request(SecretKind.UPDATE_CCK, extension_secret=derived(guest, NEW_CCK)))
    store.add(guest.kind_request(SecretKind.UPDATE_CCK, extension_secret=derived(guest)))
    with refused(0x010C, "derived"):
        store.add(guest.request(extension_secret=derived(guest)))
    store.add(guest.request(extension_secret=derived(guest, NEW_CCK)))


def test_the_lock_ends_updates_too(guest):
    store = guest.store(cck=CCK, scf=UPDATE_ALLOWED)
    store.lock()
    with refused(0x0102, "locked"):
        store.add(guest.kind_request(SecretKind.UPDATE_CCK))
    assert store.state.cck is None


def test_no_cck_is_in_a_repr(guest):
    store = guest.store(cck=b"the image's own, thirty-two byte", scf=UPDATE_ALLOWED)
    store.add(guest.kind_request(SecretKind.UPDATE_CCK, secret=b"the owner's new, thirty-two byte"))
    assert "thirty-two" not in repr(store._circumstances)
    assert "thirty-two" not in repr(store.state)


def test_what_the_firmware_itself_gets_wrong_is_said_at_once(guest):
    with pytest.raises(ValueError, match="a CCK has 32 bytes, not 31"):
        guest.store(cck=bytes(31))
    with pytest.raises(ValueError, match="there is no CCK"):
        guest.store(scf=FROM_CCK)
