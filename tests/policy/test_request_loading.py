"""`requests` of policy files: what they mean, and what is said about each thing that is wrong, all at once."""

from __future__ import annotations

import pytest

from keyvisor_policy import DocumentError, parse
from keyvisor_policy.control_points import Between, Condition, ControlPoint, ControlPoints, Is, Like
from keyvisor_policy.pkcs11.calls import DECIDED_AT, FORMS
from keyvisor_policy.pkcs11.curves import CURVES
from keyvisor_policy.request_fields import MAX_ALTERNATIVES
from keyvisor_policy.request_loading import HINT_RULES, MAX_POINTS, profile_points

EXAMPLE = """\
version: 1
associations: [{name: payments, hsm: {}}]
requests:
  profiles: [no-export, no-admin]
  rules:
    - name: no raw rsa
      deny: {mechanism: [CKM_RSA_X_509, CKM_RSA_PKCS]}
    - name: big enough
      deny: {call: [C_GenerateKeyPair], template: {CKA_MODULUS_BITS: "<3072"}}
    - name: exportable test keys
      allow: {call: [C_GenerateKey], template: {CKA_EXTRACTABLE: true, CKA_LABEL: "test-*"}}
      on: payments
"""

WRONG = """\
version: 1
associations: [{name: payments, hsm: {}}]
requests:
  profiles: [no-exprt, no-export, no-export]
  rules:
    - name: a
      deny: {call: C_Sign}
    - name: a
      deny: {call: C_SignIntt}
    - name: b
    - name: c
      deny: {call: C_SignInit}
      allow: {call: C_SignInit}
    - name: d
      deny: {}
    - name: d2
      allow: {}
    - name: e
      deny: {mechanism: CKM_RSA_PKCSS}
    - name: f
      deny: {template: {CKA_VALUE: a}}
    - name: g
      deny: {key: {CKA_SENSITVE: true}}
    - name: h
      deny: {template: {CKA_START_DATE: a}}
    - name: i
      deny: {template: {CKA_SENSITIVE: maybe}}
    - name: j
      deny: {template: {CKA_MODULUS_BITS: "3072..2048"}}
    - name: k
      deny: {template: {CKA_MODULUS_BITS: "<0"}}
    - name: l
      deny: {template: {CKA_MODULUS_BITS: many}}
    - name: m
      deny: {template: {CKA_EC_PARAMS: secp256r2}}
    - name: n2
      deny: {template: {CKA_KEY_TYPE: ["!CKK_RSA", CKK_EC]}}
    - name: o
      deny: {template: {CKA_KEY_TYPE: CKK_RSAA}}
    - name: p
      deny: {call: [], mechanism: []}
    - name: q
      deny: {template: {CKA_LABEL: []}}
    - name: r
      deny: {call: C_SignInit}
      on: paymnts
    - name: s
      forbid: {call: C_SignInit}
    - deny: {call: C_SignInit}
    - name: t
      deny: {calls: C_SignInit}
    - name: u
      deny: {mechanism: 0x12345678901234567}
    - name: v
      deny: {template: {CKA_LABEL: no}}
"""

SAID = """\
p.yaml:4:14: profiles: expected `no-export`, `modern-only`, `fips2021-like`, `bsi-like`, `sign-only`, `read-only` or `no-admin`, found `no-exprt`; did you mean `no-export`?
p.yaml:4:35: profiles: `no-export` is there already; name it once
p.yaml:7:20: call: C_Sign is decided at C_SignInit; name that
p.yaml:8:13: name: `a` is the name of another control point already, in line 6
p.yaml:9:20: call: expected a call that is decided, such as `C_SignInit`, found `C_SignIntt`; did you mean `C_SignInit`?
p.yaml:10:7: expected `deny` or `allow`, found neither
p.yaml:11:7: expected `deny` or `allow`, found both
p.yaml:15:13: deny: expected a `call`, a `mechanism`, a `template` or a `key`; this would refuse everything
p.yaml:17:14: allow: expected a `call`, a `mechanism`, a `template` or a `key`; this would allow everything
p.yaml:19:25: mechanism: expected a mechanism, such as `CKM_RSA_PKCS`, or its number behind `0x`, found `CKM_RSA_PKCSS`; did you mean `CKM_RSA_PKCS`?
p.yaml:21:25: CKA_VALUE is key material, which no policy looks at
p.yaml:23:20: expected an attribute, such as `CKA_EXTRACTABLE`, found `CKA_SENSITVE`; did you mean `CKA_SENSITIVE`?
p.yaml:25:25: CKA_START_DATE is not supported in conditions: it is a list, a template or a date
p.yaml:27:40: CKA_SENSITIVE: expected `true` or `false`, found `maybe`
p.yaml:29:43: CKA_MODULUS_BITS: expected a range from the lower to the higher number, found `3072..2048`
p.yaml:31:43: CKA_MODULUS_BITS: expected a number that something can be below, found `<0`
p.yaml:33:43: CKA_MODULUS_BITS: expected a number such as `3072`, `<3072`, `>=3072` or `2048..3071`, found `many`
p.yaml:35:40: CKA_EC_PARAMS: expected a curve, such as `secp256r1`, or its DER behind `0x`, found `secp256r2`; did you mean `secp256r1`?
p.yaml:37:39: CKA_KEY_TYPE: expected `!` before each of the values or before none
p.yaml:39:39: CKA_KEY_TYPE: expected a name such as `CKK_RSA`, or its number behind `0x`, found `CKK_RSAA`; did you mean `CKK_RSA`?
p.yaml:41:20: call: expected at least one item
p.yaml:41:35: mechanism: expected at least one item
p.yaml:43:36: CKA_LABEL: expected at least one item
p.yaml:46:11: on: `paymnts` is not the name of an association of this policy; did you mean `payments`?
p.yaml:47:7: expected `deny` or `allow`, found neither
p.yaml:48:7: unknown key `forbid`; expected `name`, `deny`, `allow` or `on`
p.yaml:49:7: the key `name` is missing
p.yaml:51:14: unknown key `calls`; did you mean `call`?
p.yaml:53:25: mechanism: expected a mechanism, such as `CKM_RSA_PKCS`, or its number behind `0x`, found `0x12345678901234567`
p.yaml:55:36: CKA_LABEL: expected text, but YAML reads `no` as a truth value; put it in quotes
"""  # noqa: E501


def complaints(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "p.yaml")
    return [str(finding) for finding in caught.value.findings]


def points(text: str) -> ControlPoints:
    return parse(
        "version: 1\nassociations: [{name: payments, hsm: {}}]\nrequests:\n  rules:\n" + text
    ).control_points


def one_condition(attribute: str, wanted: str) -> Condition:
    (point,) = points(f"  - {{name: a, deny: {{template: {{{attribute}: {wanted}}}}}}}\n").points
    (condition,) = point.template
    return condition


def test_the_example_of_the_design_is_compiled_its_own_points_before_those_of_profiles() -> None:
    compiled = parse(EXAMPLE, "p.yaml").control_points
    own, profiles = compiled.points[:3], compiled.points[3:]
    assert own == (
        ControlPoint("no raw rsa", "deny", mechanisms=frozenset({1, 3}), origin="p.yaml:6"),
        ControlPoint(
            "big enough",
            "deny",
            calls=frozenset({"C_GenerateKeyPair"}),
            template=(Condition(0x121, "CKA_MODULUS_BITS: <3072", (Between(None, 3071),)),),
            origin="p.yaml:8",
        ),
        ControlPoint(
            "exportable test keys",
            "allow",
            calls=frozenset({"C_GenerateKey"}),
            template=(
                Condition(0x162, "CKA_EXTRACTABLE: true", (Is(True),)),
                Condition(3, "CKA_LABEL: test-*", (Like("test-*"),)),
            ),
            on="payments",
            origin="p.yaml:10",
        ),
    )
    assert profiles == profile_points("no-export") + profile_points("no-admin")
    assert {point.profile for point in profiles} == {"no-export", "no-admin"}


def test_a_policy_without_requests_has_no_control_points() -> None:
    assert parse("version: 1").control_points == ControlPoints()
    assert parse("version: 1\nrequests: {}").control_points == ControlPoints()


def test_everything_that_is_wrong_is_said_at_once_at_its_place() -> None:
    assert complaints(WRONG) == SAID.splitlines()


@pytest.mark.parametrize("call", DECIDED_AT)
def test_a_call_that_is_decided_elsewhere_leads_there(call: str) -> None:
    (said,) = complaints(f"version: 1\nrequests: {{rules: [{{name: a, deny: {{call: {call}}}}}]}}")
    assert f"{call} is decided at {DECIDED_AT[call]}; name that" in said


@pytest.mark.parametrize("call", FORMS)
def test_a_call_covers_its_other_forms(call: str) -> None:
    assert points(f"  - {{name: a, deny: {{call: {call}}}}}\n").calls == frozenset({call, *FORMS[call]})


@pytest.mark.parametrize(
    ("attribute", "wanted", "one_of", "negated"),
    [
        ("CKA_SENSITIVE", "true", (Is(True),), False),
        ("CKA_SENSITIVE", "false", (Is(False),), False),
        ("CKA_MODULUS_BITS", "2048", (Is(2048),), False),
        ("CKA_MODULUS_BITS", '"==2048"', (Is(2048),), False),
        ("CKA_MODULUS_BITS", '"<2048"', (Between(None, 2047),), False),
        ("CKA_MODULUS_BITS", '"<=2048"', (Between(None, 2048),), False),
        ("CKA_MODULUS_BITS", '">2048"', (Between(2049, None),), False),
        ("CKA_MODULUS_BITS", '">=2048"', (Between(2048, None),), False),
        ("CKA_MODULUS_BITS", "2048..3071", (Between(2048, 3071),), False),
        ("CKA_MODULUS_BITS", '[2048, ">=4096"]', (Is(2048), Between(4096, None)), False),
        ("CKA_MODULUS_BITS", '"!>=3072"', (Between(3072, None),), True),
        ("CKA_MODULUS_BITS", '["!2048", "! 1024"]', (Is(2048), Is(1024)), True),
        ("CKA_EXTRACTABLE", '"!true"', (Is(True),), True),
        ("CKA_LABEL", '"!no"', (Is(b"no"),), True),
        ("CKA_CLASS", "CKO_SECRET_KEY", (Is(4),), False),
        ("CKA_KEY_TYPE", '["!CKK_RSA", "! 0x1f"]', (Is(0), Is(0x1F)), True),
        ("CKA_KEY_GEN_MECHANISM", "CKM_AES_KEY_GEN", (Is(0x1080),), False),
        ("CKA_EC_PARAMS", "ed25519", tuple(map(Is, CURVES["ed25519"])), False),
        ("CKA_EC_PARAMS", "0x06052b8104000a", (Is(CURVES["secp256k1"][0]),), False),
        ("CKA_LABEL", "abc", (Is(b"abc"),), False),
        ("CKA_LABEL", '"a*"', (Like("a*"),), False),
        ("CKA_LABEL", "0x00ff", (Is(b"\0\xff"),), False),
        ("CKA_LABEL", '"!test"', (Is(b"test"),), True),
        ("CKA_ID", "0x", (Is(b""),), False),
    ],
)
def test_a_condition_is_read_by_its_attributes_kind(
    attribute: str, wanted: str, one_of: tuple[object, ...], negated: bool
) -> None:
    condition = one_condition(attribute, wanted)
    assert (condition.one_of, condition.negated) == (one_of, negated)
    assert condition.text.startswith(f"{attribute}: ")


def test_a_mechanism_may_be_a_number() -> None:
    (point,) = points("  - {name: a, deny: {mechanism: [0x80000001, CKM_AES_GCM]}}\n").points
    assert point.mechanisms == {0x80000001, 0x1087}


def test_more_points_than_there_may_be_are_refused_before_they_are_looked_at() -> None:
    entry = "- {nonsense: 1}\n"
    (said,) = complaints("version: 1\nrequests:\n  rules:\n" + f"  {entry}" * (MAX_POINTS + 1))
    assert said.endswith(f"more than the {MAX_POINTS} control points that a policy may have")


def test_more_alternatives_than_there_may_be_are_refused() -> None:
    many = ", ".join(map(str, range(MAX_ALTERNATIVES + 1)))
    (said,) = complaints(
        f"version: 1\nrequests: {{rules: [{{name: a, deny: {{key: {{CKA_MODULUS_BITS: [{many}]}}}}}}]}}"
    )
    assert said.endswith(
        f"CKA_MODULUS_BITS: expected at most {MAX_ALTERNATIVES} items, found {MAX_ALTERNATIVES + 1}"
    )


def test_of_many_associations_nobody_looks_for_the_nearest_name() -> None:
    rules = "".join(f"- {{name: rule{number}, hsm: {{}}}}\n" for number in range(HINT_RULES + 1))
    (said,) = complaints(
        f"version: 1\nassociations:\n{rules}requests: {{rules: [{{name: a, deny: {{call: C_Login}}, on: rule_1}}]}}"
    )
    assert said.endswith("on: `rule_1` is not the name of an association of this policy")


def test_points_do_not_depend_on_how_calls_and_mechanisms_are_ordered() -> None:
    one = points(
        "  - {name: a, deny: {call: [C_SignInit, C_WrapKey], mechanism: [CKM_RSA_PKCS, CKM_AES_GCM]}}\n"
    )
    other = points(
        "  - {name: a, deny: {call: [C_WrapKey, C_SignInit], mechanism: [CKM_AES_GCM, CKM_RSA_PKCS]}}\n"
    )
    assert one == other
