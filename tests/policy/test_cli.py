"""`keyvisor policy`: what it prints and what it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keyvisor_policy import secret_id
from keyvisor_policy.cli import app

POLICY = """\
version: 1
associations:
  - name: payments
    hsm: {mode: ep11, serial: 93AADFK719460083}
  - name: tls
    hsm: {mode: accel}
"""
HSMS = """\
- {apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111, serial: 93AADFK719460083}
- {apqn: 04.0011, mode: accel, generation: CEX7}
- {apqn: 05.0011, mode: accel, generation: CEX6, state: bound}
- {apqn: 06.0011, mode: ep11, generation: CEX8, state: bound}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(POLICY)
    Path("hsms.yaml").write_text(HSMS)
    Path("broken.yaml").write_text("versoin: 1\nrequests: []\n")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_check_says_nothing_about_a_clean_file(files: Path) -> None:
    result = run("check", "policy.yaml")
    assert (result.exit_code, result.output) == (0, "")
    assert run("check", "policy.yaml", "--json").stdout == "[]\n"


def test_check_prints_every_finding_of_every_file(files: Path) -> None:
    Path("loose.yaml").write_text(POLICY + "  - {name: any, hsm: {}}\n  - {name: one, hsm: {api: '>=4'}}\n")
    result = run("check", "policy.yaml", "broken.yaml", "loose.yaml")
    assert result.exit_code == 1
    shadowed = "rule `one` can have no HSM that rule `any` does not want first; put the narrower rule first"
    assert result.stdout.splitlines() == [
        "broken.yaml:1:1: the key `version` is missing [invalid]",
        "broken.yaml:1:1: unknown key `versoin`; did you mean `version`? [invalid]",
        "broken.yaml:2:11: requests: expected a mapping, found a list [invalid]",
        f"loose.yaml:8:5: {shadowed} [shadowed]",
    ]


def test_check_as_json(files: Path) -> None:
    result = run("check", "broken.yaml", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[1] == {
        "file": "broken.yaml",
        "line": 1,
        "column": 1,
        "code": "invalid",
        "message": "unknown key `versoin`; did you mean `version`?",
    }


def test_plan_shows_what_would_be_done(files: Path) -> None:
    result = run("plan", "policy.yaml", "--inventory", "hsms.yaml", "--secrets", "payments,other")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["rule", "HSM", "action", "reason"],
        ["payments", "03.0011", "bind,", "associate"],
        ["tls", "05.0011", "keep"],
        ["06.0011", "unbind", "no", "rule", "wants", "it"],
    ]


@pytest.mark.parametrize(
    "secrets", [["--secrets", "other"], ["--secrets", ""], ["--secrets", "a,b", "--secrets", "c"]]
)
def test_plan_says_which_rule_is_unmet_and_why(files: Path, secrets: list[str]) -> None:
    result = run("plan", "policy.yaml", "--inventory", "hsms.yaml", *secrets)
    assert result.exit_code == 1
    assert "secret `payments` is not in the guest's store" in result.stdout


@pytest.mark.parametrize(
    "secrets",
    [[], ["--secrets", "x", "--secrets", "payments"], ["--secrets", "0x" + secret_id("payments").hex()]],
)
def test_secrets_are_names_or_ids_and_all_if_left_out(files: Path, secrets: list[str]) -> None:
    assert run("plan", "policy.yaml", "--inventory", "hsms.yaml", *secrets).exit_code == 0


def test_plan_as_json(files: Path) -> None:
    result = run("plan", "policy.yaml", "--inventory", "hsms.yaml", "--secrets", "other", "--json")
    assert result.exit_code == 1
    plan = json.loads(result.stdout)
    assert plan["met"] is False
    assert plan["steps"] == [{"action": "unbind", "apqn": "06.0011", "secret_id": None}]
    assert plan["hsms"][2] == {"apqn": "05.0011", "rule": "tls", "actions": []}
    payments, tls = plan["rules"]
    assert tls == {
        "name": "tls",
        "line": 5,
        "count": 1,
        "met": True,
        "hsms": ["05.0011"],
        "kept": ["05.0011"],
        "reasons": [],
    }
    assert payments["reasons"][0] == {
        "apqn": None,
        "field": "secret",
        "message": "secret `payments` is not in the guest's store",
    }


def test_files_that_are_wrong_end_a_plan_with_their_findings(files: Path) -> None:
    result = run("plan", "broken.yaml", "--inventory", "hsms.yaml")
    assert result.exit_code == 1
    assert "error: broken.yaml:2:11: requests: expected a mapping, found a list\n" in result.stderr
    result = run("plan", "policy.yaml", "--inventory", "broken.yaml")
    assert result.exit_code == 1
    assert "error: broken.yaml:1:1: the key `hsms` is missing\n" in result.stderr


def test_hsms_that_no_plan_is_made_for_are_refused(files: Path) -> None:
    Path("twice.yaml").write_text(HSMS + "- {apqn: 04.0011, mode: accel, generation: CEX8}\n")
    result = run("plan", "policy.yaml", "--inventory", "twice.yaml")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: twice.yaml: HSM 04.0011 is there twice; name each HSM once\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "absent.yaml"],
        ["check", "."],
        ["plan", "policy.yaml"],
        ["plan", "policy.yaml", "--inventory", "absent.yaml"],
        ["plan", "policy.yaml", "--inventory", "hsms.yaml", "--secrets", "0x12"],
        ["plan", "policy.yaml", "--inventory", "hsms.yaml", "--sercets", "a"],
        ["forge"],
    ],
)
def test_a_wrong_command_line_ends_with_2(files: Path, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert "Exit code 0" in result.stdout


def test_importing_the_verbs_loads_neither_yaml_nor_models() -> None:
    script = "import sys, keyvisor_policy.cli; print(sorted({'yaml', 'pydantic', 'rich.table'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_hostile_name_reaches_the_terminal_only_escaped(files: Path, options: tuple[str, ...]) -> None:
    Path("list.yaml").write_text('- {mode: Accel, name: "\\e[2J\\x9b\\u202ex"}\n')
    result = run("plan", "list.yaml", "--inventory", "hsms.yaml", *options)
    assert not {"\x1b", "\x9b", "\u202e"} & set(result.stdout)
    if options:
        assert json.loads(result.stdout)["rules"][0]["name"] == "\x1b[2J\x9b\u202ex"
    else:
        assert "\\x1b[2J\\x9b\\u202ex" in result.stdout
