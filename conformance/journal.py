"""A pytest plugin that writes down what each test does as it does it, so that nothing is lost when one takes the process along.

One JSON object per line: `{"collected": [id, ...]}` once, `{"started": id}`, and
`{"test": id, "result": "passed" | "failed" | "skipped", "detail": text}`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

OPTION = "--conformance-journal"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption(OPTION, type=Path, help="the file to write what each test does to")


def pytest_configure(config: pytest.Config) -> None:
    """Start to write where the option is given."""
    path = config.getoption(OPTION)
    if path is not None:
        config.pluginmanager.register(Journal(path), "conformance-journal-writer")


class Journal:
    """Writes each line at once: the next test may be the one that crashes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All that will run."""
        self._write(collected=[item.nodeid for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._write(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a test ends. A set-up says something only where it fails or skips, an end only where it fails."""
        if report.when == "call" or not report.passed:
            self._write(test=report.nodeid, result=report.outcome, detail=_detail(report))

    def _write(self, **what: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


def _detail(report: pytest.TestReport) -> str:
    """Why a test was skipped, or the line that it failed with."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr or "") if crash is None else str(crash.message)
    return text.partition("\n")[0]
