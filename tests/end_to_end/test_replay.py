"""What `policy prove` finds is put to a running firmware, which does it; and what a policy refuses, it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.end_to_end.conftest import World

from keyvisor_guest.cli.policy_replay import replay
from keyvisor_guest.cli.request_replay import replay_request
from keyvisor_policy import Policy, parse, secret_id
from keyvisor_policy.prove import Allowed, nevers
from keyvisor_policy.request_prove import implies_requests

KEY, OTHER = "db3c3b3c3f097dd55ec7eb0e7fdbcb93", "5ae1bd0cf2a8c4f1e7cd20b6a70a1c55"
ID = f"0x{secret_id('by-id').hex()}"

POLICY = f"""\
version: 1
associations:
  - {{name: payments, hsm: {{mkvp: 0x{KEY.upper()}, serial: 93AADFK719460083, firmware: ">=7.1", compliance: [fips2021]}}}}
  - {{name: by id, secret_id: {ID}, hsm: {{mkvp: '{OTHER}', generation: CEX5..CEX6}}, count: 2}}
  - {{name: slow, hsm: {{mode: accel, generation: "<=CEX5"}}}}
  - {{name: fast, hsm: {{mode: accel, api: ">=70000"}}}}
never:
  - {{secret: payments, hsm: {{api: "!>=4"}}}}
  - {{secret_id: {ID}, hsm: {{mkvp: 0x{OTHER}}}}}
  - {{hsm: {{mode: accel, generation: ">=CEX6"}}}}
  - {{hsm: {{mode: accel, generation: "<=CEX5"}}}}
  - {{secret: payments, hsm: {{mkvp: "!0x{KEY}"}}}}
"""


def example(policy: Policy, number: int) -> Allowed:
    found = nevers(policy)[number].counterexample
    assert found is not None
    return found


@pytest.mark.timeout(120)
def test_each_counterexample_is_done_by_a_running_firmware(
    new_world: Callable[[], World],
) -> None:
    nowhere = new_world()  # in which no firmware runs
    (nowhere.directory / "policy.yaml").write_text(POLICY, encoding="utf-8")
    ran = nowhere.run("keyvisor", "policy", "prove", "policy.yaml", "--replay", "--json")
    assert ran.code == 1
    claims = json.loads(ran.told)["claims"]
    assert [claim.get("replay", {}).get("outcome") for claim in claims] == [
        "associated",
        "associated",
        "not replayed",
        "bound",
        None,
    ]
    first, by_id, too_much, accelerator, proved = claims
    assert [(one["field"], one["was"]) for one in first["replay"]["substituted"]] == [("mkvp", f"0x{KEY}")]
    assert [(one["field"], one["was"]) for one in by_id["replay"]["substituted"]] == [
        ("mkvp", f"0x{OTHER}"),
        ("secret_id", ID),
    ]
    assert too_much["replay"]["message"].endswith("api 70000 is more than 65535")
    assert accelerator["replay"]["substituted"] == []
    assert proved["proved"]
    assert not nowhere.state.exists()  # it had a state of its own


def test_a_firmware_refuses_what_the_policy_does_not_allow_and_says_with_which_code() -> None:
    """The twin: the same example, replayed on a policy that is narrower than the one that was proved."""
    found = example(parse(POLICY), 0)
    narrower = POLICY.replace('firmware: ">=7.1"', 'firmware: ">=7.2"')
    answer = replay(narrower, found)
    assert (answer.outcome, answer.code) == ("refused", "ap 3f")
    assert "firmware differs: `>=7.2` wanted, `7.1` found" in answer.message


ASKED = """\
version: 1
associations:
  - {name: payments, hsm: {generation: ">=CEX7"}}
requests:
  rules:
"""
REQUESTS = [
    (
        'deny: {call: C_GenerateKeyPair, template: {CKA_MODULUS_BITS: "<2048"}}',
        'deny: {call: C_GenerateKeyPair, template: {CKA_MODULUS_BITS: "<1024"}}',
        "CKR_TEMPLATE_INCONSISTENT",
    ),
    (
        'deny: {call: C_SignInit, mechanism: CKM_SHA256_RSA_PKCS, key: {CKA_MODULUS_BITS: "<2048"}}',
        'deny: {call: C_SignInit, mechanism: CKM_SHA256_RSA_PKCS, key: {CKA_MODULUS_BITS: "<1024"}}',
        "CKR_MECHANISM_INVALID",
    ),
    (
        "deny: {call: C_GenerateKey, template: {CKA_LABEL: 'a*', CKA_TOKEN: true}}",
        "deny: {call: C_InitPIN}",
        "CKR_TEMPLATE_INCONSISTENT",
    ),
    ("deny: {call: C_DigestInit, mechanism: CKM_SHA512}", "deny: {call: C_InitPIN}", "CKR_MECHANISM_INVALID"),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("before", "after", "code"), REQUESTS)
def test_a_request_is_asked_under_both_policies(before: str, after: str, code: str) -> None:
    old, new = (f"{ASKED}    - {{name: point, {point}}}\n" for point in (before, after))
    found = implies_requests(parse(new, "new.yaml"), parse(old, "old.yaml")).counterexample
    assert found is not None
    answer = replay_request(new, old, found)
    assert (answer.outcome, answer.code) == ("asked", code), answer.message
    assert "control point `point`" in answer.message
    twin = replay_request(new, new, found)
    assert twin.outcome == "refused", twin.message


def test_what_is_not_asked_from_here_is_said() -> None:
    old = f"{ASKED}    - {{name: point, deny: {{call: C_CopyObject}}}}\n"
    found = implies_requests(
        parse(ASKED.partition("requests")[0], "new.yaml"), parse(old, "old.yaml")
    ).counterexample
    assert found is not None
    answer = replay_request(ASKED.partition("requests")[0], old, found)
    assert (answer.outcome, answer.message) == ("not replayed", "C_CopyObject is not asked from here")
