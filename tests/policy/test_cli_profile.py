"""`keyvisor policy profile`: the list, one profile's YAML, and both as JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from keyvisor_policy.cli import app
from keyvisor_policy.profiles import PROFILES, profile_text
from keyvisor_policy.request_loading import profile_points

LIST = """\
profile        about                                                                                         control points
no-export      no key leaves an HSM, and none is made so that it could                                       4
modern-only    no MD5, SHA-1, DES, RC2 and RC4, no RSA below 3072 bits, no raw RSA, no curve below 256 bits  12
fips2021-like  what SP 800-131A r2 allows, legacy use included                                               10
bsi-like       what TR-02102-1 recommends, 120 bits of security                                              10
sign-only      keys sign and verify, and do nothing else                                                     5
read-only      what the token keeps stays as it is                                                           4
no-admin       applications change no PIN and empty no partition                                             2
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["profile", *arguments])


def test_the_list_has_every_profile_what_it_is_for_and_how_many_points_it_has() -> None:
    result = run()
    assert result.exit_code == 0
    assert "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines()) == LIST


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_printed_as_it_ships(name: str) -> None:
    result = run(name)
    assert result.exit_code == 0
    assert result.stdout == profile_text(name)


def test_json_has_the_points_with_their_lines() -> None:
    listed = json.loads(run("--json").stdout)
    assert [one["name"] for one in listed] == list(PROFILES)
    for one in listed:
        assert json.loads(run(one["name"], "--json").stdout) == one
        assert [f"profile {one['name']}:{point['line']}" for point in one["points"]] == [
            point.origin for point in profile_points(one["name"])
        ]


def test_what_is_no_profile_is_a_wrong_command_line_with_the_right_word() -> None:
    result = run("no-exprt")
    assert result.exit_code == 2
    assert "did you mean `no-export`?" in " ".join(result.stderr.replace("│", "").split())
