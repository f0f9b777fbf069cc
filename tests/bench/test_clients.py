"""What clients measured at the same time is one sample."""

from __future__ import annotations

from bench.clients import Sample, combined


def test_a_crowd_adds_up_and_takes_medians() -> None:
    samples = [Sample(100.0, 1.0, 5.0, 10), Sample(200.0, 2.0, 50.0, 20), Sample(300.0, 9.0, 6.0, 30)]
    assert combined(samples) == Sample(600.0, 2.0, 6.0, 60)
