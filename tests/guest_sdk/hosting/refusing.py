"""Hooks into the firmware's story: calls that are refused, and what happens between two calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..conftest import refuse, uv

CODE = 0x0777  # of nothing: no caller makes anything of it


class Refusing:
    """Refuses the call number `at` (from 0) of all that come, and where it reserves storage the next that does, too."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._calls = 0
        self._allocate = False

    def __call__(self, name: str, body: object) -> None:
        number, self._calls = self._calls, self._calls + 1
        if number == self._at or (self._allocate and name == "allocate"):
            self._allocate = number == self._at and name == "allocate"
            raise uv(CODE, f"call {self._at} is refused")


def dying(at: int) -> Callable[[str, object], None]:
    """As if the host died before its call number `at`: that and all that follow come to nothing."""
    calls = iter(range(1 << 20))

    def hook(name: str, body: object) -> None:
        if next(calls) >= at:
            raise refuse(503, "http", 503, "the host is dead")

    return hook


def between(firmware: Any, at: int, act: Callable[[], object]) -> Callable[[str, object], None]:
    """Does `act`, once, before the call number `at`."""
    calls = iter(range(1 << 20))

    def hook(name: str, body: object) -> None:
        if next(calls) == at:
            firmware.story.before = lambda name, body: None
            act()

    return hook


def refusing(*names: str) -> Callable[[str, object], None]:
    """Refuses every call of these names."""

    def hook(name: str, body: object) -> None:
        if name in names:
            raise uv(CODE, f"{name} is refused")

    return hook
