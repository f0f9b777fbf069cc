"""The command itself: how it finds its verbs, what it says when something is wrong, what it loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest.cli.command import SUMMARIES

A_VERB = """
import sys
import typer
from keyvisor_guest.errors import Refused, SdkError

app = typer.Typer()

class Bug(Exception): ...

class Strange(SdkError): ...

@app.command()
def fail(how: str) -> None:
    if how == "file":
        open("/no/such/file")
    if how == "pipe":
        raise BrokenPipeError(32, "Broken pipe")
    raise {
        "refused": Refused("ap", 3, "not done", ["one reason", "another"]),
        "strange": Strange(),
        "interrupt": KeyboardInterrupt(),
        "bug": Bug("what nobody foresaw"),
    }[how]
"""


@pytest.fixture
def a_verb(verbs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A verb that fails as it is told."""
    (tmp_path / "a_verb_that_fails.py").write_text(A_VERB)
    monkeypatch.syspath_prepend(str(tmp_path))
    verbs["fail"] = "a_verb_that_fails:app"
    return "fail"


def test_help_offers_every_verb_with_its_summary(keyvisor: Callable[..., Any], verbs: dict[str, str]) -> None:
    ended = keyvisor("--help")
    assert ended.code == 0
    for verb in verbs:
        assert f"  {verb} " in ended.out
        assert SUMMARIES[verb] in ended.out


def test_no_summary_is_of_a_verb_that_is_not_there(verbs: dict[str, str]) -> None:
    """`image` comes with a later release and will bring its own."""
    assert SUMMARIES.keys() == verbs.keys()


def test_a_verb_that_somebody_adds_is_offered_too(
    keyvisor: Callable[..., Any], verbs: dict[str, str], a_verb: str
) -> None:
    assert f"  {a_verb}" in keyvisor("--help").out


def test_version(keyvisor: Callable[..., Any]) -> None:
    ended = keyvisor("--version")
    assert (ended.code, ended.out, ended.err) == (0, "keyvisor 0.1.0\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-verb",),
        ("--no-such-option",),
        ("host",),
        ("host", "no-such-verb"),
        ("host", "start", "g"),
        ("host", "start", "g", "--image", "/no/such/file"),
        ("host", "attach", "g"),
        ("guest", "hsms"),
        ("guest", "exec", "--guest", "g"),
        ("guest", "bind", "--guest", "g"),
        ("guest", "associate", "03.0011", "--guest", "g"),
    ],
)
def test_a_wrong_command_line_ends_with_2(keyvisor: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    ended = keyvisor(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("module", "way_out"),
    [
        ("keyvisor_firmware.not_in_this_installation", "install `keyvisor[firmware]`"),
        ("keyvisor_guest_without_it", "install `keyvisor`"),
    ],
)
def test_a_verb_whose_parts_are_missing_says_what_to_install(
    keyvisor: Callable[..., Any], verbs: dict[str, str], module: str, way_out: str
) -> None:
    verbs["up"] = f"{module}:app"
    ended = keyvisor("up")
    assert ended.code == 1
    assert ended.err == f"error: `keyvisor up` needs `{module}`: {way_out}\n"


@pytest.mark.parametrize(
    ("how", "code", "err"),
    [
        ("refused", 1, "error: not done\nerror: one reason\nerror: another\n"),
        ("strange", 1, "error: Strange\n"),
        ("file", 1, "error: `/no/such/file`: no such file or directory\n"),
        ("interrupt", 130, ""),
        ("pipe", 1, ""),
    ],
)
def test_what_is_meant_for_people_is_said_in_lines(
    keyvisor: Callable[..., Any], a_verb: str, how: str, code: int, err: str
) -> None:
    ended = keyvisor(a_verb, how)
    assert (ended.code, ended.out, ended.err) == (code, "", err)


def test_a_bug_keeps_its_traceback_and_shows_no_local_values(
    process: Callable[..., Any], a_verb: str, tmp_path: Path
) -> None:
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from keyvisor_guest.cli import main; main()"
    ended = process(a_verb, "bug", code=code)
    assert ended.code == 1
    assert ended.err.startswith("Traceback")
    assert "what nobody foresaw" in ended.err
    assert "locals" not in ended.err


LOADED = "\nimport json, sys; print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        pytest.param(
            "import keyvisor_guest", {"pydantic", "typer", "http", "keyvisor_policy"}, id="the package"
        ),
        pytest.param(
            "import keyvisor_guest; keyvisor_guest.Guest; keyvisor_guest.Host",
            {"typer", "pkcs11"},
            id="the clients",
        ),
        pytest.param(
            "import keyvisor_guest.cli.guest",
            {"pydantic", "rich", "http", "yaml"},
            id="exec",
        ),
        pytest.param("import keyvisor_guest.cli", {"pydantic", "rich", "http", "yaml"}, id="help"),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(
    process: Callable[..., Any], code: str, unwanted: set[str]
) -> None:
    """A guest gets no server, no database, no card; and a program that `exec` runs does not wait for what it needs not."""
    never = {"starlette", "uvicorn", "sqlalchemy", "structlog", "keyvisor_firmware", "keyvisor_hsm"}
    ended = process(code=code + LOADED)
    assert ended.err == ""
    assert set(json.loads(ended.out)) & (never | unwanted) == set()


def test_the_package_hands_on_what_it_names_and_nothing_else(process: Callable[..., Any]) -> None:
    code = (
        "import keyvisor_guest as sdk\n"
        "assert sdk.Guest.__module__ == 'keyvisor_guest.guest' and sdk.Host.__module__ == 'keyvisor_guest.host'\n"
        "assert dir(sdk) == sorted(sdk.__all__)\n"
        "assert not hasattr(sdk, 'nothing')"
    )
    assert process(code=code).err == ""
