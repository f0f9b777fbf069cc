"""Control points at the gate, on a real partition and both ways of a request: what is refused, how, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvisor_firmware.broker.calls import BY_NAME
from keyvisor_firmware.broker.control_points import Control, refused_calls, served
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR
from keyvisor_hsm.cryptoki.flags import CKF_DECRYPT, CKF_ENCRYPT, CKF_SIGN, CKF_VERIFY
from keyvisor_hsm.partitions import Partition, PartitionKeys
from keyvisor_policy import parse

from .encoder import Mechanism
from .in_process import SLOT_ID, Application, Bench, store_of

ASSOCIATED = HsmState.ASSOCIATED
AES = [
    (CKA.VALUE_LEN, 32),
    (CKA.PRIVATE, False),
    *((use, True) for use in (CKA.ENCRYPT, CKA.DECRYPT, CKA.SIGN, CKA.VERIFY)),
]
RULE = "payments"


def control(*rules: str, profiles: str = "", rule: str | None = RULE) -> Control:
    """What a policy with these rules makes of an HSM that is held through `rule`."""
    text = [
        "version: 1",
        "associations:",
        f"  - {{name: {RULE}, secret: payments, hsm: {{mode: ep11, mkvp: 0x{'00' * 16}}}}}",
        "  - {name: other, secret: other, hsm: {mode: ep11, mkvp: 0x" + "11" * 16 + "}}",
        "requests:",
        *([f"  profiles: [{profiles}]"] if profiles else []),
        *(["  rules:"] if rules else []),
        *(f"    - {{name: rule {number}, {one}}}" for number, one in enumerate(rules)),
        "",
    ]
    return Control(parse("\n".join(text)).control_points, rule)


@pytest.fixture
def partition(softhsm: Path, tmp_path: Path) -> Iterator[Partition]:
    partition = Partition.open(tmp_path / "p", PartitionKeys("p", b"user pin", b"so pin"), softhsm)
    yield partition
    partition.close()


@pytest.fixture
def bench(partition: Partition, path: HotLoop | None) -> Bench:
    bench = Bench(store_of(partition), compiled=path)
    bench.grant(ASSOCIATED)
    return bench


@pytest.fixture
def application(bench: Bench) -> Application:
    return bench.connect()


def aes(application: Application, session: int, *more: tuple[int, object]) -> int:
    handle = application.call("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), [*AES, *more])
    assert isinstance(handle, int)
    return handle


def sign(application: Application, session: int, key: int, mechanism: int = CKM.AES_CMAC) -> int:
    """The code of C_SignInit; the operation is ended if it was begun."""
    rv = application.rv("C_SignInit", session, Mechanism(mechanism), key)
    if rv == CKR.OK:
        application.call("C_Sign", session, b"data", 64)
    return rv


# --- codes: each kind of refusal, and the same call where no point refuses it


def test_a_refused_mechanism_does_not_reach_the_module(bench: Bench, application: Application) -> None:
    session = application.session()
    key = aes(application, session)
    assert sign(application, session, key) == CKR.OK
    bench.control(control("deny: {call: C_SignInit, mechanism: CKM_AES_CMAC}"))
    bench.calls.made.clear()
    assert sign(application, session, key) == CKR.MECHANISM_INVALID
    assert "C_SignInit" not in bench.calls.made
    (call, refused) = bench.refused[-1]
    assert call == "C_SignInit"
    assert refused.because is not None
    assert (refused.because.point, refused.because.origin) == ("rule 0", "policy.yaml:7")
    assert refused.because.rule == RULE
    assert "rule 0" in refused.reason
    bench.control(control("deny: {call: C_EncryptInit, mechanism: CKM_AES_CMAC}"))
    assert sign(application, session, key) == CKR.OK


def test_a_refused_template_makes_nothing(bench: Bench, application: Application) -> None:
    session = application.session()
    bench.control(control("deny: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: true}}"))
    bench.calls.made.clear()
    values = [*AES, (CKA.EXTRACTABLE, True)]
    assert (
        application.rv("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), values)
        == CKR.TEMPLATE_INCONSISTENT
    )
    assert "C_GenerateKey" not in bench.calls.made
    assert aes(application, session, (CKA.EXTRACTABLE, False))


def test_a_refused_use_says_so(bench: Bench, application: Application) -> None:
    session = application.session()
    key = aes(application, session)
    bench.control(control("deny: {call: C_DestroyObject}"))
    assert application.rv("C_DestroyObject", session, key) == CKR.KEY_FUNCTION_NOT_PERMITTED
    bench.control(control("deny: {call: C_CopyObject}"))
    assert application.rv("C_DestroyObject", session, key) == CKR.OK


# --- what a template leaves out is judged by what was made


def test_an_attribute_that_a_template_leaves_out_is_read_from_the_object(
    bench: Bench, application: Application
) -> None:
    """SoftHSM makes a key CKA_DERIVE where nobody says otherwise; a template that says nothing gets nothing."""
    session = application.session()
    made = aes(application, session)
    flag = application.call("C_GetAttributeValue", session, made, [(CKA.DERIVE, 1)])
    default = flag[0][0].value
    wanted = "true" if default == b"\1" else "false"
    bench.control(control(f"deny: {{call: C_GenerateKey, template: {{CKA_DERIVE: {wanted}}}}}"))
    before = _count(application, session)
    rv = application.rv("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), AES)
    assert rv == CKR.TEMPLATE_INCONSISTENT
    assert _count(application, session) == before  # the object is gone again
    assert aes(application, session, (CKA.DERIVE, default != b"\1"))


def test_a_template_that_only_searches_is_not_judged(bench: Bench, application: Application) -> None:
    session = application.session()
    aes(application, session, (CKA.LABEL, b"free"))
    bench.control(control('deny: {template: {CKA_LABEL: "free"}}'))
    application.call("C_FindObjectsInit", session, [(CKA.LABEL, b"free")])
    assert len(application.call("C_FindObjects", session, 2)) == 1


def _count(application: Application, session: int) -> int:
    application.call("C_FindObjectsInit", session, [])
    found = application.call("C_FindObjects", session, 1000)
    application.call("C_FindObjectsFinal", session)
    return len(found)


def test_a_change_is_judged_by_what_the_object_would_be(bench: Bench, application: Application) -> None:
    """The label that a change leaves alone counts with the one that it makes."""
    session = application.session()
    key = aes(application, session, (CKA.LABEL, b"prod"))
    other = aes(application, session, (CKA.LABEL, b"test"))
    point = 'deny: {call: C_SetAttributeValue, template: {CKA_LABEL: "prod", CKA_SIGN: false}}'
    bench.control(control(point))
    change = [(CKA.SIGN, False)]
    assert application.rv("C_SetAttributeValue", session, key, change) == CKR.TEMPLATE_INCONSISTENT
    assert application.rv("C_SetAttributeValue", session, other, change) == CKR.OK


@pytest.mark.parametrize("extractable", [True, False])
def test_both_halves_of_a_pair_are_judged(extractable: bool, bench: Bench, application: Application) -> None:
    session = application.session()
    bench.control(
        control(
            "deny: {call: C_GenerateKeyPair, template: {CKA_CLASS: CKO_PRIVATE_KEY, CKA_EXTRACTABLE: true}}"
        )
    )
    p256 = bytes.fromhex("06082a8648ce3d030107")
    rv = application.rv(
        "C_GenerateKeyPair",
        session,
        Mechanism(CKM.EC_KEY_PAIR_GEN),
        [(CKA.EC_PARAMS, p256), (CKA.VERIFY, True)],
        [(CKA.SIGN, True), (CKA.EXTRACTABLE, extractable), (CKA.SENSITIVE, True), (CKA.PRIVATE, False)],
    )
    assert rv == (CKR.TEMPLATE_INCONSISTENT if extractable else CKR.OK), bench.refused


# --- keys: what is looked at in a key


def test_a_condition_on_the_key_looks_at_the_key(bench: Bench, application: Application) -> None:
    session = application.session()
    small, big = aes(application, session), aes(application, session, (CKA.LABEL, b"vault"))
    bench.control(control('deny: {call: C_SignInit, key: {CKA_LABEL: "vault"}}'))
    assert sign(application, session, small) == CKR.OK
    assert sign(application, session, big) == CKR.KEY_FUNCTION_NOT_PERMITTED


def test_a_decision_that_looked_at_what_can_change_is_not_remembered(
    bench: Bench, application: Application
) -> None:
    """The same request again, and the key has another label meanwhile: by another application, which nobody here sees."""
    other = bench.connect()
    theirs = other.session()
    session = application.session()
    application.call("C_Login", session, 1, None)
    other.call("C_Login", theirs, 1, None)
    key = aes(application, session, (CKA.TOKEN, True), (CKA.LABEL, b"free"))
    bench.control(control('deny: {call: C_SignInit, key: {CKA_LABEL: "vault"}}'))
    for _ in range(3):
        assert sign(application, session, key) == CKR.OK
    other.call("C_FindObjectsInit", theirs, [(CKA.LABEL, b"free")])
    (named,) = other.call("C_FindObjects", theirs, 2)
    other.call("C_FindObjectsFinal", theirs)
    other.call("C_SetAttributeValue", theirs, named, [(CKA.LABEL, b"vault")])
    assert sign(application, session, key) == CKR.KEY_FUNCTION_NOT_PERMITTED


# --- which HSM


def test_a_point_on_a_rule_holds_for_its_hsms_only(bench: Bench, application: Application) -> None:
    session = application.session()
    key = aes(application, session)
    point = f"deny: {{call: C_SignInit}}, on: {RULE}"
    for rule, rv in ((RULE, CKR.KEY_FUNCTION_NOT_PERMITTED), ("other", CKR.OK), (None, CKR.OK)):
        bench.control(control(point, rule=rule))
        assert sign(application, session, key) == rv


# --- a change of policy


def test_a_change_is_effective_at_once(bench: Bench, application: Application) -> None:
    """Requests that were remembered are decided again, and again when the old policy is back."""
    session = application.session()
    key = aes(application, session)
    strict = control("deny: {call: C_SignInit}")
    for _ in range(2):
        for _ in range(3):
            assert sign(application, session, key) == CKR.OK
        bench.control(strict)
        for _ in range(3):
            assert sign(application, session, key) == CKR.KEY_FUNCTION_NOT_PERMITTED
        bench.control(Control())


def test_an_operation_does_not_outlive_the_policy_that_it_was_begun_under(
    bench: Bench, application: Application
) -> None:
    session, keeper = application.session(), application.session()
    key = aes(application, keeper)  # a session object lives as long as the session that made it
    application.call("C_SignInit", session, Mechanism(CKM.AES_CMAC), key)
    bench.control(control("deny: {call: C_SignInit}"))
    assert application.rv("C_Sign", session, b"data", 64) == CKR.OPERATION_NOT_INITIALIZED


def test_the_same_policy_again_ends_nothing(bench: Bench, application: Application) -> None:
    session = application.session()
    key = aes(application, session)
    point = "deny: {call: C_DigestInit}"
    bench.control(control(point))
    application.call("C_SignInit", session, Mechanism(CKM.AES_CMAC), key)
    bench.control(control(point))
    assert application.call("C_Sign", session, b"data", 64)


# --- calls without mechanism, template and key


@pytest.mark.parametrize("name", ["C_GenerateRandom", "C_SeedRandom"])
def test_a_call_without_arguments_to_judge_is_refused_on_both_ways(
    name: str, bench: Bench, application: Application
) -> None:
    session = application.session()
    last = 8 if name == "C_GenerateRandom" else b"seed"
    assert application.rv(name, session, last) == CKR.OK
    only = control(f"deny: {{call: {name}}}")
    bench.control(only)
    assert refused_calls(only) == 1 << BY_NAME[name].id
    for _ in range(2):
        assert application.rv(name, session, last) == CKR.KEY_FUNCTION_NOT_PERMITTED


def test_administration_is_refused(bench: Bench, application: Application) -> None:
    bench.control(control("deny: {call: [C_InitToken, C_InitPIN, C_SetPIN, C_Login]}"))
    refused = CKR.KEY_FUNCTION_NOT_PERMITTED
    assert application.rv("C_InitToken", SLOT_ID, b"12345678", b"label".ljust(32)) == refused
    session = application.session()
    assert application.rv("C_Login", session, 1, None) == refused
    assert application.rv("C_SetPIN", session, b"", b"123456") == refused
    assert application.rv("C_InitPIN", session, b"123456") == refused


@pytest.mark.parametrize("profile", ["no-export", "sign-only"])
def test_the_state_of_an_operation_is_not_told(profile: str, bench: Bench, application: Application) -> None:
    session = application.session()
    assert application.rv("C_GetOperationState", session, 64) == CKR.FUNCTION_NOT_SUPPORTED  # SoftHSM's own
    bench.control(control(profiles=profile))
    assert application.rv("C_GetOperationState", session, 64) == CKR.KEY_FUNCTION_NOT_PERMITTED


def test_nothing_is_derived(bench: Bench, application: Application) -> None:
    session = application.session()
    key = aes(application, session, (CKA.DERIVE, True), (CKA.EXTRACTABLE, True), (CKA.SENSITIVE, False))
    made = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x1F), (CKA.VALUE_LEN, 16), (CKA.PRIVATE, False)]

    def derive() -> int:
        return application.rv("C_DeriveKey", session, Mechanism(CKM.AES_ECB_ENCRYPT_DATA), key, made)

    def digest() -> int:
        application.call("C_DigestInit", session, Mechanism(CKM.SHA256))
        return application.rv("C_DigestKey", session, key)

    # Its parameter does not travel (docs/mechanisms.md): that it is missed says that the call was let through.
    assert derive() == CKR.MECHANISM_PARAM_INVALID
    assert digest() == CKR.OK
    application.call("C_DigestFinal", session, 64)
    bench.control(control(profiles="sign-only"))
    assert derive() == CKR.KEY_FUNCTION_NOT_PERMITTED
    assert digest() == CKR.KEY_FUNCTION_NOT_PERMITTED


@pytest.mark.parametrize("profile", ["modern-only", "fips2021-like"])
def test_ciphers_that_the_module_does_not_have_are_refused_by_name(
    profile: str, bench: Bench, application: Application
) -> None:
    session = application.session()
    for point in (None, "no RC2 and RC4"):
        rv = application.rv("C_GenerateKey", session, Mechanism(CKM.RC4_KEY_GEN), [(CKA.VALUE_LEN, 16)])
        assert rv == CKR.MECHANISM_INVALID
        assert [refused.because.point for _, refused in bench.refused if refused.because] == [point] * bool(
            point
        )
        bench.control(control(profiles=profile))


def test_giving_up_is_never_refused(bench: Bench, application: Application) -> None:
    session = application.session()
    bench.control(control(profiles="read-only"))
    assert application.rv("C_CloseSession", session) == CKR.OK


# --- the mechanism list


def test_a_refused_mechanism_is_gone_from_the_list(bench: Bench, application: Application) -> None:
    before = set(application.call("C_GetMechanismList", SLOT_ID, 1000))
    assert {CKM.AES_CBC, CKM.SHA_1} <= before
    bench.control(control("deny: {mechanism: [CKM_SHA_1, CKM_AES_CBC]}"))
    after = set(application.call("C_GetMechanismList", SLOT_ID, 1000))
    assert before - after == {CKM.SHA_1, CKM.AES_CBC}
    assert application.rv("C_GetMechanismInfo", SLOT_ID, CKM.SHA_1) == CKR.MECHANISM_INVALID


def test_a_function_that_is_refused_with_a_mechanism_is_no_flag_of_it(
    bench: Bench, application: Application
) -> None:
    *_, before = application.call("C_GetMechanismInfo", SLOT_ID, CKM.AES_CBC)
    bench.control(control("deny: {call: C_DecryptInit, mechanism: CKM_AES_CBC}"))
    *_, after = application.call("C_GetMechanismInfo", SLOT_ID, CKM.AES_CBC)
    assert before & ~after == CKF_DECRYPT


def test_what_only_some_templates_or_keys_are_refused_stays_in_the_list() -> None:
    some = control('deny: {call: C_SignInit, mechanism: CKM_AES_CMAC, key: {CKA_LABEL: "vault"}}')
    assert served(some, CKM.AES_CMAC, CKF_SIGN | CKF_VERIFY) == CKF_SIGN | CKF_VERIFY
    every = control("deny: {call: C_SignInit, mechanism: CKM_AES_CMAC}")
    assert served(every, CKM.AES_CMAC, CKF_SIGN | CKF_VERIFY) == CKF_VERIFY
    assert served(every, CKM.AES_CMAC, CKF_SIGN) is None
    assert served(every, CKM.AES_CBC, CKF_ENCRYPT) == CKF_ENCRYPT


# --- deny and allow


def test_an_allow_wins_over_a_profile_and_a_deny_over_an_allow(
    bench: Bench, application: Application
) -> None:
    session = application.session()
    extractable = [(CKA.EXTRACTABLE, True), (CKA.SENSITIVE, True)]
    test, prod = (CKA.LABEL, b"test-1"), (CKA.LABEL, b"prod")
    allow = 'allow: {call: [C_GenerateKey], template: {CKA_EXTRACTABLE: true, CKA_LABEL: "test-*"}}'
    bench.control(control(profiles="no-export"))

    def generate(*template: tuple[int, object]) -> int:
        return application.rv(
            "C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), [*AES, *extractable, *template]
        )

    assert generate(test) == CKR.TEMPLATE_INCONSISTENT
    bench.control(control(allow, profiles="no-export"))
    assert generate(test) == CKR.OK, bench.refused[-1][1].reason
    assert generate(prod) == CKR.TEMPLATE_INCONSISTENT
    bench.control(
        control(allow, "deny: {call: C_GenerateKey, template: {CKA_VALUE_LEN: 32}}", profiles="no-export")
    )
    assert generate(test) == CKR.TEMPLATE_INCONSISTENT
