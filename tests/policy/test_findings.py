"""The pages of findings and SARIF: every code has its example, which shows it and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from keyvisor_policy import DocumentError, Finding, parse
from keyvisor_policy.explanations import EXPLANATIONS
from keyvisor_policy.lint import CODES, Remark, check
from keyvisor_policy.sarif import ERRORS, log

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / "docs" / "findings"


def codes(text: str) -> list[str]:
    try:
        return [remark.code for remark in check(parse(text))]
    except DocumentError as error:
        return ["invalid"] * len(error.findings)


@pytest.mark.parametrize("code", CODES)
def test_each_example_shows_its_code_and_its_mended_twin_none(code: str) -> None:
    assert codes(EXPLANATIONS[code].example) == [code]
    assert codes(EXPLANATIONS[code].mended) == []


def _generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location(
        "make_policy_docs", ROOT / "scripts" / "make_policy_docs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[str, str] = module.files()
    return files


def test_the_pages_are_what_make_docs_writes_and_there_are_no_others() -> None:
    files = _generated()
    for name, text in files.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, "run `make docs`"
    there = {f"docs/findings/{path.name}" for path in FINDINGS.iterdir()}
    assert there == {name for name in files if name.startswith("docs/")}
    assert {Path(name).stem for name in there} == {"README", *CODES}


def test_the_index_leads_to_every_page_and_says_what_it_means() -> None:
    index = (FINDINGS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\[`(.+?)`\]\(\1\.md\) \| (.+?) \|", index) == list(CODES.items())


@pytest.mark.parametrize("code", CODES)
def test_a_page_has_the_code_its_meaning_the_example_and_the_twin(code: str) -> None:
    page = (FINDINGS / f"{code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# `{code}`: {CODES[code]}\n")
    explanation = EXPLANATIONS[code]
    assert re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) == [explanation.example, explanation.mended]
    assert " ".join(explanation.meaning.split()) in " ".join(page.split())
    assert " ".join(explanation.mending.split()) in " ".join(page.split())


def logged(*remarks: Remark) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    made = json.loads(json.dumps(log(remarks)))
    assert set(made) == {"$schema", "version", "runs"}
    assert made["version"] == "2.1.0"
    (run,) = made["runs"]
    return run, run["results"]


def test_sarif_has_every_code_as_a_rule_with_help() -> None:
    run, results = logged()
    assert results == []
    driver = run["tool"]["driver"]
    assert driver["name"] == "keyvisor policy check"
    assert [rule["id"] for rule in driver["rules"]] == list(CODES)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"] == CODES[rule["id"]]
        assert rule["fullDescription"]["text"] == EXPLANATIONS[rule["id"]].meaning
        assert EXPLANATIONS[rule["id"]].mending in rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] == ("error" if rule["id"] in ERRORS else "warning")


def test_sarif_has_every_remark_as_a_result_at_its_place() -> None:
    run, results = logged(
        Remark("shadowed", Finding("a/b c.yaml", 3, 5, "said")),
        Remark("invalid", Finding("/x/é%.yaml", 1, 1, "wrong")),
    )
    assert run["columnKind"] == "unicodeCodePoints"
    assert results[0] == {
        "ruleId": "shadowed",
        "ruleIndex": list(CODES).index("shadowed"),
        "level": "warning",
        "message": {"text": "said"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "a/b%20c.yaml"},
                    "region": {"startLine": 3, "startColumn": 5},
                }
            }
        ],
    }
    assert results[1]["level"] == "error"
    place = results[1]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "file:///x/%C3%A9%25.yaml"
    rules = run["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in results] == [
        result["ruleId"] for result in results
    ]
