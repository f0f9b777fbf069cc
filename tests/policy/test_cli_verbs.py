"""`keyvisor policy test`, `explain`, `schema` and `check --sarif`: what they print and what they end with."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from typer.testing import CliRunner, Result

from keyvisor_policy import secret_id
from keyvisor_policy.cli import app

POLICY = """\
version: 1
associations:
  - name: payments
    hsm: {serial: 93AADFK719460083}
  - name: tls
    hsm: {mode: accel}
"""
CASES = """\
cases:
  - name: it works
    given: {hsms: [{apqn: 04.0011, mode: accel, generation: CEX7}]}
    expect: {bind: [04.0011]}
"""
FAILING = """\
  - name: <it> "does" & not
    given: {hsms: [{apqn: 04.0011, mode: accel, generation: CEX7}]}
    expect:
      unbound: [04.0011]
      unmet: [payments, tls]
"""
BROKEN = """\
broken.yaml:1:1: the key `version` is missing
error: broken.yaml:1:1: unknown key `versoin`; did you mean `version`?"""
HSMS = """\
- {apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111, serial: 93AADFK719460083}
- {apqn: 04.0011, mode: accel, generation: CEX7, state: bound}
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(POLICY)
    Path("good.yaml").write_text(POLICY + CASES)
    Path("bad.yaml").write_text(POLICY + CASES + FAILING)
    Path("broken.yaml").write_text("versoin: 1\n")
    Path("list.yaml").write_text("- {mode: Accel, name: a}\n")
    Path("hsms.yaml").write_text(HSMS)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def told(result: Result) -> str:
    return "\n".join(line.rstrip() for line in result.stdout.splitlines())


def test_cases_that_pass() -> None:
    result = run("test", "good.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "pass  it works\ngood.yaml: 1 case, none failed\n"


def test_cases_that_fail_are_told_with_their_differences() -> None:
    result = run("test", "good.yaml", "bad.yaml")
    assert result.exit_code == 1
    assert result.stdout == (
        """\
pass  it works
good.yaml: 1 case, none failed
pass  it works
FAIL  <it> "does" & not
      bad.yaml:14:17: 04.0011: expected unbound, found bound by rule `tls` in line 5
      bad.yaml:15:25: rule `tls`: expected unmet, found met with 04.0011
bad.yaml: 2 cases, 1 failed
"""
    )


def test_the_coverage_of_cases_is_told_and_changes_no_exit_code() -> None:
    result = run("test", "good.yaml", "--coverage")
    assert result.exit_code == 0
    assert result.stdout == (
        """\
pass  it works
good.yaml: 1 case, none failed
good.yaml:3:5: rule `payments` is met in no case
good.yaml:5:5: rule `tls` is unmet or refused in no case
"""
    )


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("policy.yaml", "policy.yaml:1:1: no cases, so that nothing is tested; write some under `cases`"),
        ("list.yaml", "list.yaml:1:1: no cases, a pvapconfig list can have none; convert it to a policy"),
        (
            "broken.yaml",
            BROKEN,
        ),
    ],
)
def test_a_file_without_cases_fails_and_says_so(file: str, said: str) -> None:
    result = run("test", file, "good.yaml")
    assert (result.exit_code, result.stderr) == (1, f"error: {said}\n")
    assert "pass  it works" in result.stdout


def test_cases_as_json() -> None:
    result = run("test", "bad.yaml", "policy.yaml", "--coverage", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    bad, policy = json.loads(result.stdout)["files"]
    assert bad == {
        "file": "bad.yaml",
        "passed": False,
        "errors": [],
        "cases": [
            {"name": "it works", "line": 8, "passed": True, "differences": [], "requests": []},
            {
                "name": '<it> "does" & not',
                "line": 11,
                "passed": False,
                "differences": [
                    {
                        "line": 14,
                        "column": 17,
                        "message": "04.0011: expected unbound, found bound by rule `tls` in line 5",
                    },
                    {
                        "line": 15,
                        "column": 25,
                        "message": "rule `tls`: expected unmet, found met with 04.0011",
                    },
                ],
                "requests": [],
            },
        ],
        "coverage": {
            "never_met": [{"name": "payments", "line": 3}],
            "never_unmet_or_refused": [{"name": "tls", "line": 5}],
            "never_decides": [],
        },
    }
    assert policy["passed"] is False
    assert [error["line"] for error in policy["errors"]] == [1]


def test_cases_as_junit() -> None:
    result = run("test", "bad.yaml", "broken.yaml", "--junit", "out.xml")
    assert result.exit_code == 1
    assert Path("out.xml").read_text() == (
        """\
<?xml version='1.0' encoding='utf-8'?>
<testsuites tests="3" failures="1" errors="1">
  <testsuite name="bad.yaml" tests="2" failures="1" errors="0">
    <testcase name="it works" classname="bad.yaml" file="bad.yaml" line="8" />
    <testcase name="&lt;it&gt; &quot;does&quot; &amp; not" classname="bad.yaml" file="bad.yaml" line="11">
      <failure message="04.0011: expected unbound, found bound by rule `tls` in line 5" type="failure">"""
        """bad.yaml:14:17: 04.0011: expected unbound, found bound by rule `tls` in line 5
bad.yaml:15:25: rule `tls`: expected unmet, found met with 04.0011</failure>
    </testcase>
  </testsuite>
  <testsuite name="broken.yaml" tests="1" failures="0" errors="1">
    <testcase name="the file" classname="broken.yaml">
      <error message="the key `version` is missing" type="error">"""
        """broken.yaml:1:1: the key `version` is missing
broken.yaml:1:1: unknown key `versoin`; did you mean `version`?</error>
    </testcase>
  </testsuite>
</testsuites>
"""
    )


def test_junit_stays_xml_whatever_a_file_is_called() -> None:
    name = "\x1b]&<\udcff.yaml"
    Path(name).write_text(POLICY)
    assert run("test", name, "--junit", "out.xml").exit_code == 1
    (suite,) = Xml.parse("out.xml").getroot()  # noqa: S314  (our own)
    assert suite.get("name") == "\\x1b]&<\\udcff.yaml"


def test_a_report_that_cannot_be_written_is_said() -> None:
    result = run("test", "good.yaml", "--junit", "absent/out.xml")
    assert result.exit_code == 1
    assert (
        result.stderr == "error: absent/out.xml: No such file or directory; give a file that can be written\n"
    )


def test_a_plan_is_explained() -> None:
    result = run("explain", "policy.yaml", "--hsm", "04.0011", "--inventory", "hsms.yaml")
    assert result.exit_code == 0
    assert told(result) == (
        """\
04.0011: keep for rule `tls`, policy.yaml:5

rule      line  outcome
payments  3     mode differs: `ep11` wanted, `accel` found; serial differs: `93AADFK719460083` wanted, `none` found
tls       5     decides

rule      field   wanted              found
payments  secret  payments            held    true
payments  online  online              online  true
payments  mode    ep11                accel   false
payments  mkvp    a valid master key  none    false
payments  serial  93AADFK719460083    none    false
tls       online  online              online  true
tls       mode    accel               accel   true"""
    )


@pytest.mark.parametrize("secret", ["payments", "0x" + secret_id("payments").hex()])
def test_an_association_is_explained(secret: str) -> None:
    asked = ["explain", "policy.yaml", "--inventory", "hsms.yaml", "--secret", secret]
    shown = "`payments`" if secret == "payments" else f"with id `{secret[2:]}`"
    result = run(*asked, "--hsm", "03.0011")
    assert result.exit_code == 0
    assert (
        told(result).splitlines()[0]
        == f"03.0011: secret {shown} is permitted by rule `payments`, policy.yaml:3"
    )
    result = run(*asked, "--hsm", "04.0011", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["verdict"] == f"04.0011: secret {shown} is refused: no rule allows it"
    assert (answer["rule"], answer["line"]) == (None, None)
    assert [(rule["name"], rule["matches"]) for rule in answer["rules"]] == [
        ("payments", False),
        ("tls", False),
    ]
    assert answer["rules"][0]["fields"][0] == {
        "field": "secret",
        "wanted": "payments",
        "found": secret,
        "holds": True,
    }


def test_what_the_guest_holds_is_looked_at() -> None:
    asked = ["explain", "policy.yaml", "--hsm", "03.0011", "--inventory", "hsms.yaml"]
    assert told(run(*asked)).startswith("03.0011: bind, associate for rule `payments`, policy.yaml:3\n")
    without = told(run(*asked, "--secrets", "other"))
    assert without.startswith("03.0011: left unbound, no rule gets it\n")
    assert "secret `payments` is not in the guest's store" in without


def test_hsms_that_no_plan_is_made_for_are_refused() -> None:
    Path("twice.yaml").write_text(HSMS * 2)
    result = run("explain", "policy.yaml", "--hsm", "03.0011", "--inventory", "twice.yaml")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: twice.yaml: HSM 03.0011 is there twice; name each HSM once\n",
    )


def test_the_schema_is_printed() -> None:
    result = run("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$id"] == "urn:keyvisor:policy:1"


def test_check_as_sarif() -> None:
    result = run("check", "policy.yaml", "broken.yaml", "--sarif")
    assert result.exit_code == 1
    results = json.loads(result.stdout)["runs"][0]["results"]
    assert [one["message"]["text"] for one in results] == [
        "the key `version` is missing",
        "unknown key `versoin`; did you mean `version`?",
    ]
    result = run("check", "policy.yaml", "--sarif")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["runs"][0]["results"] == []


EXPLAIN = ["explain", "policy.yaml", "--inventory", "hsms.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["test"],
        ["test", "absent.yaml"],
        ["test", "good.yaml", "--junit", "."],
        ["check", "policy.yaml", "--json", "--sarif"],
        ["explain", "policy.yaml", "--hsm", "03.0011"],
        EXPLAIN,
        [*EXPLAIN, "--hsm", "3.11"],
        [*EXPLAIN, "--hsm", "05.0011"],
        [*EXPLAIN, "--hsm", "03.0011", "--secret", "0x12"],
        [*EXPLAIN, "--hsm", "03.0011", "--secret", "a", "--secrets", "a"],
        ["schema", "policy.yaml"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["test", "broken.yaml"], ["explain", "broken.yaml", *EXPLAIN[2:], "--hsm", "03.0011"]]
)
def test_a_wrong_file_ends_with_1_and_its_findings(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert "error: broken.yaml:1:1: unknown key `versoin`; did you mean `version`?\n" in result.stderr


@pytest.mark.parametrize("verb", ["test", "explain", "schema"])
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert "Exit code 0" in result.stdout


def test_a_hostile_name_reaches_the_terminal_only_escaped() -> None:
    Path("list.yaml").write_text('- {mode: Accel, name: "\\e[2J\\x9b\\u202ex"}\n')
    for arguments in ([], ["--json"]):
        result = run("explain", "list.yaml", *EXPLAIN[2:], "--hsm", "04.0011", *arguments)
        assert result.exit_code == 0
        assert not {"\x1b", "\x9b", "\u202e"} & set(result.stdout)
