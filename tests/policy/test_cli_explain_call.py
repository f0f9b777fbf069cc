"""`keyvisor policy explain --call`: what it prints and what it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keyvisor_policy.cli import app

POLICY = """\
version: 1
associations:
  - {name: payments, hsm: {}}
  - {name: tls, hsm: {mode: accel}}
requests:
  profiles: [no-export]
  rules:
    - name: no raw rsa
      deny: {mechanism: [CKM_RSA_X_509, CKM_RSA_PKCS]}
    - name: big enough
      deny: {call: [C_GenerateKeyPair], template: {CKA_MODULUS_BITS: "<3072"}}
    - name: exportable test keys
      allow: {call: [C_GenerateKey], template: {CKA_EXTRACTABLE: true, CKA_LABEL: "test-*"}}
      on: payments
    - name: signing keys sign
      deny: {call: C_DecryptInit, key: {CKA_SIGN: true}}
"""

GENERATED = """\
C_GenerateKey with CKM_AES_KEY_GEN: allowed by control point `exportable test keys`, p.yaml:12

control point         effect  stands in             outcome
exportable test keys  allow   p.yaml:12             decides: allows
no extractable keys   deny    profile no-export:11  would refuse; `exportable test keys` decides
no readable keys      deny    profile no-export:16  does not match

control point         of        attribute        wanted                             found
exportable test keys  template  CKA_EXTRACTABLE  true                               true            true
exportable test keys  template  CKA_LABEL        test-*                             test-1          true
no extractable keys   template  CKA_CLASS        [CKO_PRIVATE_KEY, CKO_SECRET_KEY]  CKO_SECRET_KEY  true
no extractable keys   template  CKA_EXTRACTABLE  true                               true            true
no readable keys      template  CKA_CLASS        [CKO_PRIVATE_KEY, CKO_SECRET_KEY]  CKO_SECRET_KEY  true
no readable keys      template  CKA_SENSITIVE    false                              not given       false
"""
GENERATE = ["--call", "C_GenerateKey", "--mechanism", "CKM_AES_KEY_GEN"]
EXPORTABLE = [*GENERATE, "--template", "CKA_EXTRACTABLE=true", "--template", "CKA_LABEL=test-1"]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(POLICY)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", "p.yaml", *arguments])


def told(result: Result) -> str:
    assert result.exit_code == 0
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def test_each_condition_is_shown_and_the_line_that_decided() -> None:
    assert told(run(*EXPORTABLE, "--on", "payments")) == GENERATED


def test_on_another_association_the_profile_decides() -> None:
    said = told(run(*EXPORTABLE)).splitlines()
    assert said[0] == (
        "C_GenerateKey with CKM_AES_KEY_GEN: refused by control point `no extractable keys`, profile no-export:11;"
        " the application gets CKR_TEMPLATE_INCONSISTENT"
    )


def test_accelerators_are_held_through_a_rule_too() -> None:
    Path("p.yaml").write_text(f"{POLICY}    - {{name: no sha, deny: {{mechanism: CKM_SHA_1}}, on: tls}}\n")
    digest = ["--call", "C_DigestInit", "--mechanism", "CKM_SHA_1", "--json"]
    said = [
        json.loads(run(*digest, *on).stdout)["point"] for on in (["--on", "tls"], ["--on", "payments"], [])
    ]
    assert said == ["no sha", None, None]


def test_a_mechanism_that_is_refused() -> None:
    assert told(run("--call", "C_SignInit", "--mechanism", "CKM_RSA_PKCS")) == (
        """\
C_SignInit with CKM_RSA_PKCS: refused by control point `no raw rsa`, p.yaml:8; the application gets CKR_MECHANISM_INVALID

control point  effect  stands in  outcome
no raw rsa     deny    p.yaml:8   decides: refuses
"""
    )


def test_a_call_that_no_control_point_is_about() -> None:
    assert told(run("--call", "C_Login")) == (
        "C_Login: allowed, no control point refuses it\n\nno control point concerns this call\n"
    )


def test_a_key_is_looked_at_as_json() -> None:
    result = run("--call", "C_DecryptInit", "--mechanism", "CKM_AES_GCM", "--key", "CKA_SIGN=true", "--json")
    assert json.loads(result.stdout) == {
        "call": "C_DecryptInit",
        "mechanism": "CKM_AES_GCM",
        "on": None,
        "verdict": "C_DecryptInit with CKM_AES_GCM: refused by control point `signing keys sign`, p.yaml:15;"
        " the application gets CKR_KEY_FUNCTION_NOT_PERMITTED",
        "allowed": False,
        "code": "CKR_KEY_FUNCTION_NOT_PERMITTED",
        "point": "signing keys sign",
        "origin": "p.yaml:15",
        "points": [
            {
                "name": "signing keys sign",
                "effect": "deny",
                "profile": None,
                "origin": "p.yaml:15",
                "outcome": "decides: refuses",
                "decides": True,
                "conditions": [
                    {"of": "key", "attribute": "CKA_SIGN", "wanted": "true", "found": "true", "holds": True}
                ],
            }
        ],
    }


def test_what_is_allowed_has_no_code() -> None:
    answer = json.loads(run("--call", "C_Login", "--json").stdout)
    assert (answer["allowed"], answer["code"], answer["point"], answer["points"]) == (True, None, None, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--call", "C_SignIntt"], "did you mean `C_SignInit`?"),
        (["--call", "C_Sign"], "C_Sign is decided at C_SignInit; ask that"),
        (["--call", "C_SignInit"], "C_SignInit has a mechanism; give it"),
        (["--call", "C_Login", "--mechanism", "CKM_RSA_PKCS"], "C_Login has no mechanism; leave it out"),
        (["--call", "C_SignInit", "--mechanism", "CKM_RSA_PKCSS"], "did you mean `CKM_RSA_PKCS`?"),
        ([*GENERATE, "--template", "CKA_LABEL"], "expected NAME=VALUE, found `CKA_LABEL`"),
        ([*GENERATE, "--template", "CKA_LABLE=a"], "did you mean `CKA_LABEL`?"),
        ([*GENERATE, "--template", "CKA_EXTRACTABLE=maybe"], "CKA_EXTRACTABLE: expected `true` or `false`"),
        ([*GENERATE, "--template", "CKA_VALUE=a"], "CKA_VALUE is key material"),
        (["--call", "C_Login", "--on", "paymnts"], "did you mean `payments`?"),
        (["--call", "C_Login", "--hsm", "03.0011"], "is about an HSM; leave it out"),
        (["--hsm", "03.0011", "--mechanism", "CKM_RSA_PKCS"], "is about a call; give --call"),
        ([], "give both, or --call"),
    ],
)
def test_a_wrong_command_line_says_what_is_right(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", "").split())


def test_a_hostile_name_reaches_the_terminal_only_escaped() -> None:
    Path("p.yaml").write_text(
        'version: 1\nrequests: {rules: [{name: a, deny: {call: C_CreateObject, template: {CKA_LABEL: "\\e[2Ja"}}}]}\n'
    )
    for more in ([], ["--json"]):
        result = run("--call", "C_CreateObject", "--template", "CKA_LABEL=\x1b[2Ja", *more)
        assert result.exit_code == 0
        assert not {"\x1b", "\x9b"} & set(result.stdout)
