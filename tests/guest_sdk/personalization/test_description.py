"""The file that says how a guest is furnished: read strictly, everything wrong told at once with its place."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from keyvisor_guest.personalization.description import (
    Description,
    PlacedSecret,
    load,
    parse,
    read_contents,
)
from keyvisor_policy.errors import DocumentError

HOME = Path("/home/guest")

WHOLE = """\
version: 1
user: user.crt
contents: contents.txt
files:
  - {secret: tls-certificate, path: tls/server.crt, mode: "0644"}
keys:
  - {secret: tls-key, path: tls/server.key}
apply: true
command: [./start, --now]
"""


def test_all_of_it() -> None:
    assert parse(WHOLE, "p.yaml", HOME) == Description(
        user=HOME / "user.crt",
        contents=HOME / "contents.txt",
        files=(PlacedSecret("tls-certificate", PurePosixPath("tls/server.crt"), 0o644),),
        keys=(PlacedSecret("tls-key", PurePosixPath("tls/server.key"), 0o600),),
        apply=True,
        command=("./start", "--now"),
    )


def test_next_to_nothing_is_enough() -> None:
    assert parse("version: 1\n", "p.yaml", HOME) == Description()


@pytest.mark.parametrize(
    ("line", "place", "why"),
    [
        ('files: [{secret: a, path: ../b, mode: "0600"}]', "2:27", "below the root"),
        ('files: [{secret: a, path: /b, mode: "0600"}]', "2:27", "below the root"),
        ("files: [{secret: a, path: b, mode: 0600}]", "2:36", None),
        ('files: [{secret: a, path: b, mode: "4755"}]', "2:36", "four octal digits"),
        ("files: [{secret: a, path: b}, {secret: c, path: b}]", "2:49", "cannot stand beside"),
        ("keys: [{secret: a, path: b/c}, {secret: d, path: b}]", "2:50", "cannot stand beside"),
        ("file: []", "2:1", "did you mean `files`"),
        ("apply: yes", "2:8", "true"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(line: str, place: str, why: str | None) -> None:
    if why is None:
        assert parse(f"version: 1\n{line}\n", "p.yaml", HOME).files[0].mode == 0o600
        return
    with pytest.raises(DocumentError) as refused:
        parse(f"version: 1\n{line}\n", "p.yaml", HOME)
    message = str(refused.value.findings[0])
    assert message.startswith(f"p.yaml:{place}: ")
    assert why in message


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DocumentError) as refused:
        parse("version: 2\nfiles: [{secret: a, path: ..}]\ncommands: []\n", "p.yaml", HOME)
    assert len(refused.value.findings) == 3


def test_names_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(WHOLE)
    assert load(tmp_path / "p.yaml").user == tmp_path / "user.crt"


def test_a_table_of_contents() -> None:
    assert read_contents(f"{'01' * 16}\n\n  {'Ab' * 16} \n") == (b"\x01" * 16, b"\xab" * 16)
    with pytest.raises(ValueError, match="line 2 is no request's tag"):
        read_contents(f"{'01' * 16}\n{'01' * 15}\n")
