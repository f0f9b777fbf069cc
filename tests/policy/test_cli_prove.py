"""`keyvisor policy prove` and `diff`: what they print and what they end with."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keyvisor_policy import parse, parse_inventory, replaying
from keyvisor_policy.cli import app
from keyvisor_policy.prove import Allowed
from keyvisor_policy.replaying import Replayed, Substituted
from keyvisor_policy.request_prove import AllowedRequest

OLD = """\
version: 1
associations:
  - name: payments
    hsm: {mkvp: 0x11111111111111111111111111111111}
  - name: spare
    secret: payments
    hsm: {serial: 93AADFK719460083}
  - name: tls
    hsm: {mode: accel}
never:
  - secret: payments
    hsm: {mkvp: "!0x11111111111111111111111111111111"}
  - name: no old cards
    hsm: {mode: accel, generation: "<=CEX5"}
"""
NEW = (
    OLD.replace("{serial:", "{mkvp: 0x11111111111111111111111111111111, serial:")
    .replace("mode: accel}", 'mode: accel, generation: ">=CEX7"}')
    .replace("spare", "reserve")
)
HSMS = """\
- {apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111}
- {apqn: 04.0011, mode: ep11, generation: CEX8, mkvp: 0x22222222222222222222222222222222, serial: 93AADFK719460083}
- {apqn: 05.0011, mode: accel, generation: CEX6, state: bound}
"""
SPARE = (
    "rule `spare` in line 5 allows secret `payments` on {apqn: 00.0000, mode: ep11, generation: CEX8,"
    " mkvp: 0x00000000000000000000000000000001, serial: 93AADFK719460083}"
)
TLS = "rule `tls` in line 8 binds {apqn: 00.0000, mode: accel, generation: CEX%d, serial: 0000000000000001}"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").write_text(OLD)
    Path("new.yaml").write_text(NEW)
    Path("hsms.yaml").write_text(HSMS)
    Path("bare.yaml").write_text("version: 1\n")
    Path("broken.yaml").write_text("versoin: 1\nnever: 3\n")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_each_never_is_proved_or_has_its_counterexample() -> None:
    result = run("prove", "old.yaml")
    assert (result.exit_code, result.stdout) == (
        1,
        (
            f"old.yaml:11:5: counterexample: `never` can happen: {SPARE}\n"
            f"old.yaml:13:5: counterexample: `never` `no old cards` can happen: {TLS % 5}\n"
        ),
    )
    result = run("prove", "new.yaml")
    assert (result.exit_code, result.stdout) == (
        0,
        (
            "new.yaml:11:5: proved: `never` cannot happen (2 cells looked at)\n"
            "new.yaml:13:5: proved: `never` `no old cards` cannot happen (1 cell looked at)\n"
        ),
    )


def test_without_a_never_nothing_is_proved_and_that_is_said() -> None:
    result = run("prove", "bare.yaml")
    assert (result.exit_code, result.stdout) == (
        0,
        "bare.yaml: nothing to prove, there is no `never`\n",
    )
    assert json.loads(run("prove", "bare.yaml", "--json").stdout) == {"proved": True, "claims": []}


def test_check_reports_a_never_that_can_happen() -> None:
    result = run("check", "old.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == (
        f"old.yaml:11:5: `never` can happen: {SPARE}; narrow the rule [never-can-happen]"
    )


def test_a_rule_is_proved_not_to_be_shadowed_or_by_which_it_is() -> None:
    result = run("prove", "new.yaml", "--rule", "tls", "--rule", "reserve")
    assert result.exit_code == 1
    proved, shadowed = result.stdout.splitlines()
    assert proved.startswith("new.yaml:8:5: proved: rule `tls` is not shadowed, no earlier rule has {apqn: ")
    assert shadowed == (
        "new.yaml:5:5: counterexample: rule `reserve` is shadowed: rule `payments` in line 3 matches every HSM of it"
        " first, as {apqn: 00.0000, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111,"
        " serial: 93AADFK719460083}"
    )
    assert run("prove", "new.yaml", "--rule", "tls").exit_code == 0


def test_a_policy_is_held_against_another() -> None:
    result = run("prove", "new.yaml", "--implies", "old.yaml")
    assert (result.exit_code, result.stdout) == (
        0,
        "new.yaml:1:1: proved: nothing is allowed that `old.yaml` refuses (3 cells looked at)\n",
    )
    result = run("prove", "old.yaml", "--implies", "new.yaml")
    assert (result.exit_code, result.stdout) == (
        1,
        f"old.yaml:5:5: counterexample: {SPARE}, which `new.yaml` refuses\n",
    )
    assert run("prove", "new.yaml", "--equal", "old.yaml").exit_code == 1
    assert run("prove", "old.yaml", "--equal", "old.yaml").exit_code == 0


ASKED = """\
version: 1
associations:
  - name: payments
    hsm: {mkvp: 0x11111111111111111111111111111111}
requests:
  rules:
    - name: big enough
      deny: {call: [C_SignInit], key: {CKA_MODULUS_BITS: "<3072", CKA_LABEL: "old *"}}
"""
HSM = "{apqn: 00.0000, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111, serial: 0000000000000001}"


@pytest.fixture
def asked() -> None:
    Path("asked.yaml").write_text(ASKED)
    Path("less.yaml").write_text(ASKED.replace("3072", "2048"))


@pytest.mark.usefixtures("asked")
def test_what_may_be_asked_is_held_against_another_policy() -> None:
    result = run("prove", "asked.yaml", "--implies", "less.yaml")
    proved, requests = result.stdout.splitlines()
    assert result.exit_code == 0
    assert proved == "asked.yaml:1:1: proved: nothing is allowed that `less.yaml` refuses (1 cell looked at)"
    assert re.fullmatch(
        r"asked.yaml:1:1: proved: nothing may be asked that `less.yaml` refuses \(\d+ cells looked at\)",
        requests,
    )
    result = run("prove", "less.yaml", "--implies", "asked.yaml")
    command = (
        "keyvisor policy explain asked.yaml --call C_SignInit --mechanism CKM_ECDSA_SHA256"
        " --key CKA_MODULUS_BITS=2048 --key 'CKA_LABEL=old ' --on payments"
    )
    assert (result.exit_code, result.stdout.splitlines()[1]) == (
        1,
        (
            "less.yaml:3:5: counterexample: rule `payments` in line 3 lets be asked: C_SignInit with CKM_ECDSA_SHA256,"
            f' key {{CKA_MODULUS_BITS: 2048, CKA_LABEL: "old "}} of {HSM} with secret `payments`; in `asked.yaml` control'
            f" point `big enough` (asked.yaml:7) refuses it: `{command}`"
        ),
    )
    explained = run(*shlex.split(command)[2:])
    assert explained.exit_code == 0
    assert "refused by control point `big enough`, asked.yaml:7" in explained.stdout
    assert run("prove", "asked.yaml", "--equal", "asked.yaml").exit_code == 0
    assert len(run("prove", "asked.yaml", "--equal", "less.yaml").stdout.splitlines()) == 4


@pytest.mark.usefixtures("asked")
def test_a_request_is_replayed_with_both_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(new: str, old: str, example: AllowedRequest) -> Replayed:
        assert (new, old) == (Path("less.yaml").read_text(), ASKED)
        return Replayed("asked", f"it was {example.request.call}", "CKR_A")

    monkeypatch.setattr(replaying, "request_replayer", lambda: ask)
    result = run("prove", "less.yaml", "--implies", "asked.yaml", "--replay")
    assert (result.exit_code, result.stdout.splitlines()[2]) == (1, "  replayed: asked: it was C_SignInit")


@pytest.mark.usefixtures("asked")
def test_diff_has_an_example_for_each_control_point_that_makes_a_difference() -> None:
    result = run("diff", "asked.yaml", "less.yaml", "--inventory", "hsms.yaml")
    newly, there = result.stdout.splitlines()
    assert result.exit_code == 1
    assert newly == (
        "newly allowed, for example: rule `payments` in line 3 lets be asked: C_SignInit with CKM_ECDSA_SHA256,"
        ' key {CKA_MODULUS_BITS: 2048, CKA_LABEL: "old "}'
    )
    assert there.startswith(
        "  there control point `big enough` (asked.yaml:7) refuses it: `keyvisor policy explain asked.yaml "
    )
    result = run("diff", "less.yaml", "asked.yaml", "--inventory", "hsms.yaml", "--json")
    told = json.loads(result.stdout)
    assert (told["same"], told["requests_newly_allowed"]) == (False, [])
    (refused,) = told["requests_newly_refused"]
    assert refused["refused_by"] == {"name": "big enough", "profile": None, "origin": "asked.yaml:7"}
    assert (refused["call"], refused["mechanism"], refused["key"]) == (
        "C_SignInit",
        "CKM_ECDSA_SHA256",
        {"CKA_MODULUS_BITS": "2048", "CKA_LABEL": "old "},
    )


def test_what_is_too_large_to_be_decided_is_said_to_be() -> None:
    patterns = ", ".join(f'"*{letter}*"' for letter in "abcdefghijklmnop")
    text = ASKED.replace('"old *"', f"[{patterns}]")
    Path("large.yaml").write_text(text)
    Path("larger.yaml").write_text(text.replace("3072", "4096"))
    result = run("prove", "large.yaml", "--implies", "larger.yaml")
    assert result.exit_code == 1
    assert (
        "cannot be decided: more than 20,000 ways for a text to meet or miss these patterns" in result.stderr
    )


def test_a_counterexample_replays_from_its_json() -> None:
    result = run("prove", "old.yaml", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["proved"] is False
    claim, _ = told["claims"]
    assert (claim["claim"], claim["file"], claim["line"], claim["column"]) == ("never", "old.yaml", 11, 5)
    example = claim["counterexample"]
    (hsm,) = parse_inventory(json.dumps([example["hsm"]])).hsms
    policy = parse(OLD)
    assert (
        policy.permit(hsm, type(policy.rules[0].secret.id)(bytes.fromhex(example["secret_id"]))).name
        == "spare"
    )  # type: ignore[union-attr]
    assert example["rule"] == {"file": "old.yaml", "name": "spare", "line": 5}


def test_diff_tells_each_hsm_and_an_example_for_the_rest() -> None:
    result = run("diff", "old.yaml", "new.yaml", "--inventory", "hsms.yaml")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "HSM was becomes reason",
        "04.0011 `spare`: bind, associate unbound rule `spare` is gone",
        "05.0011 `tls`: keep unbind rule `tls` now: generation differs: `>=CEX7` wanted, `CEX6` found",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == [
        "now unmet",
        "now unmet",
        "newly refused, for example",
        "newly refused, for example",
    ]
    assert lines[-2:] == [
        f"newly refused, for example: {SPARE} in the old policy",
        f"newly refused, for example: {TLS % 6} in the old policy",
    ]
    back = run("diff", "new.yaml", "old.yaml", "--inventory", "hsms.yaml")
    assert f"newly allowed, for example: {SPARE}\n" in back.stdout
    assert "now met: rule `tls`\n" in back.stdout


def test_diff_of_a_policy_with_itself_is_nothing() -> None:
    result = run("diff", "old.yaml", "old.yaml", "--inventory", "hsms.yaml")
    assert (result.exit_code, result.stdout) == (0, "nothing changes\n")
    result = run("diff", "old.yaml", "old.yaml", "--inventory", "hsms.yaml", "--json")
    empty: dict[str, object] = {"hsms": [], "rules": [], "newly_allowed": [], "newly_refused": []}
    empty |= {"requests_newly_allowed": [], "requests_newly_refused": []}
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"same": True, **empty})


def test_diff_as_json() -> None:
    result = run("diff", "old.yaml", "new.yaml", "--inventory", "hsms.yaml", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["same"]) == (1, False)
    assert told["hsms"][1] == {
        "apqn": "05.0011",
        "was": {"rule": "tls", "secret_id": None, "actions": []},
        "becomes": {"rule": None, "secret_id": None, "actions": ["unbind"]},
        "reasons": ["rule `tls` now: generation differs: `>=CEX7` wanted, `CEX6` found"],
    }
    assert [rule["name"] for rule in told["rules"]] == ["reserve", "tls"]
    assert told["newly_allowed"] == []
    assert [one["secret"] for one in told["newly_refused"]] == ["payments", None]


def test_diff_with_the_secrets_given() -> None:
    result = run("diff", "old.yaml", "new.yaml", "--inventory", "hsms.yaml", "--secrets", "other", "--json")
    assert [hsm["apqn"] for hsm in json.loads(result.stdout)["hsms"]] == ["05.0011"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["prove", "broken.yaml"],
        ["prove", "old.yaml", "--implies", "broken.yaml"],
        ["prove", "old.yaml", "--equal", "broken.yaml"],
        ["diff", "broken.yaml", "broken.yaml", "--inventory", "hsms.yaml"],
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_findings_once(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "error: broken.yaml:1:1: the key `version` is missing",
        "error: broken.yaml:1:1: unknown key `versoin`; did you mean `version`?",
        "error: broken.yaml:2:8: never: expected a list, found `3`",
    ]


def test_hsms_that_no_plan_is_made_for_are_refused() -> None:
    Path("twice.yaml").write_text(HSMS + "- {apqn: 05.0011, mode: accel, generation: CEX8}\n")
    result = run("diff", "old.yaml", "new.yaml", "--inventory", "twice.yaml")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: twice.yaml: HSM 05.0011 is there twice; name each HSM once\n",
    )
    result = run("diff", "old.yaml", "new.yaml", "--inventory", "broken.yaml")
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["prove"],
        ["prove", "absent.yaml"],
        ["prove", "old.yaml", "--rule", "spaer"],
        ["prove", "old.yaml", "--implies", "absent.yaml"],
        ["diff", "old.yaml", "--inventory", "hsms.yaml"],
        ["diff", "old.yaml", "new.yaml"],
        ["diff", "old.yaml", "new.yaml", "--inventory", "hsms.yaml", "--secrets", "0x12"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_misspelt_rule_is_told_the_nearest() -> None:
    assert "did you mean `spare`?" in run("prove", "old.yaml", "--rule", "spaer").output


@pytest.mark.parametrize("verb", ["prove", "diff"])
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert "Exit code 0" in result.stdout


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_hostile_name_reaches_the_terminal_only_escaped(options: tuple[str, ...]) -> None:
    Path("list.yaml").write_text('- {mode: Accel, name: "\\e[2J\\x9b\\u202ex"}\n')
    for arguments in (
        ["diff", "list.yaml", "bare.yaml", "--inventory", "hsms.yaml"],
        ["diff", "bare.yaml", "list.yaml", "--inventory", "hsms.yaml"],
        ["prove", "list.yaml", "--implies", "bare.yaml"],
    ):
        result = run(*arguments, *options)
        assert result.exit_code == 1
        assert result.stdout
        assert not {"\x1b", "\x9b", "\u202e"} & set(result.stdout)


def test_counterexamples_are_replayed_and_what_is_proved_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Allowed]] = []

    def ask(text: str, example: Allowed) -> Replayed:
        asked.append((text, example))
        return Replayed("refused", "it did not", "ap 3f", (Substituted("mkvp", "0x01", "0x02"),))

    monkeypatch.setattr(replaying, "replayer", lambda: ask)
    result = run("prove", "old.yaml", "--replay")
    assert result.exit_code == 1
    assert result.output.splitlines()[1] == "  replayed: refused: it did not (there, mkvp 0x01 is 0x02)"
    assert [example.rule.name for _, example in asked] == ["spare", "tls"]
    assert {text for text, _ in asked} == {OLD}
    told = json.loads(run("prove", "old.yaml", "--replay", "--json").output)["claims"][0]["replay"]
    assert (told["outcome"], told["code"]) == ("refused", "ap 3f")
    assert told["substituted"] == [{"field": "mkvp", "was": "0x01", "becomes": "0x02"}]
    asked.clear()
    run("prove", "new.yaml", "--equal", "old.yaml", "--replay")
    assert [(text, example.rule.name) for text, example in asked] == [(OLD, "spare")]
    assert "replay" not in run("prove", "new.yaml", "--implies", "old.yaml", "--replay", "--json").output


def test_without_anybody_to_replay_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "GROUP", "nobody.replays")
    result = run("prove", "old.yaml", "--replay")
    assert result.exit_code == 1
    assert result.output.startswith("error: nobody here can start a firmware: install `keyvisor[firmware]`")
