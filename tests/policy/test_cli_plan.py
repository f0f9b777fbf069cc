"""`keyvisor policy plan` with its options, and `convert`: what they print and what they end with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keyvisor_policy import parse, secret_id
from keyvisor_policy.cli import app

LIST = """\
- name: broad
  description: takes any
  mode: EP11
  mkvp: 11111111111111111111111111111111
- name: narrow
  mode: EP11
  mkvp: 11111111111111111111111111111111
  serialnr: 93AADFK719460083
- name: tls
  mode: Accel
  mingen: CEX7
"""
HSMS = """\
- {apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111, serial: 93AADFK719460083}
- {apqn: 04.0011, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111, serial: 93AADHZU42082261, state: bound}
- {apqn: 05.0011, mode: accel, generation: CEX8}
- {apqn: 06.0011, mode: accel, generation: CEX6, state: bound}
"""
POLICY = """\
version: 1
associations:
  - {name: payments, hsm: {mode: ep11, serial: 93AADFK719460083}}
  - {name: tls, hsm: {mode: accel, generation: "<=CEX4"}}
"""
COMPAT = ("--compat", "pvapconfig-2.43")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("list.yaml", LIST), ("hsms.yaml", HSMS), ("policy.yaml", POLICY)):
        Path(name).write_text(text)
    Path("broken.yaml").write_text("- {mode: EP12}\n")
    Path("twins.yaml").write_text(HSMS + HSMS.splitlines()[0].replace("03.0011", "03.0012") + "\n")
    Path("none.yaml").write_text("[]\n")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def lines(result: Result) -> list[str]:
    return [line.rstrip() for line in result.stdout.splitlines()]


def plan(file: str, *options: str) -> Result:
    return run("plan", file, "--inventory", "hsms.yaml", *options)


# --- --compat


def test_compat_shows_entries_steps_and_the_exit_code() -> None:
    result = plan("list.yaml", *COMPAT)
    assert (result.exit_code, lines(result)) == (
        0,
        [
            "entry  name    HSM      result   reason",
            "1      broad   03.0011  applied",
            "2      narrow  03.0011  open     serves entry 1",
            "2      narrow  04.0011  open     serial differs: `93AADFK719460083` wanted, `93AADHZU42082261` found",
            "2      narrow  05.0011  open     mode differs: `ep11` wanted, `accel` found",
            "2      narrow  05.0011  open     serial differs: `93AADFK719460083` wanted, `none` found",
            "2      narrow  06.0011  open     mode differs: `ep11` wanted, `accel` found",
            "2      narrow  06.0011  open     serial differs: `93AADFK719460083` wanted, `none` found",
            "3      tls     06.0011  kept",
            "",
            "step  action     HSM      secret",
            "1     unbind     04.0011",
            "2     bind       03.0011",
            "3     associate  03.0011  `broad`",
            "",
            "HSMs of one generation are tried in the order of card and domain here; that program leaves their order open",
            "pvapconfig-2.43: 2 of 3 entries kept or applied, exit code 0",
        ],
    )


def test_strict_changes_the_exit_code_only() -> None:
    loose, strict = plan("list.yaml", *COMPAT, "--no-strict"), plan("list.yaml", *COMPAT, "--strict")
    assert (loose.exit_code, strict.exit_code) == (0, 1)
    assert lines(strict) == [*lines(loose)[:-1], lines(loose)[-1].replace("code 0", "code 1")]


def test_compat_as_json() -> None:
    result = plan("list.yaml", *COMPAT, "--secrets", "narrow", "--json")
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert {key: made[key] for key in ("compat", "exit_code", "applied", "order_is_open")} == {
        "compat": "pvapconfig-2.43",
        "exit_code": 0,
        "applied": 2,
        "order_is_open": True,
    }
    assert made["steps"] == [
        {"action": "unbind", "apqn": "04.0011", "secret_id": None},
        {"action": "bind", "apqn": "03.0011", "secret_id": None},
        {"action": "associate", "apqn": "03.0011", "secret_id": secret_id("narrow").hex()},
    ]
    assert [
        (entry["entry"], entry["name"], entry["line"], entry["result"], entry["apqn"])
        for entry in made["entries"]
    ] == [
        (1, "broad", 1, "open", None),
        (2, "narrow", 5, "applied", "03.0011"),
        (3, "tls", 9, "kept", "06.0011"),
    ]
    assert made["entries"][0]["reasons"][0] == {
        "apqn": None,
        "field": "secret",
        "message": "secret `broad` is not in the guest's store",
    }


def test_an_empty_list_or_no_hsms_end_with_0() -> None:
    result = run("plan", "none.yaml", "--inventory", "hsms.yaml", *COMPAT, "--strict")
    assert (result.exit_code, lines(result)) == (
        0,
        [
            "the list has no entries",
            "",
            "no steps",
            "",
            "pvapconfig-2.43: 0 of 0 entries kept or applied, exit code 0",
        ],
    )
    assert run("plan", "list.yaml", "--inventory", "none.yaml", *COMPAT, "--strict").exit_code == 0
    assert plan("list.yaml", *COMPAT, "--secrets", "").exit_code == 0
    Path("ep11.yaml").write_text("".join(LIST.splitlines(keepends=True)[:4]))
    assert plan("ep11.yaml", *COMPAT, "--secrets", "").exit_code == 1


def test_compat_is_for_lists() -> None:
    result = plan("policy.yaml", *COMPAT)
    assert (result.exit_code, result.stderr) == (
        1,
        "error: policy.yaml: pvapconfig takes a bare list only, and this is a policy; leave `--compat` out\n",
    )
    assert plan("broken.yaml", *COMPAT).exit_code == 1


def test_compat_refuses_twins_as_that_program_does() -> None:
    result = run("plan", "list.yaml", "--inventory", "twins.yaml", *COMPAT)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: twins.yaml: 03.0011 and 03.0012 are domains of one card")


# --- --partial, --strict, --unbind


def test_an_unmet_plan_says_that_nothing_would_be_applied() -> None:
    result = plan("policy.yaml")
    assert result.exit_code == 1
    assert (
        lines(result)[-1] == "nothing would be applied: 1 of 2 rules is unmet; `--partial` applies the rest"
    )
    assert json.loads(plan("policy.yaml", "--json").stdout)["applies"] is False


@pytest.mark.parametrize(("options", "code"), [((), 1), (("--strict",), 1), (("--no-strict",), 0)])
def test_partial_says_what_would_be_applied(options: tuple[str, ...], code: int) -> None:
    result = plan("policy.yaml", "--partial", *options)
    assert result.exit_code == code
    assert lines(result)[-1] == "4 steps would be applied; 1 of 2 rules is unmet"
    made = plan("policy.yaml", "--partial", "--json", *options)
    assert (made.exit_code, json.loads(made.stdout)["applies"]) == (code, True)


def test_no_strict_alone_is_still_all_or_nothing() -> None:
    assert plan("policy.yaml", "--no-strict").exit_code == 1


def test_a_met_plan_says_nothing_more() -> None:
    assert lines(plan("list.yaml", "--partial")) == [
        "rule    HSM      action           reason",
        "broad   04.0011  associate",
        "narrow  03.0011  bind, associate",
        "tls     05.0011  bind",
        "        06.0011  unbind           no rule wants it",
    ]


def test_unbind_needs_no_policy() -> None:
    result = run("plan", "--inventory", "hsms.yaml", "--unbind")
    assert (result.exit_code, lines(result)) == (
        0,
        [
            "rule  HSM      action  reason",
            "      04.0011  unbind  no rule wants it",
            "      06.0011  unbind  no rule wants it",
        ],
    )
    assert run("plan", "--inventory", "twins.yaml", "--unbind").exit_code == 0
    made = json.loads(run("plan", "--inventory", "hsms.yaml", "--unbind", "--json").stdout)
    assert [step["apqn"] for step in made["steps"]] == ["04.0011", "06.0011"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--inventory", "hsms.yaml"],
        ["plan", "list.yaml", "--inventory", "hsms.yaml", "--compat", "pvapconfig-2.44"],
        ["plan", "list.yaml", "--inventory", "hsms.yaml", *COMPAT, "--partial"],
        ["plan", "list.yaml", "--inventory", "hsms.yaml", "--unbind"],
        ["plan", "--inventory", "hsms.yaml", "--unbind", "--strict"],
        ["plan", "--inventory", "hsms.yaml", "--unbind", "--partial"],
        ["plan", "--inventory", "hsms.yaml", "--unbind", *COMPAT],
        ["convert"],
        ["convert", "absent.yaml"],
        ["convert", "list.yaml", "--inventory", "absent.yaml"],
        ["convert", "list.yaml", "--inventory", "hsms.yaml", "--secrets", "0x12"],
        ["convert", "list.yaml", "-o", "."],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


# --- convert

CONVERTED = """\
version: 1
associations:
  # takes any
  - name: "broad"
    hsm:
      mode: ep11
      mkvp: 0x11111111111111111111111111111111
  - name: "narrow"
    hsm:
      mode: ep11
      mkvp: 0x11111111111111111111111111111111
      serial: "93AADFK719460083"
  - name: "tls"
    hsm:
      mode: accel
      generation: ">=CEX7"
"""
TOLD = """\
entry 1 `broad`: pvapconfig-2.43 gives it 03.0011, keyvisor gives it 04.0011; here 03.0011 goes to rule `narrow` [assignment]
entry 2 `narrow`: pvapconfig-2.43 leaves it without an HSM, keyvisor gives it 03.0011; \
there 03.0011 is the first match of entry 1 `broad` [assignment]
entry 3 `tls`: 05.0011 is CEX8 and `mingen` is CEX7: keyvisor takes it, pvapconfig-2.43 refuses it as too new [mingen]
entry 3 `tls`: 06.0011 is CEX6 and `mingen` is CEX7: pvapconfig-2.43 takes it, keyvisor refuses it as too old [mingen]
entry 3 `tls`: pvapconfig-2.43 gives it 06.0011, keyvisor gives it 05.0011 [assignment]
HSM 03.0011: pvapconfig-2.43 binds and associates it for `broad`, keyvisor binds and associates it for `narrow` [steps]
HSM 04.0011: pvapconfig-2.43 unbinds it, keyvisor associates it for `broad` [steps]
HSM 05.0011: pvapconfig-2.43 leaves it, keyvisor binds it for `tls` [steps]
HSM 06.0011: pvapconfig-2.43 keeps it for `tls`, keyvisor unbinds it [steps]
pvapconfig-2.43 applies 2 of 3 and ends with 0, with `--strict` 1; keyvisor applies 3 of 3 and ends with 0 [outcome]
"""


def test_convert_prints_the_policy() -> None:
    result = run("convert", "list.yaml")
    assert (result.exit_code, result.stdout) == (0, CONVERTED)


def test_the_differences_are_comments_below_it() -> None:
    result = run("convert", "list.yaml", "--inventory", "hsms.yaml")
    assert (result.exit_code, result.stdout) == (
        0,
        CONVERTED + "".join(f"# {line}\n" for line in TOLD.splitlines()),
    )
    assert len(parse(result.stdout).rules) == 3


def test_with_a_file_to_write_they_stand_alone() -> None:
    result = run("convert", "list.yaml", "--inventory", "hsms.yaml", "-o", "new.yaml")
    assert (result.exit_code, result.stdout, Path("new.yaml").read_text()) == (0, TOLD, CONVERTED)


def test_what_is_there_is_replaced_only_by_force() -> None:
    Path("new.yaml").write_text("mine\n")
    result = run("convert", "list.yaml", "-o", "new.yaml")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: new.yaml is there already; `--force` replaces it\n",
    )
    assert Path("new.yaml").read_text() == "mine\n"
    assert run("convert", "list.yaml", "-o", "new.yaml", "--force").exit_code == 0
    assert Path("new.yaml").read_text() == CONVERTED
    result = run("convert", "list.yaml", "-o", "absent/new.yaml")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: absent/new.yaml cannot be written: No such file or directory\n",
    )


def test_nothing_differs() -> None:
    Path("one.yaml").write_text("- {mode: Accel}\n")
    Path("accelerator.yaml").write_text("- {apqn: 05.0011, mode: accel, generation: CEX8}\n")
    result = run("convert", "one.yaml", "--inventory", "accelerator.yaml", "-o", "new.yaml")
    assert (result.exit_code, result.stdout) == (
        0,
        "pvapconfig-2.43 and keyvisor do the same with these HSMs\n",
    )


def test_convert_as_json() -> None:
    made = json.loads(run("convert", "list.yaml", "--json").stdout)
    assert made == {"policy": CONVERTED, "differences": None}
    made = json.loads(run("convert", "list.yaml", "--inventory", "hsms.yaml", "--json").stdout)
    assert [f"{each['message']} [{each['code']}]" for each in made["differences"]] == TOLD.splitlines()
    assert made["differences"][2] == {
        "code": "mingen",
        "entry": 3,
        "apqn": "05.0011",
        "message": "entry 3 `tls`: 05.0011 is CEX8 and `mingen` is CEX7: "
        "keyvisor takes it, pvapconfig-2.43 refuses it as too new",
    }


def test_files_that_are_wrong_end_a_conversion_with_their_findings() -> None:
    result = run("convert", "broken.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr
        == "error: broken.yaml:1:10: mode: expected `EP11` or `Accel`, found `EP12`; did you mean `EP11`?\n"
    )
    result = run("convert", "policy.yaml", "-o", "new.yaml")
    said = "this is a policy already; only a pvapconfig file, a bare list, is converted"
    assert (result.exit_code, result.stderr) == (1, f"error: policy.yaml: {said}\n")
    assert run("convert", "list.yaml", "--inventory", "broken.yaml", "-o", "new.yaml").exit_code == 1
    assert not Path("new.yaml").exists()


def test_the_convert_verb_has_help() -> None:
    result = run("convert", "--help")
    assert result.exit_code == 0
    assert "Exit code 0" in result.stdout


@pytest.mark.parametrize("options", [("plan", *COMPAT), ("convert",)])
def test_a_hostile_list_reaches_the_terminal_only_escaped(options: tuple[str, ...]) -> None:
    Path("list.yaml").write_text(
        '- {mode: Accel, name: "\\e[2J\\x9b\\u202ex", description: "\\e[2J\\rversion: 2"}\n'
    )
    result = run(options[0], "list.yaml", "--inventory", "hsms.yaml", *options[1:])
    assert result.exit_code == 0
    assert "\\x1b[2J" in result.stdout
    assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(result.stdout)


def test_of_many_hsms_a_table_gives_the_reasons_of_those_that_lack_least() -> None:
    many = [
        f"- {{apqn: {n:02x}.0001, mode: ep11, generation: CEX{5 + n % 2}, mkvp: '{n + 1:032x}'}}"
        for n in range(40)
    ]
    near = "- {apqn: ff.0001, mode: accel, generation: CEX4}"
    rule = "{name: x, hsm: {serial: 93AADFK719460083, generation: '>=CEX6', api: '>=1'}}"
    Path("one.yaml").write_text(f"version: 1\nassociations: [{rule}]\n")
    Path("hsms.yaml").write_text("\n".join([*many, near, ""]))
    told = [line.split()[1] for line in lines(plan("one.yaml")) if line.startswith("x ")]
    assert told == ["01.0001", "01.0001", "03.0001", "03.0001", "05.0001", "05.0001", "unmet"]
    assert "38 more HSMs do not match either" in plan("one.yaml").stdout
    Path("hsms.yaml").write_text("\n".join(many[:32]))
    told = [line.split()[1] for line in lines(plan("one.yaml")) if line.startswith("x ")]
    assert len(set(told)) == 32
    assert "more" not in plan("one.yaml").stdout
