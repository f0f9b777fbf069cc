"""`keyvisor host query`, `storage`, `memory`, `export` and `import`, against the firmware's story."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.images import an_image

from keyvisor_guest import Host
from keyvisor_guest.wire.qui import decode_query


@pytest.fixture
def host(keyvisor: Callable[..., Any], firmware: Any) -> Callable[..., Any]:
    return lambda *arguments: keyvisor("host", *arguments, "--state", str(firmware.state))


@pytest.fixture
def started(firmware: Any) -> Host:
    host = Host(state=firmware.state)
    host.start("new", an_image(ec.generate_private_key(ec.SECP521R1())).data)
    return host


def test_the_query_for_people_and_for_programs(host: Callable[..., Any], firmware: Any) -> None:
    shown = host("query").out
    lines = [line.split() for line in shown.splitlines()]
    assert ["firmware,", "once", "(absolute)", "2M", "2097152"] in lines
    assert ["each", "guest", "(absolute)", "32K", "32768"] in lines
    assert ["each", "guest,", "per", "MiB", "of", "its", "storage", "(virtual)", "6K", "6144"] in lines
    assert ["secret", "types", "7fe07e0000000000"] in lines
    assert ["installed", "calls", "0001", "000f"] in lines
    told = json.loads(host("query", "--json").out)
    assert (told["zone_base"], told["cpu"], told["calls"]) == (2 << 20, 0x2000, [1, 15])


def test_the_query_block_as_it_is(host: Callable[..., Any], firmware: Any, tmp_path: Path) -> None:
    file = tmp_path / "block"
    assert host("query", "--format", "bin", "-o", str(file)).out == ""
    assert len(file.read_bytes()) == 0x120
    assert decode_query(file.read_bytes()) == firmware.story.storage.query
    host("query", "--format", "bin", "-o", str(file), "--length", "176")
    assert len(file.read_bytes()) == 176
    short = host("query", "--length", "100")
    assert (short.code, short.err.count("\n")) == (1, 1)
    assert "(0x0005)" in short.err
    assert host("query", "-o", str(file)).code == 2


def test_the_ledger(host: Callable[..., Any], started: Host) -> None:
    lines = host("storage").out.splitlines()
    assert lines[0].split() == ["holder", "for", "secure", "size", "pieces", "first", "address"]
    base = next(line.split() for line in lines if "guest base" in line)
    assert base[:5] == ["new", "guest", "base", "yes", "32K"]
    assert any(line.startswith("guest new ") and " host " in line for line in lines)
    ledger = started.storage()
    assert lines[-1].startswith("1T in all: ")
    assert "#" not in "".join(lines)  # the bar is for terminals
    assert json.loads(host("storage", "--json").out) == ledger.model_dump()
    assert sum(line.length for line in ledger.held) + ledger.free == ledger.size


def test_an_empty_ledger_of_a_firmware_without_storage(host: Callable[..., Any], firmware: Any) -> None:
    firmware.story.storage.initialised = False
    assert host("storage").out == (
        "nobody holds anything\n"
        "1T in all: 0 secure, 0 the host's, 1T free, the largest piece 1T\n"
        "the firmware has no storage yet: the first `keyvisor host start` gives it\n"
    )


def test_a_plan_that_fits(host: Callable[..., Any], firmware: Any) -> None:
    ended = host("storage", "--plan", "memory=64G,cpus=8")
    assert ended.code == 0
    rows = {" ".join(cells[:-2]): int(cells[-1]) for cells in map(str.split, ended.out.splitlines()[1:])}
    assert rows == {
        "guest base": 0x8000,
        "guest variable": 0x3000 + 65536 * 0x1800,
        "cpu": 8 * 0x2000,
        "guest memory": 64 << 30,
        "address space and SCA": 8192,
        "in all": 0x8000 + 0x3000 + 65536 * 0x1800 + 8 * 0x2000 + (64 << 30) + 8192,
    }


def test_a_plan_says_what_starting_takes(host: Callable[..., Any], firmware: Any) -> None:
    """What a start reserves is what the plan says, to the byte."""
    firmware.story.storage.initialised = False
    planned = json.loads(host("storage", "--plan", "memory=32M,cpus=3", "--json").out)
    image = an_image(ec.generate_private_key(ec.SECP521R1())).data
    before = Host(state=firmware.state)
    free = before.storage().free
    before.start("new", image, memory=32 << 20, cpus=3)
    assert free - before.storage().free == planned["total"]
    assert (planned["free"], planned["missing"]) == (free, 0)


def test_a_plan_that_does_not_fit(host: Callable[..., Any], firmware: Any) -> None:
    firmware.story.storage.size = 1 << 30
    ended = host("storage", "--plan", "memory=1G")
    total = 0x8000 + 0x3000 + 1024 * 0x1800 + 0x2000 + (1 << 30) + 8192
    assert ended.code == 1
    assert ended.err == (
        f"error: such a guest needs {total} bytes in all, {1 << 30} are free: {total - (1 << 30)} are missing; "
        "stop guests, or give the machine more storage (`storage.size` of the configuration)\n"
    )
    assert "guest variable" in ended.out
    firmware.story.storage.size = total
    assert host("storage", "--plan", "memory=1G").code == 0
    firmware.story.storage.initialised = False
    told = json.loads(host("storage", "--plan", "memory=1G", "--json").out)
    assert told["missing"] == 2 << 20


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "memory",
        "memory=",
        "memory=1.5G",
        "cpus=1",
        "memory=1G,cpus=",
        "memory=1G,disks=1",
        "memory=1G,cpus=x",
    ],
)
def test_what_is_no_plan(host: Callable[..., Any], plan: str) -> None:
    ended = host("storage", "--plan", plan)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_a_plan_that_cannot_be(host: Callable[..., Any], firmware: Any) -> None:
    ended = host("storage", "--plan", "memory=1G,cpus=17")
    assert (ended.code, ended.err) == (1, "error: a guest of 17 CPUs cannot be: give 1 to 16\n")


def test_memory_is_read_and_written(host: Callable[..., Any], firmware: Any, tmp_path: Path) -> None:
    file, back = tmp_path / "in", tmp_path / "out"
    file.write_bytes(b"sixteen bytes\0\xff!and more")
    assert host("memory", "write", "0x12340", str(file)).code == 0
    assert host("memory", "read", "0x12340", "18").out == (
        "000000012340  73 69 78 74 65 65 6e 20 62 79 74 65 73 00 ff 21  sixteen bytes..!\n"
        f"000000012350  {'61 6e':<48} an\n"
    )
    assert host("memory", "read", "0x12340", "24", "-o", str(back)).out == ""
    assert back.read_bytes() == file.read_bytes()
    assert json.loads(host("memory", "read", "0x12340", "2", "--json").out)["data"] == "7369"


def test_part1_T7_the_host_is_refused_what_was_donated(
    host: Callable[..., Any], started: Host, tmp_path: Path
) -> None:
    base = next(line.first for line in started.storage().held if line.use == "guest base")
    file = tmp_path / "in"
    file.write_bytes(b"x")
    for ended in (host("memory", "read", hex(base), "1"), host("memory", "write", str(base), str(file))):
        assert (ended.code, ended.out, ended.err) == (1, "", f"error: storage at {base:#x} is secure\n")


def test_pages_are_exported_and_imported(host: Callable[..., Any], started: Host) -> None:
    assert host("import", "new", "0", "4K").code == 0
    secure = started.storage().secure
    assert host("export", "new", "0", "4K").code == 0
    assert started.storage().secure == secure - 4096
    again = host("export", "new", "0", "4K")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert host("export", "nobody", "0", "4K").err.startswith("error: no guest `nobody`")
