"""What the daemon of a run is given: a configuration and policies as the real loaders take them."""

from __future__ import annotations

import pytest
from bench.firmware import apqn, configuration, policy

from keyvisor_firmware.config import parse as parse_configuration
from keyvisor_guest.wire.messages import Hsm
from keyvisor_policy import parse as parse_policy

HSM = Hsm(
    apqn=apqn(0x11),
    state="unbound",
    mode="ep11",
    generation="CEX8",
    serial="BENCH00000000001",
    mkvp="0123456789abcdef0123456789abcdef",
    firmware="8.0",
    api=6,
    compliance=[],
    online=True,
)


@pytest.mark.parametrize("hsms", [1, 200, 256])
def test_a_configuration_has_as_many_hsms_and_guests(hsms: int) -> None:
    config = parse_configuration(configuration(hsms, idle_seconds=7), "made")
    (card,) = config.cards
    assert len(card.domains) == config.limits.guests == hsms
    assert config.gate_idle_seconds == 7


def test_hsms_are_named_by_their_domain() -> None:
    assert (apqn(0), apqn(0x11)) == ("03.0000", "03.0011")


@pytest.mark.parametrize(("rules", "made"), [(0, 1), (1, 1), (10, 10), (10_000, 10_000)])
def test_a_policy_has_as_many_rules_as_are_asked_for(rules: int, made: int) -> None:
    assert len(parse_policy(policy("bench", [HSM], rules)).rules) == made
