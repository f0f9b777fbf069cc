"""Policy files of our own grammar: what they mean, and what is said about each thing that is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import (
    DocumentError,
    Interval,
    Pattern,
    Policy,
    Rule,
    Secret,
    SecretId,
    load,
    parse,
    secret_id,
)

MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"

EXAMPLE = f"""\
version: 1
associations:
  - name: payments
    secret: payments-signing
    hsm:
      mode: ep11
      mkvp: 0x{MKVP}
      serial: 93AADFK719460083
      generation: ">=CEX8"
      firmware: ">=8.0"
      api: ">=4"
      compliance: [fips2021]
    count: 1
  - name: tls-offload
    hsm: {{mode: accel, generation: ">=CEX6"}}
"""


def complaints(text: str | bytes) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "p.yaml")
    return [str(finding) for finding in caught.value.findings]


def one_rule(text: str) -> Rule:
    (rule,) = parse("version: 1\nassociations:\n" + text).rules
    return rule


def test_the_example_of_the_design_is_compiled() -> None:
    payments, offload = parse(EXAMPLE).rules
    assert payments == Rule(
        name="payments",
        hsm=Pattern(
            mode="ep11",
            mkvp=bytes.fromhex(MKVP),
            serial="93AADFK719460083",
            generation=Interval(8, None),
            firmware=Interval((8, 0), None),
            api=Interval(4, None),
            compliance=frozenset({"fips2021"}),
        ),
        secret=Secret(secret_id("payments-signing"), "payments-signing"),
        count=1,
        line=3,
        column=5,
    )
    assert offload == Rule("tls-offload", Pattern("accel", generation=Interval(6, None)), None, 1, 14, 5)


def test_the_digest_is_of_the_bytes_that_were_given(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + EXAMPLE.encode()
    path = tmp_path / "p.yaml"
    path.write_bytes(data)
    policy = load(path)
    assert policy.digest == hashlib.sha256(data).digest()
    assert policy.source == str(path)
    assert parse(EXAMPLE).digest == hashlib.sha256(EXAMPLE.encode()).digest()
    assert parse(EXAMPLE).digest != policy.digest


def test_a_file_that_is_not_there_is_a_document_error(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read: no such file"):
        load(tmp_path / "absent.yaml")


def test_the_secret_is_the_rules_name_unless_it_says_otherwise() -> None:
    assert one_rule("- {name: a, hsm: {}}").secret == Secret(secret_id("a"), "a")
    assert one_rule("- {name: a, secret: b, hsm: {mode: ep11}}").secret == Secret(secret_id("b"), "b")
    assert one_rule("- {name: a, hsm: {mode: accel}}").secret is None
    both = one_rule(f"- {{name: a, secret: b, secret_id: 0x{secret_id('b').hex()}, hsm: {{}}}}")
    assert both.secret == Secret(secret_id("b"), "b")


def test_a_secret_given_by_id_only_has_no_name() -> None:
    for spelling in ("12" * 32, "0x" + "12" * 32):
        rule = one_rule(f"- {{name: a, secret_id: {spelling}, hsm: {{}}}}")
        assert rule.secret == Secret(SecretId(b"\x12" * 32))


def test_a_rule_without_a_mode_is_for_ep11_because_it_has_a_secret() -> None:
    assert one_rule("- {name: a, hsm: {}}").hsm == Pattern("ep11")


@pytest.mark.parametrize(
    ("spelling", "interval"),
    [
        (">=CEX8", Interval(8, None)),
        ("<=CEX7", Interval(None, 7)),
        ("==CEX6", Interval(6, 6)),
        ("CEX6..CEX8", Interval(6, 8)),
        (">= cex5", Interval(5, None)),
    ],
)
def test_generations(spelling: str, interval: Interval[int]) -> None:
    assert one_rule(f"- {{name: a, hsm: {{generation: '{spelling}'}}}}").hsm.generation == interval


def test_versions_and_numbers_take_the_same_operators() -> None:
    hsm = one_rule("- {name: a, hsm: {firmware: '7.10..8.2', api: '<=6'}}").hsm
    assert hsm.firmware == Interval((7, 10), (8, 2))
    assert hsm.api == Interval(None, 6)


def test_count() -> None:
    assert one_rule("- {name: a, hsm: {}}").count == 1
    assert one_rule("- {name: a, hsm: {}, count: 12}").count == 12
    assert one_rule("- {name: a, hsm: {}, count: all}").count is None


@pytest.mark.parametrize(
    "digits", ["12345678901234567890123456789012", "1e" * 16, "0" * 32, MKVP.upper(), MKVP + "ff" * 16]
)
@pytest.mark.parametrize("prefix", ["", "0x"])
def test_an_mkvp_is_the_digits_that_stand_there(digits: str, prefix: str) -> None:
    assert one_rule(f"- {{name: a, hsm: {{mkvp: {prefix}{digits}}}}}").hsm.mkvp == bytes.fromhex(digits)[:16]


def test_a_serial_of_digits_needs_no_quotes() -> None:
    assert one_rule("- {name: a, hsm: {serial: 0123456701234567}}").hsm.serial == "0123456701234567"


def test_a_policy_without_associations_allows_nothing() -> None:
    assert parse("version: 1\n").rules == ()


RULE = "version: 1\nassociations:\n"
AT = "p.yaml:3:"
WRONG: list[tuple[str, list[str]]] = [
    (
        "version: 2",
        ["p.yaml:1:10: version: expected `1`, the only version there is, without quotes, found `2`"],
    ),
    (
        "version: '1'",
        ["p.yaml:1:10: version: expected `1`, the only version there is, without quotes, found `1`"],
    ),
    ("{}", ["p.yaml:1:1: the key `version` is missing"]),
    ("text", ["p.yaml:1:1: expected a mapping, found `text`"]),
    ("version: 1\nassociation: []", ["p.yaml:2:1: unknown key `association`; did you mean `associations`?"]),
    (
        "version: 1\nrequests: []",
        ["p.yaml:2:11: requests: expected a mapping, found a list"],
    ),
    (RULE + "- {hsm: {}}", [AT + "3: the key `name` is missing"]),
    (RULE + "- {name: a}", [AT + "3: the key `hsm` is missing"]),
    (RULE + "- a", [AT + "3: associations: expected a mapping, found `a`"]),
    (
        RULE + "- {name: no, hsm: {}}",
        [AT + "10: name: expected text, but YAML reads `no` as a truth value; put it in quotes"],
    ),
    (RULE + "- {name: '', hsm: {}}", [AT + "10: name: expected a name, found an empty text"]),
    (
        RULE + "- {name: ' a', hsm: {}}",
        [
            AT
            + "10: name: expected a name without blanks at its ends or characters that do not print, found ` a`"
        ],
    ),
    (
        RULE + '- {name: "a\\e", hsm: {}}',
        [
            AT
            + "10: name: expected a name without blanks at its ends or characters that do not print, found `a\\x1b`"
        ],
    ),
    (
        RULE + "- {name: a, secret: 012, hsm: {}}",
        [AT + "21: secret: expected text, but YAML reads `012` as a number; put it in quotes"],
    ),
    (
        RULE + "- {name: a, secret: 2024-05-01, hsm: {}}",
        [AT + "21: secret: expected text, but YAML reads `2024-05-01` as a date; put it in quotes"],
    ),
    (
        RULE + "- {name: a, secret_id: 0x12, hsm: {}}",
        [AT + "24: secret_id: expected 64 hex digits, found `0x12`"],
    ),
    (RULE + "- {name: a, hsm: {mod: ep11}}", [AT + "19: unknown key `mod`; did you mean `mode`?"]),
    (
        RULE + "- {name: a, hsm: {mode: EP11}}",
        [AT + "25: mode: expected `ep11` or `accel`, found `EP11`; did you mean `ep11`?"],
    ),
    (
        RULE + "- {name: a, hsm: {mode: cca}}",
        [AT + "25: mode: expected `ep11` or `accel`, found `cca`; a CCA HSM can never be bound"],
    ),
    (
        RULE + "- {name: a, hsm: {mkvp: 0xdb3c}}",
        [AT + "25: mkvp: expected 32 or 64 hex digits, found `0xdb3c`"],
    ),
    (
        RULE + "- {name: a, hsm: {serial: 93AADFK71946008}}",
        [AT + "27: serial: expected exactly 16 characters without blanks, found `93AADFK71946008`"],
    ),
    (
        RULE + "- {name: a, hsm: {serial: 93AADFK 19460083}}",
        [AT + "27: serial: expected exactly 16 characters without blanks, found `93AADFK 19460083`"],
    ),
    (
        RULE + "- {name: a, hsm: {generation: CEX8}}",
        [
            AT
            + "31: generation: expected an operator, as in `>=CEX8`, `==CEX8`, `<=CEX8` or `CEX6..CEX8`, found `CEX8`"
        ],
    ),
    (
        RULE + "- {name: a, hsm: {generation: '>=CEX9'}}",
        [
            AT
            + "31: generation: in `>=CEX9`: expected `CEX4`, `CEX5`, `CEX6`, `CEX7` or `CEX8`, found `CEX9`; did you mean `CEX8`?"
        ],
    ),
    (
        RULE + "- {name: a, hsm: {generation: CEX8..CEX6}}",
        [AT + "31: generation: in `CEX8..CEX6`: the range is empty, its first end is above its last"],
    ),
    (
        RULE + "- {name: a, hsm: {firmware: '>=8'}}",
        [AT + "29: firmware: in `>=8`: expected a version such as `8.0`, found `8`"],
    ),
    (
        RULE + "- {name: a, hsm: {api: '>4'}}",
        [AT + "24: api: expected an operator, as in `>=4`, `==4`, `<=4` or `2..4`, found `>4`"],
    ),
    (
        RULE + "- {name: a, hsm: {api: '>='}}",
        [AT + "24: api: in `>=`: expected a whole number, found an empty text"],
    ),
    (
        RULE + "- {name: a, hsm: {compliance: fips2021}}",
        [AT + "31: compliance: expected a list, found `fips2021`"],
    ),
    (
        RULE + "- {name: a, hsm: {compliance: [2021]}}",
        [AT + "32: compliance: expected text, but YAML reads `2021` as a number; put it in quotes"],
    ),
    (
        RULE + "- {name: a, hsm: {}, count: 0}",
        [AT + "29: count: expected a whole number from 1 to 65536, or `all`, found `0`"],
    ),
    (
        RULE + "- {name: a, hsm: {}, count: [1]}",
        [AT + "29: count: expected a whole number from 1 to 65536, or `all`, found a list"],
    ),
    (
        RULE + "- {name: a, hsm: {}, count: All}",
        [AT + "29: count: expected a whole number from 1 to 65536, or `all`, found `All`"],
    ),
    (
        RULE + "- {name: a, hsm: {mode: accel}, secret: b}",
        [AT + "33: secret: an accelerator is bound and never associated; remove `secret`"],
    ),
    (
        RULE + "- {name: a, hsm: {}}\n- {name: a, hsm: {}}",
        ["p.yaml:4:10: name: `a` is the name of another rule already, in line 3"],
    ),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_each_error_is_said_at_its_place(text: str, said: list[str]) -> None:
    assert complaints(text) == said


def test_part2_T5_a_name_and_an_id_that_disagree_are_refused() -> None:
    text = RULE + f"- {{name: a, secret: b, secret_id: 0x{'12' * 32}, hsm: {{}}}}"
    expected = f"differs from the id of `b`, which is `{secret_id('b').hex()}`; drop one of them"
    assert complaints(text) == [AT + "35: secret_id: " + expected]


def test_all_errors_are_said_at_once_in_the_files_order() -> None:
    text = """\
versoin: 1
requests: []
associations:
  - name: payments
    name: twice
    secret: no
    hsm: {mode: ep12, serial: short, generation: CEX8}
  - name: payments
    hsm: {mode: accel}
    secret_id: 0x12
  - hsm:
"""
    assert complaints(text) == [
        "p.yaml:1:1: the key `version` is missing",
        "p.yaml:1:1: unknown key `versoin`; did you mean `version`?",
        "p.yaml:2:11: requests: expected a mapping, found a list",
        "p.yaml:5:5: the key `name` is given twice, first in line 4",
        "p.yaml:6:13: secret: expected text, but YAML reads `no` as a truth value; put it in quotes",
        "p.yaml:7:17: mode: expected `ep11` or `accel`, found `ep12`; did you mean `ep11`?",
        "p.yaml:7:31: serial: expected exactly 16 characters without blanks, found `short`",
        "p.yaml:7:50: generation: expected an operator, as in `>=CEX8`, `==CEX8`, `<=CEX8` or `CEX6..CEX8`, found `CEX8`",
        "p.yaml:8:11: name: `payments` is the name of another rule already, in line 4",
        "p.yaml:10:5: secret_id: an accelerator is bound and never associated; remove `secret_id`",
        "p.yaml:10:16: secret_id: expected 64 hex digits, found `0x12`",
        "p.yaml:11:5: the key `name` is missing",
        "p.yaml:11:9: a value is missing here; leave the key out where nothing is meant",
    ]


def test_rules_are_counted() -> None:
    rules = [f"- {{name: r{number}, hsm: {{}}}}\n" for number in range(10_001)]
    assert len(parse(RULE + "".join(rules[:-1])).rules) == 10_000
    assert complaints(RULE + "".join(rules)) == [
        "p.yaml:10003:3: more than the 10000 rules that a policy may have"
    ]
    assert complaints("- {}\n" * 10_001) == [
        "p.yaml:10001:3: more than the 10000 rules that a policy may have"
    ]


WORDS = [
    "version: 1\n",
    "associations:\n",
    "- name: a\n",
    "  hsm: {",
    "mode: ep11",
    "mode: accel",
    ", ",
    "}\n",
    "  count: all\n",
]
WORDS += [
    "mkvp: 0x" + MKVP,
    "  secret: b\n",
    "  secret_id: 0x12\n",
    "&a ",
    "*a",
    "- ",
    "  ",
    "[",
    "]",
    "'",
    "\n",
    ": ",
    "cases: 1\n",
    "é",
]


@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join))
def test_any_heap_of_the_grammars_words_is_a_policy_or_refused(text: str) -> None:
    parse_or_refuse(text)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_policy_or_refused(data: bytes) -> None:
    parse_or_refuse(data)


def test_the_example_with_changed_bytes_is_a_policy_or_refused() -> None:
    dice = random.Random(11)  # noqa: S311  (reproducible damage, not secrets)
    for _ in range(1000):
        damaged = bytearray(EXAMPLE.encode())
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.choice(b"\x00\xff \n\t:-[]{}'\"&*#!|>0aZ")
        parse_or_refuse(bytes(damaged))


def parse_or_refuse(data: str | bytes) -> None:
    with contextlib.suppress(DocumentError):
        assert isinstance(parse(data), Policy)
