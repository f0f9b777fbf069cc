"""Thin-pool metadata: what `thin_restore` takes, `thin_check` finds sound, and `thin_delta` reads the layers out of again."""

from __future__ import annotations

import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.thin import CLUSTER_BLOCKS, ThinRows, rows_for
from keyvisor_guest.containers.thin_metadata import thin_xml

VOLUME = 40 * CLUSTER_BLOCKS  # blocks


def runs(blocks: set[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and sum(found[-1]) == block:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((block, 1))
    return tuple(found)


def layers_of(drawn: list[tuple[set[int], set[int]]]) -> list[ThinRows]:
    made: list[ThinRows] = []
    for changed, zero in drawn:
        made.append(rows_for(runs(changed), runs(zero - changed), made[-1].pool_end if made else 0))
    return made


some_blocks = st.sets(st.integers(0, VOLUME - 1), max_size=30) | st.integers(0, 8).map(
    lambda n: set(range(n * 61, n * 61 + 3 * CLUSTER_BLOCKS))
)
some_layers = st.lists(st.tuples(some_blocks, some_blocks), min_size=1, max_size=5)


def model(layers: list[ThinRows]) -> list[dict[int, tuple[int, int]]]:
    """Of each device, by cluster: the pool's block and the layer that it came with."""
    now: dict[int, tuple[int, int]] = {}
    devices = []
    for number, layer in enumerate(layers):
        pool = layer.pool_first
        for first, count in layer.mapped:
            for cluster in range(first, first + count):
                now[cluster] = pool, number
                pool += 1
        for first, count in layer.unmapped:
            for cluster in range(first, first + count):
                now.pop(cluster, None)
        devices.append(dict(now))
    return devices


def read(text: str) -> list[dict[int, tuple[int, int]]]:
    devices = []
    for device in ET.fromstring(text):  # noqa: S314 our own
        found = {}
        for row in device:
            get = {name: int(value) for name, value in row.attrib.items()}
            if row.tag == "single_mapping":
                found[get["origin_block"]] = get["data_block"], get["time"]
            else:
                for n in range(get["length"]):
                    found[get["origin_begin"] + n] = get["data_begin"] + n, get["time"]
        assert len(found) == int(device.attrib["mapped_blocks"])
        devices.append(found)
    return devices


@given(some_layers)
@settings(max_examples=200, deadline=None)
def test_each_device_maps_what_the_model_says(drawn: list[tuple[set[int], set[int]]]) -> None:
    layers = layers_of(drawn)
    assert read("\n".join(thin_xml(layers))) == model(layers)


@given(some_layers)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_thin_check_finds_what_was_restored_sound(program, drawn) -> None:  # type: ignore[no-untyped-def]
    layers = layers_of(drawn)
    restore, check, dump = (
        program(name, "thin-provisioning-tools") for name in ("thin_restore", "thin_check", "thin_dump")
    )
    with tempfile.TemporaryDirectory() as directory:
        xml, metadata = Path(directory, "xml"), Path(directory, "metadata")
        xml.write_text("\n".join(thin_xml(layers)) + "\n")
        metadata.write_bytes(bytes(4 << 20))
        for command in ([restore, "-i", xml, "-o", metadata], [check, metadata]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        dumped = subprocess.run([dump, metadata], capture_output=True, text=True, check=True).stdout
        assert read(dumped) == model(layers)


def test_thin_check_finds_a_block_outside_of_the_pool(program, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The twin: what is held against `thin_check` is held against something."""
    restore = program("thin_restore", "thin-provisioning-tools")
    text = "\n".join(thin_xml(layers_of([({0, 1}, set()), ({700}, set())])))
    broken = text.replace('data_block="1"', 'data_block="900"')
    assert broken != text
    (tmp_path / "xml").write_text(broken)
    (tmp_path / "metadata").write_bytes(bytes(4 << 20))
    command = [restore, "-i", tmp_path / "xml", "-o", tmp_path / "metadata"]
    done = subprocess.run(command, capture_output=True, check=False)
    found = subprocess.run(
        [program("thin_check", "thin-provisioning-tools"), tmp_path / "metadata"],
        capture_output=True,
        check=False,
    )
    assert done.returncode or found.returncode


def test_layers_that_do_not_go_on_from_each_other_are_refused() -> None:
    rows = layers_of([({0}, set()), ({20}, set())])
    with pytest.raises(ImageRefused) as refused:
        thin_xml([rows[1], rows[0]])
    assert refused.value.code is Refusal.CHAIN
