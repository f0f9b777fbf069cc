"""What is read of the machine, from text as the kernel writes it; nothing that names it."""

from __future__ import annotations

import platform

import pytest
from bench.machine import machine, processor
from bench.processes import pss_kib, ticks

SMAPS_ROLLUP = """\
55d0-7ffe ---p 00000000 00:00 0                          [rollup]
Rss:               34816 kB
Pss:               15421 kB
Pss_Dirty:         11004 kB
"""


def test_the_processor_is_the_first_of_them() -> None:
    assert processor("processor\t: 0\nmodel name\t: A\nprocessor\t: 1\nmodel name\t: B\n") == "A"


def test_a_processor_without_a_name_is_its_architecture() -> None:
    assert processor("processor\t: 0\n") == platform.machine()


def test_the_proportional_set_size_is_not_its_dirty_part() -> None:
    assert pss_kib(SMAPS_ROLLUP) == 15421


def test_no_proportional_set_size_is_no_zero() -> None:
    with pytest.raises(ValueError, match="Pss"):
        pss_kib("Rss: 1 kB\n")


def test_work_is_user_and_system_time_whatever_a_process_is_called() -> None:
    assert ticks("7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 50 6 70 80 20 0 1 0") == 56


def test_the_machine_is_not_named() -> None:
    assert platform.node() not in machine().values()
