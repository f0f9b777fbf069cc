"""What the targets do over and over leaves nothing behind."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest

from .targets import TARGETS

_WARM, _MEASURED = 100, 200  # runs
_GROWTH = 64 << 10  # bytes that caches may still take


@pytest.mark.parametrize(
    "name", [name for name in TARGETS if name != "paths"]
)  # that is `hot` and more, slowly
def test_no_memory_grows(name: str) -> None:
    seeded = random.Random(name)  # noqa: S311 - no secret: the same bytes each time
    corpus = [seeded.randbytes(seeded.randrange(800)) for _ in range(_WARM)]
    target = TARGETS[name]
    tracemalloc.start()
    try:
        for data in corpus:
            target(data)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(_MEASURED):
            target(corpus[number % _WARM])
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < _GROWTH
