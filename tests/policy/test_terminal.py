"""How every verb talks: nothing that it prints steers a terminal."""

from __future__ import annotations

import json

import pytest
import typer

from keyvisor_policy.terminal import fail, print_json, print_table, printable

HOSTILE = "\x1b[2J\x9b\u202e\n\r\x7f"
ESCAPED = "\\x1b[2J\\x9b\\u202e\\n\\r\\x7f"


def test_what_can_be_printed_stays_as_it_is() -> None:
    assert printable("größer als `x` — 12 €") == "größer als `x` — 12 €"
    assert printable(HOSTILE) == ESCAPED


def test_the_cells_of_a_table_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "what"), [(HOSTILE, "[red]x[/red]")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "what"],
        [ESCAPED, "[red]x[/red]"],
    ]


def test_each_line_of_an_error_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail("no guest `\x1b[2J\x9b`\nand no other")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "error: no guest `\\x1b[2J\\x9b`\nerror: and no other\n"


def test_json_is_ascii_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": f"{HOSTILE}ß\U000e0001"})
    told = capsys.readouterr().out
    assert told.replace("\n", "").isascii()
    assert told.replace("\n", "").isprintable()
    assert json.loads(told) == {"name": f"{HOSTILE}ß\U000e0001"}
