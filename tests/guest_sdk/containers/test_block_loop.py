"""block_loop.c compiled anew: under the sanitizers, and as its own broken twins, each of which the checks below notice.

KEYVISOR_TEST_FUZZ multiplies the rounds, for a longer run by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from keyvisor_guest.containers.block_runs import LIBRARY, BlockRuns, BlockRunsMissing, Room
from keyvisor_guest.containers.block_runs import BlockCipher as Kind
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.runners import IN_PYTHON, BadBlock, in_c

_FACTOR: Final = int(os.environ.get("KEYVISOR_TEST_FUZZ", "1"))
_SOURCE: Final = LIBRARY.with_suffix(".c")
_STRICT: Final = (
    "-std=gnu11 -g -O1 -Wall -Wextra -Werror -fno-sanitize-recover=all -fsanitize=address,undefined"
)
_KEY: Final = bytes(range(64))
_ASSOCIATED: Final = bytes(range(52))
_PLAIN: Final = bytes(range(256)) * (3 * BLOCK // 256)
_FIRST: Final = 0x0102


def ran(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("there is no C compiler")
    return found


def test_under_the_sanitizers(compiler: str, tmp_path: Path) -> None:
    words = [compiler, *_STRICT.split()]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    empty = str(tmp_path / "empty")
    trial = ran([*words, "-o", empty, f"{empty}.c"])
    # Some kernels place memory where the sanitizer has its own.
    before = next(
        (
            one
            for one in ([], ["setarch", "-R"])
            if not trial.returncode and not ran([*one, empty]).returncode
        ),
        None,
    )
    if before is None:
        pytest.skip(f"there is no address sanitizer here: {trial.stderr.strip()[-200:]}")
    harness, program = Path(__file__).with_name("block_loop_harness.c"), str(tmp_path / "harness")
    built = ran([*words, f"-I{_SOURCE.parent}", "-o", program, str(harness), "-ldl"])
    assert built.returncode == 0, built.stderr
    ended = ran([*before, program, "1", str(3000 * _FACTOR)])
    assert ended.returncode == 0, ended.stderr[-6000:]
    numbers = ended.stdout.split()
    seen = dict(zip(numbers[::2], map(int, numbers[1::2]), strict=True))
    assert sum(seen.values()) == 3000 * _FACTOR
    assert min(seen.values()) > 300


# --- broken twins

# What is left out or made wrong, and what stands there then.
TWINS: Final = {
    "the tag is looked at": ("if (begun && end(w)) continue;", "if (begun) { end(w); continue; }"),
    "a nonce has its block's number": ("    put_big(nonce + 4, block);\n", ""),
    "additional data has the block's number": ("    put_big(w->associated + ASSOCIATED, block);\n", ""),
    "additional data is the layer's": ("    memcpy(w->associated, associated, ASSOCIATED);\n", ""),
    "what nobody vouches for is wiped": ("w->evp.cleanse(out + i * BLOCK, (count - i) * BLOCK);", ""),
    "the first bad block is told": ("begun ? (int64_t)i : FAILED", "begun ? (int64_t)count - 1 : FAILED"),
    "a tweak is little-endian": ("tweak[at] =", "tweak[15 - at] ="),
    "each block has its tweak": ("((first + i) >> 8 * at)", "(first >> 8 * at)"),
    "each block has its number": ("begin_gcm(w, first + i)", "begin_gcm(w, first)"),
}


@pytest.mark.parametrize("name", [None, *TWINS])
def test_a_twin_without_it_is_noticed(compiler: str, name: str | None, tmp_path: Path) -> None:
    source = _SOURCE.read_text()
    if name is not None:
        whole, without = TWINS[name]
        assert whole in source
        source = source.replace(whole, without)
    (tmp_path / "twin.c").write_text(source)
    library = tmp_path / "twin.so"
    built = ran([compiler, "-std=gnu11", "-O1", "-fPIC", "-shared", "-o", str(library), f"{tmp_path}/twin.c"])
    assert built.returncode == 0, built.stderr
    wrong = True
    try:
        wrong = differs(BlockRuns(library))
    except BlockRunsMissing as missing:
        if name is None:
            pytest.skip(
                str(missing)
            )  # no libcrypto; one that is wrong all over is noticed when it is tried out
    assert wrong == (name is not None)


def differs(runs: BlockRuns) -> bool:
    """Whether C does anything else than Python."""
    ways = IN_PYTHON, in_c(runs)
    gcm, gcm_in_c = (how.gcm(_KEY[:32], _ASSOCIATED) for how in ways)
    xts, xts_in_c = (how.xts(_KEY) for how in ways)
    stored, tags = gcm.seal(_FIRST, _PLAIN)
    sealed, found = gcm_in_c.seal(_FIRST, _PLAIN)
    if (sealed, found) != (stored, tags) or xts.seal(_FIRST, _PLAIN) != xts_in_c.seal(_FIRST, _PLAIN):
        return True
    changed = bytearray(stored)
    changed[BLOCK] ^= 1
    try:
        gcm_in_c.open(_FIRST, bytes(changed), tags)
    except BadBlock as bad:
        if bad.block != _FIRST + 1:
            return True
    else:
        return True
    room = Room()
    opens = runs.worker(Kind.GCM, _KEY[:32], _ASSOCIATED, seals=False)
    opens.open_gcm(_FIRST, bytes(changed), tags, room)
    return room.view[:BLOCK] != _PLAIN[:BLOCK] or any(room.view[BLOCK : 3 * BLOCK])
