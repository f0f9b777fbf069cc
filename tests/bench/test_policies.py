"""What is measured of the policy tools is what they say: policies that are clean, met and proved, and one that refuses."""

from __future__ import annotations

import pytest
from bench.policies import SHAPES, hsm, measured, policy_of

from keyvisor_policy import NotPermitted
from keyvisor_policy.lint import check
from keyvisor_policy.prove import nevers


@pytest.mark.parametrize("shape", SHAPES)
def test_a_policy_is_clean_and_proved_and_each_rule_has_its_hsm(shape: str) -> None:
    policy = policy_of(shape, 60)
    assert check(policy) == ()
    assert len(policy.never) == 10
    assert all(proof.proved for proof in nevers(policy))
    secrets = {rule.secret.id for rule in policy.rules if rule.secret}
    plan = policy.assign([hsm(number) for number in range(60)], secrets)
    assert plan.met
    for number, rule in enumerate(policy.rules):
        assert rule.secret is not None
        assert policy.permit(hsm(number), rule.secret.id) is rule
        with pytest.raises(NotPermitted):
            policy.permit(hsm(60), rule.secret.id)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_it_is_measured(shape: str) -> None:
    figures = measured(shape, 20, 5, 2)
    assert set(figures) == {"check", "plan", "prove", "implies", "permit", "refuse"}
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in figures.values())
