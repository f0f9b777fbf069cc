"""The strict reader on its own, with a configuration such as any package may have."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from keyvisor_policy.strict_yaml import (
    Boolean,
    DocumentError,
    Finding,
    Integer,
    Limits,
    Plain,
    StrictModel,
    Text,
    Verbatim,
    read_document,
    read_file,
    validate,
)
from keyvisor_policy.strict_yaml.scalars import surprise

CONFIG = """\
name: frankfurt        # a comment
guests: 12
audit: true
colour: red
ids: [0x0f, 012, "1"]
limits:
  sessions: 3
"""


class Bounds(StrictModel):
    sessions: Integer = 1


class Config(StrictModel):
    name: Text
    guests: Integer
    audit: Boolean = False
    colour: Literal["red", "green"] = "red"
    ids: list[Verbatim] = []  # noqa: RUF012  (pydantic copies defaults)
    limits: Bounds = Bounds()


def read(text: str | bytes) -> Config:
    return validate(read_document(text, "c.yaml"), Config)


def complaints(text: str | bytes) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        read(text)
    assert str(caught.value) == "\n".join(map(str, caught.value.findings))
    return [str(finding) for finding in caught.value.findings]


def test_a_config_is_read_as_it_is_written() -> None:
    config = read(CONFIG)
    assert config.name == "frankfurt"
    assert (config.guests, config.audit, config.colour) == (12, True, "red")
    assert config.ids == ["0x0f", "012", "1"]
    assert config.limits.sessions == 3
    assert type(config.name) is str


def test_scalars_remember_their_quotes() -> None:
    data = read_document("[a, 'a', \"a\", |\n  a\n]".replace("|\n  a\n", "b"), "x").data
    assert [type(item) for item in data] == [Plain, str, str, Plain]  # type: ignore[attr-defined]  # it is a list


def test_places_count_from_one_and_fall_back_to_what_contains() -> None:
    document = read_document(CONFIG, "c.yaml")
    assert document.place(()) == (1, 1)
    assert document.place(("guests",)) == (2, 9)
    assert document.place(("ids", 1)) == (5, 13)
    assert document.place(("limits", "sessions")) == (7, 13)
    assert document.key_place(("limits", "sessions")) == (7, 3)
    assert document.place(("limits", "missing")) == (7, 3)
    assert document.place(("missing", "further", 3)) == (1, 1)


# One row per check: the broken file, and everything that is said about it.
BROKEN: list[tuple[str | bytes, list[str]]] = [
    ("", ["c.yaml:1:1: the file is empty"]),
    ("# nothing\n", ["c.yaml:1:1: the file is empty"]),
    ("a: [1", ["c.yaml:1:6: expected `,` or the closing `]`"]),
    ("a:\n\tb: 1", ["c.yaml:2:1: a tab where a space must be; indent with spaces"]),
    ("a: >=CEX8", ['c.yaml:1:5: a value that begins with `>` or `|` must stand in quotes, as in `">=CEX8"`']),
    ("a: b: c", ["c.yaml:1:5: a `:` that belongs to no key; put the value in quotes"]),
    ("a: @b", ["c.yaml:1:4: `@` cannot begin a value; put the value in quotes"]),
    ("a: 'b", ["c.yaml:1:6: a quote is not closed"]),
    ('a: "\\q"', ["c.yaml:1:6: an unknown escape; write `\\\\` for a backslash"]),
    ('a: "\\xg0"', ["c.yaml:1:7: an escape that is cut off or not hexadecimal"]),
    ('a: "\\U00110000"', ["c.yaml:1:7: a number in an escape or a directive is out of every range"]),
    ('a: "\\Uffffffff"', ["c.yaml:1:7: a number in an escape or a directive is out of every range"]),
    ("a: \x07", ["c.yaml:1:4: the character `\\x07` may not be in a file"]),
    (
        "a: x\u2028y",
        [
            "c.yaml:1:5: `\\u2028` is a line break that editors hide; remove it, or write it as an escape in double quotes"
        ],
    ),
    (b"a: 1\nb: \xff", ["c.yaml:2:4: byte 0xff is not UTF-8; save the file as UTF-8"]),
    (
        "name: x\ud800",
        ["c.yaml:1:8: `\\ud800` is half a character; remove it, or write it as an escape in double quotes"],
    ),
    ("x: &a [*a]", ["c.yaml:1:8: the alias `*a` stands inside the value that it names"]),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_what_ends_the_reading_is_said_at_its_place(text: str | bytes, said: list[str]) -> None:
    assert complaints(text) == said


GOOD = "name: x\nguests: 1\n"
READ_AROUND: list[tuple[str, list[str]]] = [
    ("name: y", ["c.yaml:3:1: the key `name` is given twice, first in line 1"]),
    ("'name': y", ["c.yaml:3:1: the key `name` is given twice, first in line 1"]),
    ("limits:", ["c.yaml:3:8: a value is missing here; leave the key out where nothing is meant"]),
    ("? [a]\n: 1", ["c.yaml:3:3: a key must be text"]),
    ("? \n: 1", ["c.yaml:3:2: a key must be text"]),
    ("<<: {audit: true}", ["c.yaml:3:1: merge keys (`<<`) are not supported; write the keys out"]),
    (
        "ids: [!!str 012]",
        ["c.yaml:3:7: tags (`!`) are not supported; put a value that begins with `!` in quotes"],
    ),
    ("ids: [*b]", ["c.yaml:3:7: the alias `*b` names no anchor before it"]),
    ("ids: [&b x, &b y]", ["c.yaml:3:13: the anchor `&b` is given twice"]),
    ('ids: ["\\ud83d"]', ["c.yaml:3:7: `\\ud83d` holds half a character; write the whole one"]),
    ("---\nname: z", ["c.yaml:3:1: a second document begins here; a file holds one"]),
    ("naem: y", ["c.yaml:3:1: unknown key `naem`; did you mean `name`?"]),
    (
        "zzz: y",
        ["c.yaml:3:1: unknown key `zzz`; expected `name`, `guests`, `audit`, `colour`, `ids` or `limits`"],
    ),
    ("limits: {sesions: 1}", ["c.yaml:3:10: unknown key `sesions`; did you mean `sessions`?"]),
    ("limits: 3", ["c.yaml:3:9: limits: expected a mapping, found `3`"]),
    ("ids: x", ["c.yaml:3:6: ids: expected a list, found `x`"]),
    ("ids: [{a: b}]", ["c.yaml:3:7: ids: expected text, found a mapping"]),
    ("audit: yes", ["c.yaml:3:8: audit: expected `true` or `false`, found `yes`"]),
    ("audit: 'true'", ["c.yaml:3:8: audit: expected `true` or `false`, found `true` in quotes"]),
    ("audit: True", ["c.yaml:3:8: audit: expected `true` or `false`, found `True`"]),
    (
        "colour: grean",
        ["c.yaml:3:9: colour: expected `red` or `green`, found `grean`; did you mean `green`?"],
    ),
    (
        "limits: {sessions: '3'}",
        ["c.yaml:3:20: sessions: expected a whole number in plain decimal digits, found `3` in quotes"],
    ),
]


@pytest.mark.parametrize(("line", "said"), READ_AROUND)
def test_what_can_be_read_around_is_said_at_its_place(line: str, said: list[str]) -> None:
    assert complaints(GOOD + line) == said


def test_everything_wrong_is_said_in_one_run_in_the_files_order() -> None:
    text = "naem: x\nguests: 012\naudit: no\naudit: true\nids: [!!str a]\nlimits: {sessions: }\n"
    assert complaints(text) == [
        "c.yaml:1:1: the key `name` is missing",
        "c.yaml:1:1: unknown key `naem`; did you mean `name`?",
        "c.yaml:2:9: guests: expected a whole number in plain decimal digits, found `012`",
        "c.yaml:3:8: audit: expected `true` or `false`, found `no`",
        "c.yaml:4:1: the key `audit` is given twice, first in line 3",
        "c.yaml:5:7: tags (`!`) are not supported; put a value that begins with `!` in quotes",
        "c.yaml:6:19: a value is missing here; leave the key out where nothing is meant",
    ]


@pytest.mark.parametrize(
    "spelling", ["012", "1e3", "0x1", "1_000", "+1", "-1", "1.0", "1:30", "one", "9" * 19, "٣"]
)
def test_a_number_has_one_spelling(spelling: str) -> None:
    assert len(complaints(f"name: x\nguests: {spelling}\n")) == 1


SURPRISES = [
    "no",
    "Yes",
    "on",
    "OFF",
    "y",
    "true",
    "null",
    "~",
    "012",
    "0o17",
    "0x1f",
    "0b1",
    "1_000",
    "1:30",
    "190:20:30",
]
SURPRISES += [
    "1e3",
    "1.5",
    ".5",
    "6.02e+23",
    "-.inf",
    ".NaN",
    "2024-05-01",
    "2001-12-14t21:59:43.10-05:00",
    "=",
]


@pytest.mark.parametrize("spelling", SURPRISES)
def test_text_that_yaml_would_take_for_something_else_needs_quotes(spelling: str) -> None:
    (said,) = complaints(f"name: {spelling}\nguests: 1\n")
    assert said.startswith("c.yaml:1:7: name: expected text, but YAML reads ")
    assert said.endswith("; put it in quotes")
    assert read(f"name: '{spelling}'\nguests: 1\n").name == spelling


@given(st.text(alphabet="0123456789abcdefoxyYnNtrueTlsLO~.:-+_eEinf =<TZ", min_size=1, max_size=12))
@example("685_230.15")
@example("0.")
@example("-1:59:59")
def test_no_guess_of_pyyaml_is_missed(spelling: str) -> None:
    resolver = yaml.resolver.Resolver()
    tag = resolver.resolve(yaml.ScalarNode, spelling, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's stubs
    if tag != "tag:yaml.org,2002:str":
        assert surprise(spelling) is not None, tag


def test_aliases_are_followed_and_their_errors_stand_at_the_anchor() -> None:
    assert read("name: &n hall\nguests: 1\nids: [*n, *n]").ids == ["hall", "hall"]
    assert complaints("name: &n 012\nguests: *n\n") == [
        "c.yaml:1:7: name: expected text, but YAML reads `012` as a number; put it in quotes",
        "c.yaml:1:7: guests: expected a whole number in plain decimal digits, found `012`",
    ]


def test_aliases_cannot_grow_without_bound() -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    (said,) = complaints(laughs)
    assert "more than the 200000 values that a file may have, aliases written out" in said


def test_depth_is_bounded_with_and_without_aliases() -> None:
    assert "nested deeper than the 32 levels" in complaints("a: " + "[" * 100_000)[0]
    assert "nested deeper than the 32 levels" in complaints("- " * 40_000 + "a")[0]
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 40))
    assert "nested deeper than the 32 levels" in complaints(chain)[0]


def test_length_is_bounded_before_anything_is_read() -> None:
    assert read(GOOD + "#" * ((1 << 20) - len(GOOD))).name == "x"
    for text in (GOOD + "#" * ((1 << 20) - len(GOOD) + 1), b"\xff" * ((1 << 20) + 1), "é" * (1 << 19) + "x"):
        assert complaints(text) == ["c.yaml:1:1: longer than the 1048576 bytes that a file may have"]


def test_limits_are_the_callers() -> None:
    limits = Limits(length=64, values=4, depth=2, findings=2)
    for text in ("x" * 65, "[1, 2, 3, 4]", "[[[1]]]", "[!a x, !b y, !c z]"):
        with pytest.raises(DocumentError):
            read_document(text, "c.yaml", limits=limits)


def test_findings_are_bounded() -> None:
    said = complaints(GOOD + "ids: [" + "{}," * 3000 + "]")
    assert len(said) == 1001
    assert said[-1].endswith("2000 more errors from here on are left out")
    said = complaints("a: 1\n" * 3000)
    assert len(said) == 1001
    assert said[-1] == "c.yaml:1001:1: reading ends here, after 1000 errors"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read(b"\xef\xbb\xbf" + CONFIG.encode()).name == "frankfurt"


def test_data_of_a_document_with_findings_is_not_handed_out() -> None:
    document = read_document("a: 1\na: 2", "c.yaml")
    with pytest.raises(DocumentError, match="given twice"):
        _ = document.data


def test_hostile_words_reach_a_terminal_only_escaped_and_cut() -> None:
    (said,) = complaints(GOOD + 'colour: "\\e[31m`' + "k" * 5000 + '"')
    assert "\x1b" not in said
    assert "`\\x1b[31m\\x60kkk" in said
    assert len(said) < 250
    with pytest.raises(DocumentError) as caught:
        read_document("", "a\nb\x1b.yaml")
    assert str(caught.value) == "a?b?.yaml:1:1: the file is empty"


def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(DocumentError, match="1:1: cannot be read: "):
            read_file(path)
    with pytest.raises(DocumentError, match="cannot be read"):
        read_file("a\0b")


def test_no_more_of_a_file_is_read_than_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_bytes(b"#" * ((1 << 20) + 100))
    assert len(read_file(path)) == (1 << 20) + 1


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try_to_read(data)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try_to_read(text)


@given(
    st.lists(
        st.sampled_from(
            [*"&*!%@`?:-,[]{}|>#'\"\\ \n\t", "a", "0", "\\U", "\\x", "%YAML 1.1\n", "---\n", "...\n", "<<"]
        ),
        max_size=40,
    )
)
@example(list("%YAML " + "9" * 5000 + ".1\n--- x"))
@example(list("%TAG ! tag:x,2000:\n--- !a x"))
@example(list("!<%ff> x"))
@example(list("[" * 200))
def test_any_heap_of_yaml_signs_is_read_or_refused(pieces: list[str]) -> None:
    try_to_read("".join(pieces))


def test_good_files_with_changed_bytes_are_read_or_refused() -> None:
    dice = random.Random(7)  # noqa: S311  (reproducible damage, not secrets)
    for _ in range(2000):
        damaged = bytearray(CONFIG.encode())
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try_to_read(bytes(damaged))


@given(st.text(alphabet=string.ascii_letters + string.digits + "x_.-", min_size=1, max_size=40))
def test_verbatim_text_is_exactly_what_was_written(text: str) -> None:
    assert read(f"{GOOD}ids: [a{text}, '{text}', \"{text}\"]\n").ids == ["a" + text, text, text]


def try_to_read(data: str | bytes) -> None:
    for finding in refusal(data):
        assert finding.line >= 1
        assert finding.column >= 1
        assert "\n" not in str(finding)
        assert finding.message == finding.message.rstrip(".")


def refusal(data: str | bytes) -> tuple[Finding, ...]:
    """What is said about the data; nothing where it is a config."""
    try:
        read(data)
    except DocumentError as error:
        return error.findings or (Finding("nothing was said", 0, 0, ""),)
    return ()
