"""The host's client, against the firmware's story."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.images import an_image

from keyvisor_guest import DoorBroken, Host, NameInvalid, NotRunning, Refused, SdkError


@pytest.fixture
def host(firmware: Any) -> Host:
    return Host(state=firmware.state)


@pytest.fixture(scope="module")
def image() -> bytes:
    """An image as its owner built it; no host can read what is in it."""
    return an_image(ec.generate_private_key(ec.SECP521R1())).data


def test_a_guests_life(firmware: Any, host: Host, image: bytes) -> None:
    started = host.start("new", image)
    assert (started.name, started.state, started.cpus) == ("new", "running", [0])
    assert "new" in [guest.name for guest in host.guests()]
    host.attach("new", "03.0011")
    host.attach("new", "05.0002")
    host.detach("new", "03.0011")
    assert host.guests()[-1].attached == ["05.0002"]
    host.stop("new")
    assert "new" not in [guest.name for guest in host.guests()]


def test_an_image_is_bounded(firmware: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvisor_guest.host.MAX_IMAGE", 4)
    with pytest.raises(SdkError, match="an image of 5 bytes"):
        host.start("newer", b"12345")
    assert firmware.story.asked == []


def test_the_query_and_its_block(firmware: Any, host: Host) -> None:
    assert host.query_storage() == firmware.story.storage.query
    rc, block = host.query_block()
    assert (rc, len(block)) == (0x0001, 0x120)
    rc, cut = host.query_block(0xB0)
    assert (rc, cut[8:]) == (0x0100, block[8:0xB0])
    assert host.query_storage(0xB0).max_retrievable_secrets == 0
    with pytest.raises(Refused, match="0xa8") as refused:
        host.query_block(0xA7)
    assert (refused.value.kind, refused.value.code) == ("uv", 0x0005)


def test_an_answer_that_is_no_query_block(firmware: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "query_block", lambda self, length: (1, bytes(0x120)))
    with pytest.raises(DoorBroken, match="no query block"):
        host.query_storage()


def test_each_step_of_a_start_stands_alone(firmware: Any, host: Host) -> None:
    query, mib = host.query_storage(), 1 << 20
    base = host.memory.allocate("mine", query.guest_base, alignment=1 << 14, at_least=0x2000)
    asce = host.memory.allocate("mine", 4096)
    sca = host.memory.allocate("mine", 4096)
    guest_storage = host.memory.allocate("mine", mib)
    variable = host.memory.allocate("mine", query.guest_virtual(mib))
    host.memory.map(asce, 0, guest_storage, mib)
    host.memory.map(asce, mib, variable, query.guest_virtual(mib))
    guest = host.create_guest(
        "new",
        base=base,
        base_length=query.guest_base,
        virtual=mib,
        virtual_length=query.guest_virtual(mib),
        storage_length=mib,
        asce=asce,
        sca=sca,
    )
    area = host.memory.allocate("mine", query.cpu)
    cpu = host.create_cpu(guest, 3, storage=area, storage_length=query.cpu)
    host.memory.write(sca, b"the header")
    host.set_parameters(guest, sca, 10)
    host.unpack(guest, 0, 4096, tweak=b"\x00\x01tweak!", offset=0x3000)
    host.verify(guest)
    assert host.run(guest).cpus == [3]
    assert firmware.story.headers[guest] == b"the header"
    unpacked = firmware.story.unpacked[guest][0]
    assert (unpacked.tweak, unpacked.offset) == (b"\x00\x01tweak!".hex(), 0x3000)
    with pytest.raises(Refused) as refused:
        host.destroy_guest(guest)
    assert refused.value.code == 0x0190
    host.destroy_cpu(cpu)
    host.destroy_guest(guest)
    assert host.memory.free("mine").kept == 0
    assert host.storage().held == []


def test_what_is_secure_is_refused_to_the_host(firmware: Any, host: Host, image: bytes) -> None:
    host.start("new", image)
    held = [line for line in host.storage().held if line.secure]
    assert {line.use for line in held} == {"guest base", "guest variable", "cpu", "guest memory"}
    for line in held:
        for access in (lambda at: host.memory.read(at, 1), lambda at: host.memory.write(at, b"x")):
            with pytest.raises(Refused) as refused:
                access(line.first)
            assert (refused.value.kind, refused.value.code) == ("program", 0x3D)


def test_pages_leave_a_guest_and_come_back(firmware: Any, host: Host, image: bytes) -> None:
    before = host.start("new", image)
    host.import_pages("new", 0, 4096)
    secure = host.storage().secure
    host.export_pages("new", 0, 4096)
    assert host.storage().secure == secure - 4096
    host.import_pages("new", 0, 4096)
    assert host.storage().secure == secure
    assert before.storage_length == 256 << 20
    with pytest.raises(NotRunning, match="no guest `nobody`"):
        host.export_pages("nobody", 0, 4096)


def test_long_accesses_are_made_in_pieces(firmware: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvisor_guest.storage.MAX_ACCESS", 1000)
    data = bytes(range(256)) * 11
    host.memory.write(0x1234, data)
    assert host.memory.read(0x1234, len(data)) == data
    assert host.memory.read(0x1233, 2) == b"\x00\x00"
    assert host.memory.read(0x1234, 0) == b""
    assert firmware.story.asked.count("write_storage") == 3


def test_storage_is_unmapped(firmware: Any, host: Host) -> None:
    host.memory.map(0x4000, 0, 0x10000, 0x3000)
    host.memory.unmap(0x4000, 0x1000, 0x1000)
    assert firmware.story.storage.translate(0x4000, 0, 0x1000) == [(0x10000, 0x11000)]
    assert firmware.story.storage.translate(0x4000, 0, 0x2000) is None


def test_init_takes_both_or_neither(firmware: Any, host: Host) -> None:
    with pytest.raises(SdkError, match="or neither"):
        host.init(1 << 31)
    with pytest.raises(Refused) as refused:
        host.init(1 << 31, 1 << 21)
    assert refused.value.code == 0x0101


def test_the_machines_hsms_and_the_host_key(host: Host) -> None:
    assert [hsm.apqn for hsm in host.hsms()] == ["03.0011", "04.0011", "05.0002"]
    assert host.host_key_document().startswith(b"-----BEGIN CERTIFICATE-----\n")


def test_refusals_are_errors(host: Host) -> None:
    with pytest.raises(NotRunning, match="no guest `nobody`"):
        host.stop("nobody")
    with pytest.raises(Refused, match=r"no HSM 07\.0001"):
        host.attach("lab", "07.0001")


def test_names_are_checked_before_anything_is_asked(firmware: Any, host: Host) -> None:
    with pytest.raises(NameInvalid):
        host.stop("../lab")
    with pytest.raises(NameInvalid):
        host.attach("lab", "3.11")
    assert firmware.story.asked == []


def test_without_a_firmware_it_says_how_to_start_one(state: Path) -> None:
    with pytest.raises(NotRunning, match="keyvisor up"):
        Host(state=state).guests()


def test_the_state_may_come_from_the_environment(firmware: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVISOR_STATE", str(firmware.state))
    assert len(Host().guests()) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda host: host.memory.read(1 << 62, 1),
        lambda host: host.memory.write(-1, b"x"),
        lambda host: host.memory.allocate("", 4096),
        lambda host: host.memory.map(0x5000, 0, -4096, 4096),
        lambda host: host.init(-1, 4096),
        lambda host: host.unpack(1, 0, 4096, tweak=b"short", offset=0),
    ],
)
def test_a_value_that_cannot_be_is_told_and_nobody_asked(
    firmware: Any, host: Host, call: Callable[[Host], object]
) -> None:
    with pytest.raises(SdkError, match="cannot be that: "):
        call(host)
    assert firmware.story.asked == []
