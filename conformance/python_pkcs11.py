"""The suite of python-pkcs11, from the source distribution of the release that is installed, unmodified.

It runs in one process as its authors run it. A test that takes the process along, or stops answering, counts as
crashed or hung, and the rest runs in a new process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from conformance.journal import OPTION
from conformance.outcomes import Outcome, Result, TestId
from conformance.programs import HUNG, run
from conformance.sides import LABEL, PINS, Side

RELEASE: Final = version("python-pkcs11")
_ROOT: Final = Path(__file__).resolve().parents[1]
_SUITE: Final = _ROOT / ".venv" / "conformance" / f"python-pkcs11-{RELEASE}"
_TEST_SECONDS: Final = 60
_RUN_SECONDS: Final = 600.0
_ONLY_SOFTHSM: Final = "SoftHSMv2 only"
_RESULTS: Final = {result.value: result for result in (Result.PASSED, Result.FAILED, Result.SKIPPED)}


def tests(side: Side) -> Iterator[tuple[TestId, Outcome]]:
    """All tests. Those that are for SoftHSM only the suite skips; they run then with the client under SoftHSM's name."""
    left: list[TestId] = []
    for test, outcome in _outcomes(side, side.client, []):
        if _ONLY_SOFTHSM in outcome.detail and outcome.result is Result.SKIPPED:
            left.append(test)
        else:
            yield test, outcome
    link = side.directory / "libsofthsm2.so"  # it is the file's name that the suite goes by
    link.symlink_to(side.client)
    if left:
        yield from _outcomes(side, link, left)


@dataclass(slots=True)
class Journal:
    """What is read of the file that the plugin writes."""

    collected: list[TestId] = field(default_factory=list)
    outcomes: dict[TestId, Outcome] = field(default_factory=dict)
    under_way: TestId | None = None

    @classmethod
    def read(cls, text: str) -> Journal:
        """Read the lines. Of a test that says more than one thing (it failed, and so did its end) the first counts."""
        journal = cls()
        for line in text.splitlines():
            journal._take(json.loads(line))
        return journal

    def _take(self, entry: dict[str, Any]) -> None:
        if "collected" in entry:
            self.collected = [TestId(name) for name in entry["collected"]]
        elif "started" in entry:
            self.under_way = TestId(entry["started"])
        else:
            self._end(TestId(entry["test"]), Outcome(_RESULTS[entry["result"]], entry["detail"]))

    def _end(self, test: TestId, outcome: Outcome) -> None:
        before = self.outcomes.get(test)
        if before is None or before.result is Result.PASSED:
            self.outcomes[test] = outcome
        if self.under_way == test:
            self.under_way = None


def ended(code: int) -> Result:
    """How the test ended that was under way when the process ended: a signal killed it, or it took too long."""
    return Result.CRASHED if code < 0 and code != HUNG else Result.HUNG


def _outcomes(side: Side, module: Path, wanted: list[TestId]) -> Iterator[tuple[TestId, Outcome]]:
    """What the tests did, all where none are named. After one that took the process along, those that are left run."""
    left: list[TestId] | None = None
    while left is None or left:
        journal, code, told = _run(side, module, wanted if left is None else left)
        if not journal.collected:
            raise SystemExit(f"python-pkcs11's suite did not start on the {side.name} side: {told.strip()}")
        if journal.under_way is not None:
            journal.outcomes[journal.under_way] = Outcome(ended(code))
        if not journal.outcomes:
            raise SystemExit(f"python-pkcs11's suite did not go on on the {side.name} side: {told.strip()}")
        yield from journal.outcomes.items()
        left = [test for test in journal.collected if test not in journal.outcomes]


def _run(side: Side, module: Path, tests: list[TestId]) -> tuple[Journal, int, str]:
    path = side.directory / "journal"
    path.write_text("", encoding="utf-8")
    environment = {
        **side.environment,
        "PYTHONPATH": str(_ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PKCS11_MODULE": str(module),
        "PKCS11_TOKEN_LABEL": LABEL,
        "PKCS11_TOKEN_PIN": PINS.user,
        "PKCS11_TOKEN_SO_PIN": PINS.so,
    }
    words = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "no:cacheprovider"]
    words += ["-p", "pytest_timeout", "-p", "conformance.journal"]
    words += ["--timeout", str(_TEST_SECONDS), "--timeout-method", "thread", OPTION, str(path)]
    done = run([*words, *(tests or ("tests",))], environment, _SUITE, seconds=_RUN_SECONDS)
    return Journal.read(path.read_text(encoding="utf-8")), done.code, done.told
