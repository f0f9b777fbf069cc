"""The findings of `policy check` as a SARIF 2.1.0 log, which editors and CI systems show at their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from keyvisor_policy.explanations import EXPLANATIONS
from keyvisor_policy.lint import CODES, Remark

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ERRORS = frozenset({"invalid", "never-can-happen"})
"""Codes of what must not be used at all; the others are warnings, the policy does something."""


def log(remarks: Sequence[Remark]) -> dict[str, Any]:
    """The whole log: one run, every code as a rule with its help, every remark as a result with its region."""
    codes = list(CODES)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "keyvisor policy check", "rules": [_rule(code) for code in codes]}
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(remark, codes.index(remark.code)) for remark in remarks],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    page = EXPLANATIONS[code]
    return {
        "id": code,
        "shortDescription": {"text": CODES[code]},
        "fullDescription": {"text": page.meaning},
        "help": {"text": f"{page.meaning}\n\n{page.mending}"},
        "defaultConfiguration": {"level": _level(code)},
    }


def _result(remark: Remark, number: int) -> dict[str, Any]:
    finding = remark.finding
    return {
        "ruleId": remark.code,
        "ruleIndex": number,
        "level": _level(remark.code),
        "message": {"text": finding.message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(finding.source)},
                    "region": {"startLine": finding.line, "startColumn": finding.column},
                }
            }
        ],
    }


def _level(code: str) -> str:
    return "error" if code in ERRORS else "warning"


def _uri(source: str) -> str:
    """A path as a URI, relative where the path is; bytes that are no text come through as they are."""
    path = PurePath(source)
    escaped = quote(path.as_posix().encode("utf-8", "surrogateescape"))
    return f"file://{escaped}" if path.is_absolute() else escaped
