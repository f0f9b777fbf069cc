"""`python -m conformance`: run every suite on both sides at once, write docs/conformance.md, fail on what is not explained."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from conformance.broker import Firmware
from conformance.causes import CAUSES
from conformance.inputs import make_inputs
from conformance.outcomes import Difference, Outcome, TestId, Verdict, judge
from conformance.plain import plain_side
from conformance.report import Finding, page
from conformance.sides import Side
from conformance.suites import SUITES, Suite
from conformance.versions import versions
from keyvisor_firmware.errors import ConfigInvalid
from keyvisor_guest import SdkError

_PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"


class Run:
    """One run: a directory, a daemon, and what has been found so far."""

    def __init__(self, directory: Path, firmware: Firmware) -> None:
        self._directory = directory
        self._firmware = firmware
        self._inputs = directory / "inputs"
        self._inputs.mkdir()
        make_inputs(self._inputs)
        self.findings: list[Finding] = []

    def both(self, suite: Suite) -> Finding:
        """Run a suite on both sides at the same time."""
        with ThreadPoolExecutor(2) as pool:
            plain = pool.submit(self._plain, suite)
            broker = pool.submit(self._broker, suite)
            finding = Finding(suite, plain.result(), broker.result())
        self.findings.append(finding)
        return finding

    def _plain(self, suite: Suite) -> Mapping[TestId, Outcome]:
        directory = self._directory / f"plain-{suite.tag}"
        directory.mkdir()
        with plain_side(directory) as side:
            return self._on(side, suite)

    def _broker(self, suite: Suite) -> Mapping[TestId, Outcome]:
        with self._firmware.side(suite.tag) as side:
            return self._on(side, suite)

    def _on(self, side: Side, suite: Suite) -> Mapping[TestId, Outcome]:
        for file in self._inputs.iterdir():
            shutil.copy(file, side.directory)
        return dict(suite.run(side))


def main() -> int:
    """Run everything; the exit code."""
    try:
        run = _run()
    except (SdkError, ConfigInvalid) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    verdict = judge(
        (difference for finding in run.findings for difference in finding.differences),
        CAUSES,
    )
    _PAGE.write_text(page(run.findings, verdict, versions()), encoding="utf-8")
    _tell(verdict)
    return 0 if verdict.good else 1


def _run() -> Run:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kv-")))
        (directory / "firmware").mkdir()
        print("starting the firmware", flush=True)
        run = Run(directory, stack.enter_context(Firmware.up(directory / "firmware")))
        for suite in SUITES:
            started = time.monotonic()
            print(f"{suite.name}: ", end="", flush=True)
            finding = run.both(suite)
            print(f"{_told(finding)}, {time.monotonic() - started:.0f} s", flush=True)
    return run


def _told(finding: Finding) -> str:
    tests = len({*finding.plain, *finding.broker})
    return f"{tests} tests, {len(finding.differences)} differences"


def _tell(verdict: Verdict) -> None:
    print(f"{len(verdict.explained)} differences, each with its cause: docs/conformance.md")
    for difference in verdict.unexplained:
        print(_diff(difference), file=sys.stderr)
    for cause, test in verdict.unseen:
        print(
            f"error: no difference at `{test}` of {cause.suite}: take the row out of causes.py",
            file=sys.stderr,
        )


def _diff(difference: Difference) -> str:
    plain, broker = difference.plain, difference.broker
    lines = difflib.unified_diff(
        plain.detail.splitlines(), broker.detail.splitlines(), "plain", "broker", lineterm="", n=2
    )
    head = f"error: `{difference.test}` of {difference.suite} {plain.result.value} on the plain side"
    return "\n    ".join([f"{head} and {broker.result.value} on the broker's, and nobody knows why", *lines])


if __name__ == "__main__":
    sys.exit(main())
