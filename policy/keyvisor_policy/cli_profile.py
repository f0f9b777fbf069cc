"""`keyvisor policy profile`: the profiles that ship, and what stands in each.

Prints their files; a policy takes one by its name, under `requests`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keyvisor_policy.cli_arguments import Json
from keyvisor_policy.terminal import print_json, print_table


def profile(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The profile to print; all are listed if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the profiles of control points that come with keyvisor, or print one of them as YAML.

    Exit code 0: printed. 2: wrong command line.
    """
    from keyvisor_policy.profiles import PROFILES

    if name is None:
        listed = [_value(one) for one in PROFILES]
        if as_json:
            print_json(listed)
            return
        rows = [(one["name"], one["about"], str(len(one["points"]))) for one in listed]
        print_table(("profile", "about", "control points"), rows)
        return
    _require_known(name)
    if as_json:
        print_json(_value(name))
    else:
        from keyvisor_policy.profiles import profile_text

        print(profile_text(name), end="")


def _require_known(name: str) -> None:
    from keyvisor_policy.profiles import PROFILES
    from keyvisor_policy.strict_yaml.wording import expected_words

    if name not in PROFILES:
        raise typer.BadParameter(expected_words(name, PROFILES), param_hint="NAME")


def _value(name: str) -> dict[str, Any]:
    from keyvisor_policy.request_loading import profile_about, profile_points

    points = profile_points(name)
    return {
        "name": name,
        "about": profile_about(name),
        "points": [{"name": point.name, "line": int(point.origin.rpartition(":")[2])} for point in points],
    }
