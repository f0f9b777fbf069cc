"""What docs/policy.md tells an author to write and type, written and typed: in its order, with the output that it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
TUTORIAL = PAGE.partition("## From an empty file")[2].partition("\n## ")[0]
CASES, NEVER, PROVED = TUTORIAL.partition("### What can never happen")
BLOCK = re.compile(r"```(yaml|text)\n(.*?)```|^((?:    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)


def follow(text: str, directory: Path) -> Iterator[str]:
    """Do what the text says; yields every command that was run."""
    said = ""
    end = 0
    for block in BLOCK.finditer(text):
        words, end = text[end : block.start()], block.end()
        if block[1] == "yaml":
            (how, name) = re.findall(r"(Write|Add to) `([a-z.]+)`", words)[-1]
            with (directory / name).open("w" if how == "Write" else "a", encoding="utf-8") as file:
                file.write(block[2])
        elif block[1] == "text":
            shown = "".join(f"{line.rstrip()}\n" for line in said.splitlines())
            assert shown == block[2]
        else:
            said = ""
            for line in block[3].splitlines():
                command, _, code = line.strip().partition("    # exit code ")
                said += typed(command, int(code or 0), directory)
                yield command


def typed(command: str, code: int, directory: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}"
    return done.stdout


def test_the_tutorial_up_to_its_cases_works_as_written(tmp_path: Path) -> None:
    commands = list(follow(CASES, tmp_path))
    assert len(commands) == 13
    assert {command.split()[2] for command in commands if command.startswith("keyvisor")} == {
        "schema",
        "check",
        "plan",
        "explain",
        "test",
    }


def test_the_whole_tutorial_ends_in_a_proved_policy(tmp_path: Path) -> None:
    commands = list(follow(CASES + NEVER + PROVED, tmp_path))
    assert "keyvisor policy prove policy.yaml" in commands
    assert (tmp_path / "test.xml").exists()
