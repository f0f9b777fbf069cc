"""Calls that cases ask: how they are read, what is wrong with them, what running them shows and what covers what."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from keyvisor_policy import DocumentError, Policy, parse
from keyvisor_policy.cases import Asked
from keyvisor_policy.cli import app
from keyvisor_policy.questions import Question, ask
from keyvisor_policy.trials import coverage, run

RULES = """\
version: 1
associations:
- {name: payments, hsm: {serial: AAAAAAAAAAAAAAAA}}
- {name: ledger, hsm: {serial: BBBBBBBBBBBBBBBB}}
- {name: tls, hsm: {mode: accel}}
requests:
  profiles: [no-export]
  rules:
  - {name: no raw rsa, deny: {mechanism: [CKM_RSA_X_509, CKM_RSA_PKCS]}}
  - {name: big enough, deny: {call: C_GenerateKeyPair, template: {CKA_MODULUS_BITS: "<3072"}}}
  - {name: test keys, allow: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: true, CKA_LABEL: "test-*"}}, on: payments}
  - {name: no sha, deny: {mechanism: CKM_SHA_1}, on: tls}
"""
PAYMENTS = (
    "{apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x11111111111111111111111111111111, serial: "
    + 16 * "A"
    + "}"
)
LEDGER = PAYMENTS.replace("03.", "04.").replace("A", "B")
TLS = "{apqn: 05.0011, mode: accel, generation: CEX7}"
SIGN = "call: C_SignInit, mechanism: CKM_RSA_PKCS"
PSS = "call: C_SignInit, mechanism: CKM_RSA_PKCS_PSS"
AES = "call: C_GenerateKey, mechanism: CKM_AES_KEY_GEN"
EXPORTABLE = f"{AES}, template: {{CKA_EXTRACTABLE: true, CKA_LABEL: test-1}}"
PAIR = "call: C_GenerateKeyPair, mechanism: CKM_RSA_PKCS_KEY_PAIR_GEN"


def case(*requests: str, hsms: str = PAYMENTS, secrets: str = "payments, ledger", name: str = "x") -> str:
    lines = "".join(f"    - {{{request}}}\n" for request in requests)
    return f"- name: {name}\n  given: {{hsms: [{hsms}], secrets: [{secrets}]}}\n  expect:\n    requests:\n{lines}"


def policy_of(*cases: str, rules: str = RULES) -> Policy:
    return parse(f"{rules}cases:\n{''.join(cases)}", "p.yaml")


def differences(*requests: str, **rest: str) -> list[str]:
    (trial,) = run(policy_of(case(*requests, **rest)))
    assert trial.passed == (not trial.differences)
    return [str(finding).removeprefix("p.yaml:") for finding in trial.differences]


def complaints(*requests: str, rules: str = RULES) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        policy_of(case(*requests), rules=rules)
    return [str(finding).removeprefix("p.yaml:") for finding in caught.value.findings]


def test_a_request_is_read_with_all_that_it_has_and_its_place() -> None:
    (one,) = policy_of(
        case(
            'on: payments, call: C_UnwrapKey, mechanism: 0x9, template: {CKA_CLASS: CKO_SECRET_KEY, CKA_LABEL: "*"}, '
            "key: {CKA_MODULUS_BITS: 2048}, is: refused, by: no raw rsa",
            "call: C_Login, is: allowed",
        )
    ).cases
    question = Question("C_UnwrapKey", 9, {0: 4, 3: b"*"}, {0x121: 2048}, "payments")
    assert one.expect.requests == (
        Asked(question, allowed=False, by="no raw rsa", line=18, column=7),
        Asked(Question("C_Login"), allowed=True, line=19, column=7),
    )
    assert not one.expect.empty


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("{}", ["18:7: the key `call` is missing", "18:7: the key `is` is missing"]),
        ("is: allowed, call: C_Login, bye: x", ["18:36: unknown key `bye`; did you mean `by`?"]),
        (
            "is: forbidden, call: C_Login",
            ["18:12: is: expected `refused` or `allowed`, found `forbidden`"],
        ),
        (
            "is: allowed, call: C_SignIntt",
            [
                ("18:27: call: expected a call that is decided, such as `C_SignInit`, found `C_SignIntt`; did you mean"
                " `C_SignInit`?")
            ],
        ),
        (
            "is: allowed, call: C_Sign",
            ["18:27: call: C_Sign is decided at C_SignInit; ask that"],
        ),
        ("is: allowed, call: C_SignInit", ["18:21: C_SignInit has a mechanism; give it"]),
        (
            "is: allowed, call: C_Login, mechanism: CKM_AES_GCM, template: {CKA_LABEL: a}, key: {CKA_LABEL: a}",
            [
                "18:36: C_Login has no mechanism; leave it out",
                "18:60: C_Login makes and changes no object; leave `template` out",
                "18:86: C_Login uses no key; leave `key` out",
            ],
        ),
        (
            "is: allowed, call: C_SignInit, mechanism: [CKM_AES_GCM]",
            ["18:50: mechanism: expected one mechanism, found a list"],
        ),
        (
            f"is: allowed, {AES}, template: {{CKA_LABLE: a, CKA_VALUE: a, CKA_EXTRACTABLE: yes, CKA_MODULUS_BITS: \"<3072\"}}",
            [
                "18:81: expected an attribute, such as `CKA_EXTRACTABLE`, found `CKA_LABLE`; did you mean `CKA_LABEL`?",
                "18:95: CKA_VALUE is key material, which no policy looks at",
                "18:126: CKA_EXTRACTABLE: expected `true` or `false`, found `yes`",
                "18:149: CKA_MODULUS_BITS: expected a whole number in plain decimal digits, found `<3072` in quotes",
            ],
        ),
        (
            "is: allowed, call: C_Login, on: paymnts, by: no row rsa",
            [
                "18:40: on: `paymnts` is not the name of an association of this policy; did you mean `payments`?",
                "18:53: by: `no row rsa` is not a control point of this policy; did you mean `no raw rsa`?",
            ],
        ),
        (
            "is: allowed, call: C_Login, by: no wrapping",
            ["18:40: by: `no wrapping` is not a control point of this policy; did you mean `no-export/no wrapping`?"],
        ),
        (
            "is: allowed, call: C_Login, by: no-admin/no emptying",
            ["18:40: by: profile `no-admin` is not in `requests.profiles`; add it there"],
        ),
        ("is: allowed, call: C_Login, by: 7", ["18:40: by: expected text, but YAML reads `7` as a number; put it in quotes"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_found_at_its_place(request_: str, said: list[str]) -> None:
    assert complaints(request_.strip("{}") if request_ == "{}" else request_) == said


@pytest.mark.parametrize(
    "requests", ["7", "{}", "[[]]", "[7]", "[{call: []}]", "[{template: 7, key: [], on: {}, by: []}]"]
)
def test_what_is_no_request_is_refused_and_breaks_nothing(requests: str) -> None:
    with pytest.raises(DocumentError):
        policy_of(case().replace("    requests:\n", f"    requests: {requests}\n"))


# (what is asked, what it says when it does not hold, its twin that holds)
TWINS = [
    (
        f"{SIGN}, is: allowed",
        "C_SignInit with CKM_RSA_PKCS on `payments`: expected allowed, found refused by control point `no raw rsa`, p.yaml:9",
        f"{SIGN}, is: refused",
    ),
    (
        f"{PSS}, is: refused",
        "C_SignInit with CKM_RSA_PKCS_PSS on `payments`: expected refused, found allowed, no control point refuses it",
        f"{PSS}, is: allowed",
    ),
    (
        f"{SIGN}, is: refused, by: big enough",
        (
            "C_SignInit with CKM_RSA_PKCS on `payments`: expected refused by `big enough`, found refused by control point"
            " `no raw rsa`, p.yaml:9; `big enough` is not about such a call"
        ),
        f"{SIGN}, is: refused, by: no raw rsa",
    ),
    (
        f"{PAIR}, template: {{CKA_MODULUS_BITS: 3072}}, is: refused, by: big enough",
        (
            "C_GenerateKeyPair with CKM_RSA_PKCS_KEY_PAIR_GEN on `payments`: expected refused by `big enough`, found allowed,"
            " no control point refuses it; `big enough` does not match: CKA_MODULUS_BITS is 3072, <3072 wanted"
        ),
        f"{PAIR}, template: {{CKA_MODULUS_BITS: 3071}}, is: refused, by: big enough",
    ),
    (
        f"{EXPORTABLE}, is: refused",
        (
            "C_GenerateKey with CKM_AES_KEY_GEN on `payments`: expected refused, found allowed by control point `test keys`,"
            " p.yaml:11"
        ),
        f"{EXPORTABLE}, is: allowed, by: test keys",
    ),
    (
        f"{EXPORTABLE}, is: refused, by: no-export/no extractable keys",
        (
            "C_GenerateKey with CKM_AES_KEY_GEN on `payments`: expected refused by `no-export/no extractable keys`, found"
            " allowed by control point `test keys`, p.yaml:11; `no-export/no extractable keys` would refuse"
        ),
        f"{AES}, template: {{CKA_EXTRACTABLE: true, CKA_LABEL: prod}}, is: refused, by: no-export/no extractable keys",
    ),
    (
        f"{PSS}, key: {{CKA_MODULUS_BITS: 1}}, is: allowed, by: test keys",
        (
            "C_SignInit with CKM_RSA_PKCS_PSS on `payments`: expected allowed by `test keys`, found allowed, no control point"
            " refuses it; `test keys` is not about such a call"
        ),
        f"{PSS}, key: {{CKA_MODULUS_BITS: 1}}, is: allowed",
    ),
    (
        "on: ledger, call: C_Login, is: allowed",
        (
            "C_Login: the plan holds no HSM through `ledger`: rule `ledger` wants 1 HSM and has 0: 03.0011: serial differs:"
            f" `{'B' * 16}` wanted, `{'A' * 16}` found"
        ),
        "on: payments, call: C_Login, is: allowed",
    ),
]


@pytest.mark.parametrize(("asked", "said", "twin"), TWINS)
def test_each_request_fails_in_words_at_its_place_and_its_twin_holds(
    asked: str, said: str, twin: str
) -> None:
    assert differences(twin, asked) == [f"19:7: {said}"]
    assert differences(twin) == []


def test_the_rule_is_said_where_the_plan_holds_hsms_through_several() -> None:
    both = f"{PAYMENTS}, {LEDGER}"
    asked = f"{EXPORTABLE}, is: allowed"
    assert differences(asked, hsms=both) == [
        (
            "18:7: C_GenerateKey with CKM_AES_KEY_GEN: the plan holds HSMs through `payments` and `ledger`; say with `on`"
            " which is asked"
        )
    ]
    assert differences(f"on: payments, {asked}", hsms=both) == []
    assert differences(f"on: ledger, {asked}", hsms=both) == [
        (
            "18:7: C_GenerateKey with CKM_AES_KEY_GEN on `ledger`: expected allowed, found refused by control point"
            " `no extractable keys`, profile no-export:11"
        )
    ]
    assert differences(f"on: ledger, {asked}, by: test keys", hsms=both) == [
        (
            "18:7: C_GenerateKey with CKM_AES_KEY_GEN on `ledger`: expected allowed by `test keys`, found refused by control"
            " point `no extractable keys`, profile no-export:11; `test keys` is for HSMs that are held through `payments` alone"
        )
    ]


def test_where_nothing_is_held_nothing_can_be_asked() -> None:
    assert differences("call: C_Login, is: allowed", secrets="") == [
        "18:7: C_Login: the plan holds no HSM that it could be asked of; give the case HSMs and secrets of a rule"
    ]


def test_a_rule_that_has_some_of_its_hsms_can_be_asked() -> None:
    rules = RULES.replace("{serial: AAAAAAAAAAAAAAAA}}", "{serial: AAAAAAAAAAAAAAAA}, count: 2}")
    (trial,) = run(policy_of(case(f"{SIGN}, is: refused"), rules=rules))
    assert trial.passed
    assert trial.met == ()


def test_accelerators_are_asked_through_the_rule_that_binds_them() -> None:
    sha = "call: C_DigestInit, mechanism: CKM_SHA_1, is: refused, by: no sha"
    assert differences(sha, hsms=TLS) == []
    assert differences(f"on: tls, {sha}", hsms=f"{TLS}, {PAYMENTS}") == []
    assert differences("on: payments, call: C_DigestInit, mechanism: CKM_SHA_1, is: allowed") == []


def test_a_rule_for_what_an_earlier_rule_allows_holds_no_hsm() -> None:
    """The firmware is told of secrets and HSMs, not of the plan's rules: the first rule that allows it counts."""
    rules = """\
version: 1
associations:
- {name: wide, secret: s, hsm: {}}
- {name: narrow, secret: s, hsm: {serial: AAAAAAAAAAAAAAAA}}
requests: {rules: [{name: no login, deny: {call: C_Login}, on: narrow}]}
"""
    both = case("on: narrow, call: C_Login, is: refused", hsms=f"{PAYMENTS}, {LEDGER}", secrets="s")
    (trial,) = run(policy_of(both, rules=rules))
    assert [rule.name for rule in trial.met] == ["wide", "narrow"]
    assert [finding.message for finding in trial.differences] == [
        (
            "C_Login: no HSM is held through `narrow`: the firmware holds 03.0011 through rule `wide` in line 3, which allows the"
            " same and comes first"
        )
    ]
    (trial,) = run(
        policy_of(both.replace("on: narrow", "on: wide").replace("refused", "allowed"), rules=rules)
    )
    assert trial.passed


def test_coverage_names_the_files_own_points_that_decide_nothing() -> None:
    def left(*requests: str, **rest: str) -> list[str]:
        policy = policy_of(case(*requests, **rest))
        return [point.name for point in coverage(policy, run(policy)).never_decides]

    every = ["no raw rsa", "big enough", "test keys", "no sha"]
    assert left("call: C_Login, is: allowed") == every
    assert left(f"{SIGN}, is: refused") == every[1:]
    assert left(f"{SIGN}, is: allowed") == every[1:]  # it failed, and yet it was decided
    assert (
        left("call: C_WrapKey, mechanism: CKM_AES_KEY_WRAP, is: refused, by: no-export/no wrapping") == every
    )
    assert left(f"{SIGN}, is: refused", secrets="") == every


WORDS = {
    "call": ["C_SignInit", "C_GenerateKey", "C_GenerateKeyPair", "C_Login", "C_WrapKey"],
    "mechanism": ["CKM_RSA_PKCS", "CKM_AES_KEY_GEN", "CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_SHA_1"],
    "template": [
        "CKA_EXTRACTABLE: true",
        "CKA_LABEL: test-1",
        "CKA_MODULUS_BITS: 2048",
        "CKA_MODULUS_BITS: 3072",
    ],
}


@given(
    st.sampled_from(WORDS["call"]),
    st.sampled_from(WORDS["mechanism"]),
    st.lists(st.sampled_from(WORDS["template"]), unique_by=lambda text: text.partition(":")[0]),
    st.sampled_from(["payments", "ledger", "tls"]),
    st.booleans(),
)
def test_a_request_passes_exactly_where_the_control_points_say_so(
    call: str, mechanism: str, template: list[str], on: str, allowed: bool
) -> None:
    parts = [f"on: {on}", f"call: {call}", f"is: {'allowed' if allowed else 'refused'}"]
    parts += [f"mechanism: {mechanism}"] if call != "C_Login" else []
    parts += [f"template: {{{', '.join(template)}}}"] if call not in ("C_Login", "C_SignInit") else []
    policy = policy_of(case(", ".join(parts), hsms=f"{PAYMENTS}, {LEDGER}, {TLS}"))
    (trial,) = run(policy)
    (asked,) = policy.cases[0].expect.requests
    decision = ask(policy.control_points, asked.question).decision
    assert trial.passed is (decision.allowed is allowed)
    (answer,) = trial.answers
    assert answer.point == decision.point


# --- what the verb prints


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    text = f"{RULES}cases:\n{case(f'{SIGN}, is: allowed, by: test keys', 'on: ledger, call: C_Login, is: allowed')}"
    Path("p.yaml").write_text(text + case(f"{SIGN}, is: refused", name="z"))
    return "p.yaml"


SAID = (
    "C_SignInit with CKM_RSA_PKCS on `payments`: expected allowed by `test keys`, found refused by control point"
    " `no raw rsa`, p.yaml:9; `test keys` is not about such a call"
)


def test_the_verb_tells_of_requests_and_of_points_that_decide_nothing(failing: str) -> None:
    result = CliRunner().invoke(app, ["test", failing, "--coverage"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[:2] == ["FAIL  x", f"      p.yaml:18:7: {SAID}"]
    assert lines[-3:] == [
        "p.yaml:10:5: control point `big enough` decides in no case",
        "p.yaml:11:5: control point `test keys` decides in no case",
        "p.yaml:12:5: control point `no sha` decides in no case",
    ]


def test_that_every_point_decides_is_said_too(tmp_path: Path) -> None:
    rules = (
        RULES.partition("  rules:")[0] + "  rules:\n  - {name: no raw rsa, deny: {mechanism: CKM_RSA_PKCS}}\n"
    )
    (tmp_path / "p.yaml").write_text(f"{rules}cases:\n{case(f'{SIGN}, is: refused')}")
    result = CliRunner().invoke(app, ["test", str(tmp_path / "p.yaml"), "--coverage"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith("p.yaml: every control point decides in a case")


def test_requests_as_json(failing: str) -> None:
    result = CliRunner().invoke(app, ["test", failing, "--json", "--coverage"])
    (file,) = json.loads(result.stdout)["files"]
    assert file["cases"][0]["differences"][0] == {"line": 18, "column": 7, "message": SAID}
    assert file["cases"][0]["requests"] == [
        {
            "line": 18,
            "column": 7,
            "request": "C_SignInit with CKM_RSA_PKCS",
            "on": "payments",
            "passed": False,
            "expected": {"is": "allowed", "by": "test keys"},
            "found": {
                "is": "refused",
                "by": "no raw rsa",
                "origin": "p.yaml:9",
                "code": "CKR_MECHANISM_INVALID",
            },
        },
        {
            "line": 19,
            "column": 7,
            "request": "C_Login",
            "on": "ledger",
            "passed": False,
            "expected": {"is": "allowed", "by": None},
            "found": None,
        },
    ]
    assert file["coverage"]["never_decides"][0] == {"name": "big enough", "line": 10}


def test_requests_as_junit(failing: str) -> None:
    CliRunner().invoke(app, ["test", failing, "--junit", "out.xml"])
    failure = Xml.parse("out.xml").find(".//failure")  # noqa: S314
    assert failure is not None
    assert failure.get("message") == SAID
    assert (failure.text or "").splitlines()[0] == f"p.yaml:18:7: {SAID}"
