"""The results of cases as JUnit's XML, which CI systems show. Without times: nothing here knows a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

from keyvisor_policy.errors import Finding
from keyvisor_policy.terminal import printable
from keyvisor_policy.trials import Trial


@dataclass(frozen=True, slots=True)
class Suite:
    """The cases of one file, or what is wrong with the file."""

    source: str
    wrong: tuple[Finding, ...]
    trials: tuple[Trial, ...]


def report(suites: Sequence[Suite]) -> bytes:
    """The XML document: a suite per file, a test case per case, a failure with all that differs."""
    root = Xml.Element("testsuites")
    for suite in suites:
        _add(root, suite)
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    Xml.indent(root)
    text: bytes = Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add(root: Xml.Element, suite: Suite) -> None:
    source = printable(suite.source)
    failures = sum(not trial.passed for trial in suite.trials)
    element = Xml.SubElement(
        root,
        "testsuite",
        name=source,
        tests=str(len(suite.trials) + bool(suite.wrong)),
        failures=str(failures),
        errors=str(int(bool(suite.wrong))),
    )
    if suite.wrong:
        case = Xml.SubElement(element, "testcase", name="the file", classname=source)
        _tell(case, "error", suite.wrong)
    for trial in suite.trials:
        name = printable(trial.case.name)
        case = Xml.SubElement(
            element, "testcase", name=name, classname=source, file=source, line=str(trial.case.line)
        )
        if trial.differences:
            _tell(case, "failure", trial.differences)


def _tell(case: Xml.Element, kind: str, findings: Sequence[Finding]) -> None:
    element = Xml.SubElement(case, kind, message=printable(findings[0].message), type=kind)
    element.text = "\n".join(printable(str(finding)) for finding in findings)
