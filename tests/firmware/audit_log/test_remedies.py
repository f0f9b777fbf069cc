"""Every refusal has a row that says what to do, and what it says can be typed."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import click
import pytest
from typer.main import get_command

import keyvisor_firmware.broker
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.audit_log.remedies import BY_AP_CODE, BY_CK_RV, OTHERWISE, Remedy, remedy
from keyvisor_guest.cli.command import app
from keyvisor_hsm.cryptoki import CKR

BROKER = Path(keyvisor_firmware.broker.__path__[0])
# The filter's control points (architecture.md, section 5, step 4) refuse with these.
CONTROL_POINTS = {"CKR_MECHANISM_INVALID", "CKR_TEMPLATE_INCONSISTENT", "CKR_KEY_FUNCTION_NOT_PERMITTED"}
FILLED = {"guest": "g", "apqn": "03.0011", "secret": "s", "policy": "policy.yaml"}
COMMANDS = sorted(
    {command for row in (*BY_AP_CODE.values(), *BY_CK_RV.values(), OTHERWISE) for command in row.commands}
)


def refused_with(source: str) -> set[str]:
    """The CK_RVs that a module refuses with: `Refused(CKR.X, ...)`, or a method or function that makes it, `_refused`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Attribute):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of = node.args[0].value
            if name in ("Refused", "_refused") and isinstance(of, ast.Name) and of.id == "CKR":
                found.add(f"CKR_{node.args[0].attr}")
    return found


def test_every_ap_response_code_has_a_row() -> None:
    assert set(BY_AP_CODE) == set(ApCode)


def test_every_ck_rv_that_the_gate_refuses_with_has_a_row() -> None:
    found = {rv for path in BROKER.rglob("*.py") for rv in refused_with(path.read_text(encoding="utf-8"))}
    assert len(found) > 6
    assert "CKR_USER_NOT_LOGGED_IN" in found
    assert found | CONTROL_POINTS <= set(BY_CK_RV)


def test_the_search_finds_a_refusal_that_has_no_row() -> None:
    """The broken twin of the test above."""
    assert refused_with("raise Refused(CKR.GENERAL_ERROR, 'why')") == {"CKR_GENERAL_ERROR"}
    assert refused_with("raise self._refused(CKR.GENERAL_ERROR, 'why')") == {"CKR_GENERAL_ERROR"}
    assert refused_with("raise Failed(CKR.GENERAL_ERROR, 'why')") == set()
    assert not refused_with("raise Refused(CKR.GENERAL_ERROR, 'why')") <= set(BY_CK_RV)


def test_the_names_are_those_of_the_standard() -> None:
    assert all(name.removeprefix("CKR_") in CKR.__members__ for name in BY_CK_RV)


@pytest.mark.parametrize("row", [*BY_AP_CODE.values(), *BY_CK_RV.values()], ids=lambda row: row.true[:40])
def test_a_row_says_what_would_be_true_and_what_to_do(row: Remedy) -> None:
    assert row.true[0].islower() or row.true.startswith(("HSM", "PIN"))
    assert not row.true.endswith(".")
    assert row.commands


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_typed(command: str) -> None:
    """Each verb is one of ours, and has the options that it is given."""
    words = shlex.split(command.format(**FILLED))
    if "--" in words:
        words = words[: words.index("--")]
    assert words.pop(0) == "keyvisor"
    known = get_command(app)
    context = click.Context(known)  # type: ignore[arg-type]  # typer's own copy of the class
    while words and hasattr(known, "get_command"):
        found = known.get_command(context, words.pop(0))
        assert found is not None, command
        known = found
    options = {option for parameter in known.params for option in parameter.opts}
    given = [word for word in words if word.startswith("--")]
    assert set(given) <= options, command
    wanted = {
        parameter.opts[0]
        for parameter in known.params
        if parameter.required and parameter.param_type_name == "option"
    }
    assert wanted <= set(given), command


def test_a_code_is_looked_up_as_it_is_recorded() -> None:
    assert remedy("3f") is BY_AP_CODE[ApCode.NOT_PERMITTED]
    assert remedy("CKR_USER_NOT_LOGGED_IN") is BY_CK_RV["CKR_USER_NOT_LOGGED_IN"]
    assert remedy(None) is remedy("CKR_HOST_MEMORY") is remedy("ff") is OTHERWISE
