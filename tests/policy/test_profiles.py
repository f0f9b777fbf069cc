"""The profiles that ship: each loads, can be read by a person, and every control point of each refuses what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

import keyvisor_policy.profiles
from keyvisor_policy import DocumentError, parse
from keyvisor_policy.control_points import (
    Between,
    Condition,
    ControlPoint,
    ControlPoints,
    Is,
    Like,
    Template,
    Value,
)
from keyvisor_policy.pkcs11.calls import FORMS
from keyvisor_policy.profiles import PROFILES, profile_text
from keyvisor_policy.request_loading import profile_points

FOLDER = Path(keyvisor_policy.profiles.__file__).parent
POINTS = [(name, point) for name in PROFILES for point in profile_points(name)]
LONGEST_LINE = 150


def test_every_file_is_a_profile_and_every_profile_a_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_what_it_is_and_only_denies(name: str) -> None:
    text = profile_text(name)
    assert text.startswith("# ")
    assert f"\nprofile: {name}\nabout: " in text
    assert max(map(len, text.splitlines())) <= LONGEST_LINE
    points = profile_points(name)
    assert points
    assert {point.effect for point in points} == {"deny"}
    assert {point.profile for point in points} == {name}
    assert {point.on for point in points} == {None}


@pytest.mark.parametrize("name", PROFILES)
def test_a_points_origin_is_its_line(name: str) -> None:
    lines = profile_text(name).splitlines()
    for point in profile_points(name):
        source, _, line = point.origin.rpartition(":")
        assert source == f"profile {name}"
        assert lines[int(line) - 1] == f"  - name: {point.name}"


@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_rules_can_be_copied_into_a_policy(name: str) -> None:
    rules = profile_text(name).partition("\nrules:\n")[2]
    copied = parse(f"version: 1\nrequests:\n  rules:\n{rules}").control_points.points
    assert [(point.name, point.calls, point.mechanisms, point.template, point.key) for point in copied] == [
        (point.name, point.calls, point.mechanisms, point.template, point.key)
        for point in profile_points(name)
    ]


def meeting(conditions: tuple[Condition, ...]) -> Template:
    return {one.attribute: _meeting(one) for one in conditions}


def _mechanisms(point: ControlPoint) -> list[int | None]:
    return [*sorted(point.mechanisms)] or [None]


def _meeting(condition: Condition) -> Value:
    match condition.one_of[0]:
        case Is(bytes() as value):
            met: Value = b"nothing like it" if condition.negated else value
        case Is(value):
            met = value
        case Between(least, most):
            met = least if least is not None else most or 0
        case Like(pattern):
            met = pattern.replace("*", "").replace("?", "x").encode()
    assert condition.met({condition.attribute: met})
    return met


@pytest.mark.parametrize(("name", "point"), POINTS, ids=[f"{name}: {point.name}" for name, point in POINTS])
def test_each_control_point_refuses_what_it_is_about_and_no_other_does_it_alone(
    name: str, point: ControlPoint
) -> None:
    template, key = meeting(point.template), meeting(point.key)
    profile = parse(f"version: 1\nrequests: {{profiles: [{name}]}}").control_points
    for call in sorted(point.calls) or ["C_SignInit"]:
        for mechanism in _mechanisms(point):
            assert not profile.decide(call, mechanism, template, key, None).allowed
            alone = ControlPoints([point]).decide(call, mechanism, template, key, None)
            assert (alone.allowed, alone.point) == (False, point)
    without = ControlPoints([one for one in profile_points(name) if one != point])
    assert any(
        without.decide(call, mechanism, template, key, None).allowed
        for call in sorted(point.calls) or ["C_SignInit"]
        for mechanism in _mechanisms(point)
    ), "the others refuse all of it"


@pytest.mark.parametrize("name", PROFILES)
def test_an_allow_of_the_file_wins_over_a_profile(name: str) -> None:
    point = profile_points(name)[0]
    call = min(point.calls & set(FORMS), default="C_SignInit")
    mechanism = min(point.mechanisms, default=None)
    text = f"version: 1\nrequests: {{profiles: [{name}], rules: [{{name: but, allow: {{call: {call}}}}}]}}"
    decision = parse(text).control_points.decide(
        call, mechanism, meeting(point.template), meeting(point.key), None
    )
    assert decision.allowed


def test_sound_requests_pass_every_profile_that_is_not_about_them() -> None:
    aes, gcm = 0x1080, 0x1087
    template: Template = {0: 4, 0x100: 0x1F, 0x161: 32, 0x162: False, 0x103: True}
    key: Template = {0x100: 0x1F, 0x161: 32}
    for name in ("no-export", "modern-only", "fips2021-like", "bsi-like", "no-admin", "sign-only"):
        points = ControlPoints(profile_points(name))
        assert points.decide("C_GenerateKey", aes, template, None, None).allowed, name
        assert points.decide("C_EncryptInit", gcm, None, key, None).allowed is (name != "sign-only"), name


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(LookupError):
        profile_points("no-exprt")
    with pytest.raises(LookupError):
        profile_text("../profiles/no-export")
    with pytest.raises(DocumentError, match="did you mean `no-export`"):
        parse("version: 1\nrequests: {profiles: [no-exprt]}")
