"""The compiled loop under the sanitizers: harness.c drives it with requests that are right or nearly so, for a few seconds.

KEYVISOR_TEST_FUZZ multiplies the rounds, for a longer run by hand.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS
from keyvisor_firmware.broker.hot import loop as hot_loop
from keyvisor_firmware.broker.hot.tables import TABLE, Shape, shape_of
from keyvisor_hsm.cryptoki import CKA, CKM

from ..encoder import NULL, Mechanism, body, sized, u64
from ..sample_calls import arguments

_FACTOR: Final = int(os.environ.get("KEYVISOR_TEST_FUZZ", "1"))
_FLAGS: Final = (
    "-std=gnu11 -g -O1 -Wall -Wextra -Werror -Wno-misleading-indentation -pthread -fno-sanitize-recover=all"
)
_ENVIRONMENT: Final = {
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def corpus() -> list[tuple[bytes, int, int]]:
    """Requests of session 1, and where their IV is."""
    hot = [call for call in CALLS if shape_of(call) is not Shape.COLD_CALL]
    cold = [BY_NAME[name] for name in ("C_CreateObject", "C_FindObjects", "C_CloseSession", "C_GetInfo")]
    found = [(body(call.name, *arguments(call, 1, 1)), 0, 0) for call in (*hot, *cold) if call.roles]
    for call in hot:
        if shape_of(call) is Shape.IN_OUT:
            found += [
                (body(call.name, 1, data, room), 0, 0)
                for data in (None, b"", bytes(99))
                for room in (0, NULL, 600)
            ]
        if shape_of(call) in (Shape.OUT, Shape.RANDOM):
            found += [(body(call.name, 1, room), 0, 0) for room in (0, NULL, 512, 513)]
    for count in (1, 3, 12):
        rooms = [(int(CKA.LABEL) + number, (0, 1, 8, 33, 700)[number % 5]) for number in range(count)]
        found.append((body("C_GetAttributeValue", 1, 2, rooms), 0, 0))
    for name in ("C_EncryptInit", "C_DecryptInit", "C_SignInit"):
        for type_, before, behind in (
            (CKM.AES_CBC, b"", b""),
            (CKM.AES_CTR, u64(128), b""),
            (CKM.AES_GCM, b"", u64(128) + sized(b"aad") + u64(128)),
        ):
            one, other = (
                body(name, 1, Mechanism(type_, before + sized(bytes((fill,)) * 16) + behind), 2)
                for fill in (0x11, 0xEE)
            )
            begin = next(place for place in range(len(one)) if one[place] != other[place])
            found.append((one, begin, 16))
    return [(content, hole or len(content), length) for content, hole, length in found]


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=200, **options)  # type: ignore[call-overload,no-any-return]


class Harness:
    """The harness, built with one of the sanitizers. Skips the test where there is no such sanitizer."""

    def __init__(self, sanitizer: str, home: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("there is no C compiler")
        self._home = home
        self._compile = [compiler, *_FLAGS.split(), f"-fsanitize={sanitizer}"]
        self._before = self._require(sanitizer)
        source = Path(__file__).with_name("harness.c")
        include = f"-I{Path(hot_loop.__file__).parent}"
        built = run([*self._compile, include, "-o", str(home / "harness"), str(source)])
        assert built.returncode == 0, built.stderr
        (home / "rows").write_bytes(TABLE.tobytes())
        (home / "corpus").write_bytes(
            b"".join(struct.pack("=III", len(content), *hole) + content for content, *hole in corpus())
        )

    def _require(self, sanitizer: str) -> list[str]:
        """What has to stand before a program: some kernels place memory where the sanitizer has its own."""
        source, program = self._home / "empty.c", str(self._home / "empty")
        source.write_text("int main(void) { return 0; }\n")
        trial = run([*self._compile, "-o", program, str(source)])
        if trial.returncode == 0:
            for before in ([], ["setarch", "-R"]):
                if (trial := run([*before, program])).returncode == 0:
                    return before
        pytest.skip(f"there is no sanitizer `{sanitizer}` here: {trial.stderr.strip()[-200:]}")

    def __call__(self, how: str, seed: int, rounds: int) -> dict[str, int]:
        """Run it; what was seen, how often."""
        files = [str(self._home / name) for name in ("rows", "corpus")]
        words = [*self._before, str(self._home / "harness"), how, *files, str(seed), str(rounds)]
        ended = run(words, env={**os.environ, **_ENVIRONMENT})
        assert ended.returncode == 0, f"{' '.join(words)}\n{ended.stderr[-6000:]}"
        numbers = ended.stdout.split()
        return dict(zip(numbers[::2], map(int, numbers[1::2]), strict=True))


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """With the sanitizers that see what memory is touched, and what C does not define."""
    return Harness("address,undefined", tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def races(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """With the one that sees what threads do at once."""
    return Harness("thread", tmp_path_factory.mktemp("races"))


def test_bodies_that_are_right_or_nearly(memory: Harness) -> None:
    seen = memory("bodies", 1, 400_000 * _FACTOR)
    assert min(seen[name] for name in ("ANSWERED", "COLD", "CHANGED", "NOTIFY")) > 1000


def test_streams_of_frames(memory: Harness) -> None:
    require_streams(memory("streams", 2, 600 * _FACTOR))


def test_streams_of_frames_that_two_threads_answer(races: Harness) -> None:
    require_streams(races("streams", 3, 400 * _FACTOR))


def require_streams(seen: dict[str, int]) -> None:
    """There was something of everything."""
    assert min(seen[name] for name in ("SLOW", "COLD", "CHANGED", "NOTIFY", "ENDED", "BAD_HEAD")) > 10
    assert seen["replies"] > seen["frames"] / 4


def test_python_beside_two_connections(races: Harness) -> None:
    seen = races("threads", 4, 40_000 * _FACTOR)
    assert min(seen[name] for name in ("ANSWERED", "COLD", "CHANGED", "NOTIFY")) > 200
