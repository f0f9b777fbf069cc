"""Stopping: destroyed first, given back then; what is not destroyed is not given back."""

from __future__ import annotations

from typing import Any

import pytest

from keyvisor_guest import Host, NotRunning, Refused

from .refusing import CODE, refusing


def test_cpus_then_the_guest_then_its_storage(firmware: Any, host: Host, image: bytes) -> None:
    host.start("new", image, cpus=2)
    firmware.story.asked.clear()
    host.stop("new")
    order = list(dict.fromkeys(firmware.story.asked))
    assert order.index("destroy_cpu") < order.index("destroy_guest") < order.index("free")
    assert firmware.story.asked.count("destroy_cpu") == 2
    assert host.storage().held == []


@pytest.mark.parametrize("name", ["destroy_cpu", "destroy_guest"])
def test_part1_T12_a_refused_destroy_gives_nothing_back(
    firmware: Any, host: Host, image: bytes, name: str
) -> None:
    host.start("new", image, cpus=2)
    firmware.story.asked.clear()
    firmware.story.before = refusing(name)
    with pytest.raises(Refused, match=f"{name} is refused") as refused:
        host.stop("new")
    assert refused.value.code == CODE
    assert "its storage stays allocated" in refused.value.findings[-1]
    assert "free" not in firmware.story.asked
    assert "new" in firmware.story.guests
    firmware.story.before = lambda name, body: None
    host.stop("new")
    assert host.storage().held == []


def test_a_guest_that_nobody_reserved_storage_for(firmware: Any, host: Host) -> None:
    host.stop("lab")
    assert "lab" not in firmware.story.guests


def test_what_was_left_without_a_guest_is_given_back(firmware: Any, host: Host) -> None:
    host.memory.allocate("guest new 0a0b0c0d", 4096)
    host.memory.allocate("guest new 0a0b0c0d cpu 0", 4096)
    host.memory.allocate("guest newer 0a0b0c0d", 4096)
    host.memory.allocate("mine", 4096)
    host.stop("new")
    assert [line.holder for line in host.storage().held] == ["guest newer 0a0b0c0d", "mine"]
    with pytest.raises(NotRunning, match="no guest `new`"):
        host.stop("new")


def test_a_guest_that_starts_as_another_stops_keeps_its_storage(
    firmware: Any, host: Host, image: bytes
) -> None:
    """The name is free as soon as the guest is destroyed; the storage that is given back then is the old one's."""
    host.start("new", image)
    first = firmware.story.guests["new"]

    def hook(name: str, body: object) -> None:
        if name == "storage" and "new" not in firmware.story.guests:
            firmware.story.before = lambda name, body: None
            host.start("new", image)

    firmware.story.before = hook
    host.stop("new")
    second = firmware.story.guests["new"]
    assert second.handle != first.handle
    reserved = {(start, end) for _, start, end in firmware.story.storage.frames}
    assert {
        (start, end)
        for start, end in firmware.story.storage.translate(second.asce, 0, second.storage_length)
        if not any(first <= start and end <= last for first, last in reserved)
    } == set()
    host.stop("new")
    assert host.storage().held == []
