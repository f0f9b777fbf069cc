"""The order of the checks, their codes, and that each of them is needed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from keyvisor_firmware.secrets import BootIdentity, ReturnCode, StoreState, UvError
from keyvisor_firmware.secrets.checks import CHECKS
from keyvisor_firmware.secrets.return_codes import MEANINGS

SECRET_HEADER_AT = 0x4B8 + 80
OTHER_IMAGE = BootIdentity(b"\xb1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa4" * 16)


@dataclass
class Case:
    """What is wrong with one attempt; all of it at once, if need be."""

    options: dict = field(default_factory=dict)
    state: dict = field(default_factory=dict)
    draft: dict = field(default_factory=dict)
    patches: dict[int, bytes] = field(default_factory=dict)
    afterwards: list[Callable[[bytes], bytes]] = field(default_factory=list)

    def attempt(self, guest) -> None:
        request = guest.patched(guest.request(**self.draft), self.patches)
        for change in self.afterwards:
            request = change(request)
        before = StoreState(**self.state)
        store = guest.store(state=before, **self.options)
        try:
            store.add(request)
        except UvError:
            assert store.state is before
            raise


def _flip_tag(request: bytes) -> bytes:
    return request[:-1] + bytes([request[-1] ^ 1])


def _add_byte(request: bytes) -> bytes:
    return request + b"\x00"


def _too_much(request: bytes) -> bytes:
    return request + bytes(0x100000)


# In the order of formats, B.2, each broken in one way only.
LADDER: tuple[tuple[str, int, Callable[[Case], object]], ...] = (
    ("may not alter its store", 0x0101, lambda case: case.options.update(may_add=False)),
    ("locked", 0x0102, lambda case: case.state.update(locked=True)),
    ("a dump is running", 0x010D, lambda case: case.options.update(dump_running=lambda: True)),
    ("more than the device takes", 0x0103, lambda case: case.afterwards.append(_too_much)),
    ("version", 0x0104, lambda case: case.patches.update({8: b"\x00\x00\x02\x00"})),
    ("no slots", 0x0106, lambda case: case.patches.update({0x27: b"\x00"})),
    ("a byte too many", 0x0105, lambda case: case.afterwards.append(_add_byte)),
    ("unknown flag", 0x0107, lambda case: case.patches.update({0x30: b"\x40"})),
    ("tag", 0x0108, lambda case: case.afterwards.append(_flip_tag)),
    ("type", 0x0109, lambda case: case.patches.update({SECRET_HEADER_AT + 2: b"\x00\x0b"})),
    ("length", 0x010A, lambda case: case.patches.update({SECRET_HEADER_AT + 4: b"\x00\x00\x00\x10"})),
    ("reserved", 0x010C, lambda case: case.patches.update({0x118: b"\x01"})),
    ("image", 0x010C, lambda case: case.draft.update(identity=OTHER_IMAGE)),
    ("instance", 0x010C, lambda case: case.draft.update(cuid=b"\xc2" * 16)),
    ("extension secret", 0x010C, lambda case: case.state.update(extension_secret=b"\xee" * 32)),
    ("full", 0x010B, lambda case: case.options.update(max_association_secrets=0)),
)
NAMES = [name for name, _, _ in LADDER]


def test_the_table_has_the_order_of_the_format():
    """Formats, B.2. 0105 stands once more in front: what has no whole head has no version to look at."""
    codes = [check.rc for check in CHECKS]
    assert codes == [
        0x0101, 0x0102, 0x010D, 0x0103, 0x0105, 0x0104, 0x0106, 0x0105, 0x0107, 0x0108, 0x0109, 0x010A,
        0x010C, 0x010C, 0x010C, 0x010C, 0x010C, 0x010C, 0x010B,
    ]  # fmt: skip


def test_nothing_wrong_is_taken(guest):
    Case().attempt(guest)


@pytest.mark.parametrize("step", range(len(LADDER)), ids=NAMES)
def test_one_thing_wrong_gets_its_code(guest, step):
    _, code, break_it = LADDER[step]
    case = Case()
    break_it(case)
    with pytest.raises(UvError) as refused:
        case.attempt(guest)
    assert refused.value.rc == code


@pytest.mark.parametrize("step", range(len(LADDER)), ids=NAMES)
def test_the_first_thing_wrong_gets_its_code(guest, step):
    """This and everything after it is wrong at once."""
    case = Case()
    for _, _, break_it in LADDER[step:]:
        break_it(case)
    with pytest.raises(UvError) as refused:
        case.attempt(guest)
    assert refused.value.rc == LADDER[step][1]


@pytest.mark.parametrize("length", [0, 1, 0x0C, 0x27, 0x2F])
def test_less_than_a_head_has_the_wrong_size(guest, length):
    with pytest.raises(UvError) as refused:
        guest.store().add(guest.request()[:length])
    assert refused.value.rc == 0x0105


@pytest.mark.parametrize(
    ("patches", "code"),
    [
        ({0: b"\x00" * 6}, 0x0104),
        ({0x27: b"\x02"}, 0x0105),
        ({0x27: b"\xff"}, 0x0105),
        ({0x0C: b"\xff\xff\xff\xff"}, 0x0105),
        ({0x2C: b"\x00\x00\x00\x20"}, 0x0105),
        ({0x2C: b"\xff\xff\xff\xff"}, 0x0105),
        ({0x37: b"\x01"}, 0x0107),
        ({0x4B7: b"\x00"}, 0x0108),
        ({SECRET_HEADER_AT + 2: b"\x00\x00"}, 0x0109),
        ({SECRET_HEADER_AT + 2: b"\x00\x0b"}, 0x0109),
        ({SECRET_HEADER_AT + 2: b"\x00\x10"}, 0x0109),
        ({SECRET_HEADER_AT + 2: b"\x00\x17"}, 0x0109),
        ({SECRET_HEADER_AT + 2: b"\x00\x04"}, 0x010A),
        ({SECRET_HEADER_AT + 2: b"\x00\x16"}, 0x010C),
        ({SECRET_HEADER_AT + 2: b"\xff\xff"}, 0x0109),
        ({SECRET_HEADER_AT + 2: b"\x00\x01\x00\x00\x00\x00"}, 0x010A),
        ({SECRET_HEADER_AT + 4: b"\xff\xff\xff\xff"}, 0x010A),
        ({6: b"\x00\x05"}, 0x010C),
        ({0x1C: b"\x01"}, 0x010C),
        ({0x20: b"\x01"}, 0x010C),
        ({0x28: b"\x01"}, 0x010C),
        ({SECRET_HEADER_AT: b"\x01"}, 0x010C),
        ({SECRET_HEADER_AT + 8: b"\x01"}, 0x010C),
        ({0x38: b"\x00"}, 0x010C),
        ({0x78: b"\x00"}, 0x010C),
        ({0xB8: b"\x00"}, 0x010C),
        ({0xF8: b"\x00"}, 0x010C),
    ],
)
def test_under_a_valid_tag_every_field_is_still_checked(guest, patches, code):
    with pytest.raises(UvError) as refused:
        Case(patches=patches).attempt(guest)
    assert refused.value.rc == code


def test_the_texts_do_not_tell_which_tag_was_wrong(guest):
    """A broken slot and a broken request look the same to whoever handed it over."""
    request = guest.request()
    texts = set()
    for offset in (SECRET_HEADER_AT - 1, len(request) - 1, len(request) - 20):
        broken = request[:offset] + bytes([request[offset] ^ 1]) + request[offset + 1 :]
        with pytest.raises(UvError) as refused:
            guest.store().add(broken)
        texts.add(str(refused.value))
    assert len(texts) == 1


def test_every_code_has_its_meaning_and_one_line(guest):
    assert set(MEANINGS) == set(ReturnCode)
    for code in ReturnCode:
        text = str(UvError(code, "because"))
        assert text.endswith(f"({code:#06x})")
        assert text[0].islower()
        assert "\n" not in text
        assert "because" in text


def test_the_codes_are_those_of_the_format():
    """Formats, B.1 and C.5: nothing invented, nothing missing from 0101 on."""
    assert sorted(ReturnCode) == [*range(0x0101, 0x010E), 0x010F, 0x0110, 0x0111]
