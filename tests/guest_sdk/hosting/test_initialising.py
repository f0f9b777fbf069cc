"""The zone's base storage: reserved and donated by itself, once, and given back where it is not taken."""

from __future__ import annotations

from typing import Any

import pytest

from keyvisor_guest import Host, Refused

from .refusing import refusing


@pytest.fixture(autouse=True)
def storage(firmware: Any) -> Any:
    firmware.story.storage.initialised = False
    return firmware.story.storage


def test_it_is_where_and_as_long_as_it_has_to_be(host: Host) -> None:
    host.init()
    (line,) = host.storage().held
    assert (line.holder, line.use, line.secure) == ("firmware", "zone base", True)
    assert (line.first, line.length) == (1 << 31, host.query_storage().zone_base)


def test_part1_T4_a_second_init_is_refused_and_takes_nothing(host: Host) -> None:
    host.init()
    before = host.storage()
    with pytest.raises(Refused) as refused:
        host.init()
    assert refused.value.code == 0x0101
    assert host.storage() == before


@pytest.mark.parametrize("times", [1, 2, 3])
def test_storage_that_another_took_is_replaced(firmware: Any, host: Host, storage: Any, times: int) -> None:
    left = [times]

    def hook(name: str, body: Any) -> None:
        if name == "init_storage" and left[0]:
            left[0] -= 1
            storage.take(body.origin, body.origin + 4096, "other", "guest memory", 7)

    firmware.story.before = hook
    if times < 3:
        host.init()
    else:
        with pytest.raises(Refused, match="secure already"):
            host.init()
    assert host.storage().initialised == (times < 3)
    assert {line.use for line in host.storage().held} == {
        "guest memory",
        *(["zone base"] if times < 3 else []),
    }


def test_what_cannot_be_given_back_is_told(firmware: Any, host: Host) -> None:
    firmware.story.before = refusing("init_storage", "free")
    with pytest.raises(Refused, match="init_storage is refused") as refused:
        host.init()
    assert refused.value.findings[0].endswith("stays allocated (free is refused (0x0777))")
