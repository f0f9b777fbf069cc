"""The journal of a pytest run: what each test did is known, also where a test took the process along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conformance.journal import OPTION
from conformance.outcomes import Outcome, Result, TestId
from conformance.programs import HUNG
from conformance.python_pkcs11 import Journal, ended

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import os, unittest

class Tests(unittest.TestCase):
    def test_a_passes(self): pass
    def test_b_fails(self): self.assertEqual(1, 2)
    @unittest.skip("not here")
    def test_c_is_skipped(self): pass
    def test_d_crashes(self): os.kill(os.getpid(), 11)
    def test_e_is_not_reached(self): pass
"""


def _run(directory: Path, *tests: str) -> tuple[Journal, int]:
    journal = directory / "journal"
    journal.write_text("")
    (directory / "test_suite.py").write_text(SUITE)
    (directory / "pytest.ini").write_text("[pytest]\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conformance.journal"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*words, OPTION, str(journal), *(tests or ("test_suite.py",))],
        cwd=directory,
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Journal.read(journal.read_text()), done.returncode


def _id(name: str) -> TestId:
    return TestId(f"test_suite.py::Tests::{name}")


def test_tells_what_each_test_did_until_one_crashed(tmp_path: Path) -> None:
    journal, code = _run(tmp_path)
    assert len(journal.collected) == 5
    assert journal.outcomes == {
        _id("test_a_passes"): Outcome(Result.PASSED),
        _id("test_b_fails"): Outcome(Result.FAILED, "AssertionError: 1 != 2"),
        _id("test_c_is_skipped"): Outcome(Result.SKIPPED, "Skipped: not here"),
    }
    assert journal.under_way == _id("test_d_crashes")
    assert ended(code) is Result.CRASHED


def test_the_rest_runs_by_its_names(tmp_path: Path) -> None:
    journal, code = _run(tmp_path, _id("test_e_is_not_reached"))
    assert journal.outcomes == {_id("test_e_is_not_reached"): Outcome(Result.PASSED)}
    assert journal.under_way is None
    assert code == 0


def test_the_first_failure_of_a_test_counts() -> None:
    lines = [
        {"started": "a"},
        {"test": "a", "result": "passed", "detail": ""},
        {"test": "a", "result": "failed", "detail": "in its end"},
        {"started": "b"},
        {"test": "b", "result": "failed", "detail": "itself"},
        {"test": "b", "result": "failed", "detail": "in its end"},
    ]
    journal = Journal.read("\n".join(json.dumps(line) for line in lines))
    assert journal.outcomes[TestId("a")] == Outcome(Result.FAILED, "in its end")
    assert journal.outcomes[TestId("b")] == Outcome(Result.FAILED, "itself")


@pytest.mark.parametrize(("code", "result"), [(-11, Result.CRASHED), (1, Result.HUNG), (HUNG, Result.HUNG)])
def test_how_a_process_ended(code: int, result: Result) -> None:
    assert ended(code) is result
