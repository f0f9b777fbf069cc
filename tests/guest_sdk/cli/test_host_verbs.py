"""`keyvisor host`, against the firmware's story."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.images import an_image


@pytest.fixture
def host(keyvisor: Callable[..., Any], firmware: Any) -> Callable[..., Any]:
    return lambda *arguments: keyvisor("host", *arguments, "--state", str(firmware.state))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "image"
    file.write_bytes(an_image(ec.generate_private_key(ec.SECP521R1())).data)
    return file


def test_a_guests_life(host: Callable[..., Any], firmware: Any, image: Path) -> None:
    started = host("start", "new", "--image", str(image))
    assert (started.code, started.err) == (0, "")
    lines = started.out.splitlines()
    assert lines[0] == f"new runs, CUID {'2d' * 16}"
    assert lines[1].split() == ["holder", "for", "secure", "size", "pieces", "first", "address"]
    assert {line.split("  ")[0] for line in lines[2:]} == {"new"}
    assert len(lines) == 6
    assert host("attach", "new", "03.0011", "05.0002").code == 0
    assert host("detach", "new", "03.0011").code == 0
    assert firmware.story.guests["new"].attached == ["05.0002"]
    assert host("stop", "new").code == 0
    assert "new" not in firmware.story.guests
    assert firmware.story.storage.frames == []


def test_a_start_for_programs(host: Callable[..., Any], firmware: Any, image: Path) -> None:
    told = json.loads(
        host("start", "new", "--image", str(image), "--memory", "64M", "--cpus", "2", "--json").out
    )
    assert told["guest"] == firmware.story.guests["new"].model_dump()
    assert (told["guest"]["storage_length"], told["guest"]["cpus"]) == (64 << 20, [0, 1])
    assert {line["use"] for line in told["held"]} == {"guest base", "guest variable", "cpu", "guest memory"}


def test_a_refused_start_is_one_line(host: Callable[..., Any], firmware: Any, image: Path) -> None:
    ended = host("start", "payments", "--image", str(image))
    assert (ended.code, ended.out) == (1, "")
    assert (
        ended.err == "error: guest `payments` runs already: stop it first (`keyvisor host stop payments`)\n"
    )
    assert host("start", "new", "--image", str(image), "--memory", "1.5M").code == 2
    assert host("start", "new", "--image", str(image), "--memory", "300K").code == 1
    assert host("start", "new", "--image", str(image), "--cpus", "0").code == 2


def test_a_terminal_sees_how_far_it_is(
    host: Callable[..., Any], firmware: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ended = host("start", "new", "--image", str(image))
    assert ended.code == 0
    assert ended.out.startswith("new runs")
    assert ended.err.strip()


def test_the_first_refusal_ends_an_attach(host: Callable[..., Any], firmware: Any) -> None:
    ended = host("attach", "lab", "03.0011", "07.0000", "04.0011")
    assert (ended.code, ended.err) == (1, "error: no HSM 07.0000\n")
    assert firmware.story.guests["lab"].attached == ["03.0011"]


def test_the_list_for_people_and_for_programs(host: Callable[..., Any], firmware: Any) -> None:
    lines = host("list").out.splitlines()
    assert lines[0].split() == ["guest", "state", "CPUs", "memory", "HSMs", "CUID", "started"]
    assert lines[1].split()[:4] == ["payments", "running", "2", "256M"]
    assert "03.0011 04.0011" in lines[1]
    assert "none" in lines[2]
    guests = json.loads(host("list", "--json").out)["guests"]
    assert guests == [guest.model_dump() for guest in firmware.story.guests.values()]


def test_an_empty_list_says_what_to_do(host: Callable[..., Any], firmware: Any) -> None:
    firmware.story.guests.clear()
    assert host("list").out == "no guest is there; `keyvisor host start NAME --image FILE` starts one\n"
    assert json.loads(host("list", "--json").out) == {"guests": []}


def test_the_machines_hsms(host: Callable[..., Any], firmware: Any) -> None:
    lines = host("hsms").out.splitlines()
    assert len(lines) == 4
    assert lines[3].split()[:2] == ["05.0002", "accel"]
    assert json.loads(host("hsms", "--json").out)["hsms"][0] == firmware.story.hsms["03.0011"].model_dump()


def test_the_host_key_to_standard_output_and_to_a_file(host: Callable[..., Any], tmp_path: Path) -> None:
    shown = host("host-key").out
    assert shown.startswith("-----BEGIN CERTIFICATE-----\n")
    file = tmp_path / "host-key.pem"
    assert host("host-key", "-o", str(file)).out == ""
    assert file.read_text() == shown
    ended = host("host-key", "-o", str(tmp_path / "no" / "where"))
    assert ended.code == 1
    assert ended.err.endswith("no such file or directory\n")


def test_without_a_firmware(keyvisor: Callable[..., Any], state: Path) -> None:
    ended = keyvisor("host", "list", "--state", str(state))
    assert ended.code == 1
    assert ended.err.startswith("error: no door")
    assert "keyvisor up" in ended.err


def test_the_state_may_come_from_the_environment(
    keyvisor: Callable[..., Any], firmware: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYVISOR_STATE", str(firmware.state))
    assert keyvisor("host", "list").code == 0


def test_the_host_keys_and_what_vouches_for_them(
    host: Callable[..., Any], firmware: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "keys" / "of the host"
    lines = host("host-keys", "-o", str(folder)).out.splitlines()
    assert lines[1].split() == ["current", "0a" * 32]
    assert lines[2].split() == ["backup", "0b" * 32]
    assert len(lines) == 3
    told = json.loads(host("host-keys", "--json").out)
    assert len(told["hashes"]) == 15
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "host-key.crt": told["current"],
        "host-key-backup.crt": told["backup"],
        "signing-key.crt": told["signing"],
        "root-ca.crt": told["root"],
        "signing-key.crl": told["revocations"],
    }
