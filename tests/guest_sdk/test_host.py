"""The host's client, against the firmware's story."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest import Host, NameInvalid, NotRunning, Refused, SdkError
from keyvisor_guest.wire import messages


@pytest.fixture
def host(firmware: Any) -> Host:
    return Host(state=firmware.state)


def test_a_guests_life(firmware: Any, host: Host, secret_request: bytes) -> None:
    started = host.start("new", secret_request)
    assert isinstance(started, messages.Guest)
    assert firmware.story.images["new"] == secret_request
    assert "new" in [guest.name for guest in host.guests()]
    host.attach("new", "03.0011")
    host.attach("new", "05.0002")
    host.detach("new", "03.0011")
    assert host.guests()[-1].attached == ["05.0002"]
    host.stop("new")
    assert "new" not in [guest.name for guest in host.guests()]


def test_an_image_is_bytes_of_any_kind_and_bounded(
    firmware: Any, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyvisor_guest.host.MAX_IMAGE", 4)
    host.start("new", b"\0\xff\n\0")
    with pytest.raises(SdkError, match="an image of 5 bytes"):
        host.start("newer", b"12345")
    assert "newer" not in firmware.story.guests


def test_the_machines_hsms_and_the_host_key(host: Host) -> None:
    assert [hsm.apqn for hsm in host.hsms()] == ["03.0011", "04.0011", "05.0002"]
    assert host.host_key_document().startswith(b"-----BEGIN CERTIFICATE-----\n")


def test_refusals_are_errors(host: Host) -> None:
    with pytest.raises(Refused, match="runs already"):
        host.start("payments", b"")
    with pytest.raises(Refused, match="no guest `nobody`"):
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
