"""pvapconfig files: every rule of its format, each with a broken twin (formats, F.1)."""

from __future__ import annotations

import hashlib

import pytest

from keyvisor_policy import DocumentError, Interval, Pattern, Rule, Secret, SecretId, parse, secret_id

MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"
KEY = bytes.fromhex(MKVP)


def rules(text: str) -> tuple[Rule, ...]:
    policy = parse(text)
    assert policy.grammar == "pvapconfig"
    return policy.rules


def one(fields: str) -> Rule:
    (rule,) = rules(f"- {{{fields}}}\n")
    return rule


def complaints(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "p.yaml")
    return [str(finding) for finding in caught.value.findings]


def test_a_file_as_its_manual_shows_it_compiles_to_the_same_model() -> None:
    text = f"""\
- name: my EP11 APQN 1
  description: "first one"
  mode: EP11
  mkvp: 0x{MKVP.upper()}
  serialnr: 93AADFK719460083
  mingen: CEX8
- name: my Accelerator
  mode: Accel
  mingen: cex6
"""
    name = "my EP11 APQN 1"
    pattern = Pattern("ep11", KEY, "93AADFK719460083", Interval(8, None))
    assert rules(text) == (
        Rule(name, pattern, Secret(secret_id(name), name), 1, 1, 3),
        Rule("my Accelerator", Pattern("accel", generation=Interval(6, None)), None, 1, 7, 3),
    )


def test_an_empty_list_is_a_policy_without_rules() -> None:
    assert rules("[]") == ()


@pytest.mark.parametrize("mode", ["EP11", "ep11", "Ep11"])
def test_the_mode_is_in_any_case(mode: str) -> None:
    assert one(f"mode: {mode}, name: a, mkvp: {MKVP}").hsm.mode == "ep11"
    assert one("mode: ACCEL").hsm == Pattern("accel")


def test_of_64_digits_the_first_32_count() -> None:
    assert one(f"mode: EP11, name: a, mkvp: 0x{MKVP}{'ff' * 16}").hsm.mkvp == KEY


def test_values_count_as_they_stand() -> None:
    rule = one(f"mode: EP11, name: no, mkvp: {'1' * 32}, serialnr: 0123456701234567")
    assert rule.secret == Secret(secret_id("no"), "no")
    assert rule.hsm.serial == "0123456701234567"
    assert rule.hsm.mkvp == b"\x11" * 16


def test_an_empty_text_is_as_good_as_none() -> None:
    assert one(f"mode: EP11, name: a, mkvp: {MKVP}, serialnr: '', mingen: '', secretid: ''").hsm == Pattern(
        "ep11", KEY
    )


def test_the_id_is_of_the_trimmed_name() -> None:
    rule = one(f'mode: EP11, name: " a\\u2003\\x85", mkvp: {MKVP}')
    assert rule.secret == Secret(SecretId(hashlib.sha256(b"a").digest()), "a")
    assert one(f'mode: EP11, name: "a\\x1f", mkvp: {MKVP}').secret == Secret(secret_id("a\x1f"), "a\x1f")


def test_an_id_alone_names_the_secret() -> None:
    rule = one(f"mode: EP11, secretid: 0x{'1A' * 32}, mkvp: {MKVP}")
    assert rule.secret == Secret(SecretId(b"\x1a" * 32))
    assert rule.name == "entry 1"


def test_an_id_that_agrees_with_the_name_is_taken() -> None:
    rule = one(f"mode: EP11, name: a, secretid: {secret_id('a').hex()}, mkvp: {MKVP}")
    assert rule.secret == Secret(secret_id("a"), "a")


def test_an_accelerators_mkvp_serial_and_secret_are_dropped() -> None:
    assert one("mode: Accel, mkvp: junk, serialnr: junk, secretid: junk") == Rule(
        "entry 1", Pattern("accel"), None, 1, 1, 3
    )


def test_mingen_means_at_least() -> None:
    assert one("mode: Accel, mingen: CEX4").hsm.generation == Interval(4, None)
    assert one(f"mode: EP11, mingen: cEx8, name: a, mkvp: {MKVP}").hsm.generation == Interval(8, None)


def test_names_need_not_differ() -> None:
    assert len(rules("- {mode: Accel, name: a}\n- {mode: Accel, name: a}\n")) == 2


EP11 = f"mode: EP11, mkvp: {MKVP}"
WRONG: list[tuple[str, str]] = [
    ("name: a", "3: the key `mode` is missing"),
    ("mode: ''", "10: mode: expected `EP11` or `Accel`, found an empty text"),
    (
        "mode: EP11, name: a, mkvp: ''",
        "31: mkvp: expected 32 or 64 hex digits for an EP11 entry, found an empty text",
    ),
    ("mode: EP12", "10: mode: expected `EP11` or `Accel`, found `EP12`; did you mean `EP11`?"),
    ("mode: CCA", "10: mode: expected `EP11` or `Accel`, found `CCA`"),
    ("mode: [EP11]", "10: mode: expected text, found a list"),
    ("mode: EP11, name: a", "3: the key `mkvp` is missing"),
    (f"mode: EP11, name: a, mkvp: {MKVP[1:]}", f"31: mkvp: expected 32 or 64 hex digits, found `{MKVP[1:]}`"),
    (
        f"mode: EP11, name: a, mkvp: x{MKVP[1:]}",
        f"31: mkvp: expected 32 or 64 hex digits, found `x{MKVP[1:]}`",
    ),
    (
        f"{EP11}, name: a, serialnr: 93AADFK71946008",
        "75: serialnr: expected exactly 16 characters without blanks, found `93AADFK71946008`",
    ),
    (
        f"{EP11}, name: a, serialnr: '93AADFK 19460083'",
        "75: serialnr: expected exactly 16 characters without blanks, found `93AADFK 19460083`",
    ),
    (
        f"{EP11}, name: a, mingen: CEX7",
        "73: mingen: expected `CEX8`, the only generation for EP11, found `CEX7`",
    ),
    (
        "mode: Accel, mingen: CEX3",
        "25: mingen: expected `CEX4`, `CEX5`, `CEX6`, `CEX7` or `CEX8`, found `CEX3`; did you mean `CEX8`?",
    ),
    (
        "mode: Accel, mingen: '>=CEX4'",
        "25: mingen: expected `CEX4`, `CEX5`, `CEX6`, `CEX7` or `CEX8`, found `>=CEX4`; did you mean `CEX4`?",
    ),
    (EP11, "3: one of the keys `name` and `secretid` is needed in an EP11 entry"),
    (f"{EP11}, name: ' '", "3: one of the keys `name` and `secretid` is needed in an EP11 entry"),
    (f"{EP11}, secretid: 12", "66: secretid: expected 64 hex digits, found `12`"),
    ("mode: Accel, serial: a", "17: unknown key `serial`; did you mean `serialnr`?"),
    (
        "mode: Accel, count: 2",
        "17: unknown key `count`; expected `name`, `description`, `mode`, `mkvp`, `serialnr`, `mingen` or `secretid`",
    ),
    ("mode: Accel, mode: Accel", "17: the key `mode` is given twice, first in line 1"),
    ("mode: Accel, name: ", "22: a value is missing here; leave the key out where nothing is meant"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_each_error_is_said_at_its_place(fields: str, said: str) -> None:
    assert complaints(f"- {{{fields}}}") == [f"p.yaml:1:{said}"]


def test_part2_T5_an_id_that_disagrees_with_the_name_is_refused() -> None:
    said = f"differs from the id of `a`, which is `{secret_id('a').hex()}`; drop one of them"
    assert complaints(f"- {{{EP11}, name: a, secretid: {'12' * 32}}}") == [f"p.yaml:1:75: secretid: {said}"]


def test_one_invalid_entry_stops_the_file_and_all_are_named() -> None:
    assert complaints(f"- {{mode: Accel}}\n- 4\n- {{mode: EP12}}\n- {{{EP11}, name: {{}}}}\n") == [
        "p.yaml:2:3: expected a mapping, found `4`",
        "p.yaml:3:10: mode: expected `EP11` or `Accel`, found `EP12`; did you mean `EP11`?",
        "p.yaml:4:62: name: expected text, found a mapping",
    ]


# formats, F.1, row by row: what an otherwise right entry may have in one key. None is a key that is left out.
ID = secret_id("a").hex()
NBSP = "\\u00a0"
USUAL = {"ep11": {"mode": "EP11", "name": "a", "mkvp": MKVP}, "accel": {"mode": "Accel"}}
TABLE: list[tuple[str, str, list[str | None], list[str | None]]] = [
    (
        "ep11",
        "mode",
        ["EP11", "ep11", '" eP11\\t"', "'EP11'"],
        [None, "''", "EP 11", "EP1", "CCA", "accel11"],
    ),
    ("accel", "mode", ["Accel", "aCCEL", f'"{NBSP}accel "'], [None, "Accelerator", "CCA", "~", "no"]),
    (
        "ep11",
        "mkvp",
        [
            MKVP,
            MKVP.upper(),
            f"0x{MKVP}",
            f"0X{MKVP}",
            MKVP * 2,
            f"0x{MKVP}{'AB' * 16}",
            f'" {MKVP} "',
            "1" * 32,
        ],
        [None, "''", "' '", MKVP[:-1], f"{MKVP}a", MKVP * 2 + "0", f"0x0x{MKVP}", f"'{MKVP[:30]}gg'", "0x"],
    ),
    (
        "ep11",
        "serialnr",
        [
            None,
            "''",
            "'  '",
            "93AADFK719460083",
            "93aadhzu42082261",
            "'*AADFK719460083\\'",
            "0123456701234567",
            "' 93AADFK719460083 '",
            "2026-11-24T18:40",
        ],
        [
            "93AADFK71946008",
            "93AADFK7194600831",
            "'93AADFK 19460083'",
            f'"93AADFK{NBSP}19460083"',
            '"93AADFK\\x0119460083"',
        ],
    ),
    (
        "ep11",
        "mingen",
        [None, "''", "CEX8", "cex8", "cEX8", "' CEX8 '"],
        [*"78", "CEX7", "CEX9", "CEX08", "'>=CEX8'"],
    ),
    (
        "accel",
        "mingen",
        [None, "''", "CEX4", "cex5", "Cex6", "CEX7", "CEX8", "' cex8'"],
        ["CEX3", "CEX9", "CEX10", "8", "CEX", "CEX4A", "CEX6..CEX8", "no"],
    ),
    (
        "ep11",
        "secretid",
        [None, "''", ID, ID.upper(), f"0x{ID}", f"0X{ID.upper()}", f"' {ID}'"],
        [ID[:-1], f"{ID}0", f"{ID[:-1]}g", secret_id("b").hex(), secret_id(" a").hex(), "a"],
    ),
    (
        "ep11",
        "name",
        ["a", "' a '", "no", "012", "1e3", "2026-11-24", "~", '"\\x1b[2J"', f"'{'a' * 5000}'"],
        [None, "''", '"\\t"'],
    ),
    ("ep11", "description", [None, "''", "no", "'# any'", '"\\x00"'], ["[a]", "{a: b}"]),
    ("accel", "description", [None, "0x12"], ["[]"]),
    ("accel", "name", [None, "''", "a", "no", "3.0"], ["[a]"]),
    ("accel", "mkvp", [None, "junk", "12", MKVP], ["[junk]"]),
    ("accel", "serialnr", [None, "junk", "93AADFK719460083"], ["{}"]),
    ("accel", "secretid", [None, "junk", ID], ["[junk]"]),
]


def with_value(mode: str, key: str, value: str | None) -> str:
    entry = {**USUAL[mode], key: value}
    return f"- {{{', '.join(f'{each}: {text}' for each, text in entry.items() if text is not None)}}}"


@pytest.mark.parametrize(("mode", "key", "value"), [(m, k, v) for m, k, right, _ in TABLE for v in right])
def test_what_the_format_takes(mode: str, key: str, value: str | None) -> None:
    (rule,) = rules(with_value(mode, key, value))
    assert rule.hsm.mode == mode
    if mode == "accel":
        assert (rule.hsm.mkvp, rule.hsm.serial, rule.secret) == (None, None, None)
    else:
        assert rule.hsm.mkvp in (KEY, b"\x11" * 16)
        assert rule.secret is not None
        assert rule.secret.id == secret_id(rule.secret.name or "")


@pytest.mark.parametrize(("mode", "key", "value"), [(m, k, v) for m, k, _, wrong in TABLE for v in wrong])
def test_what_the_format_refuses(mode: str, key: str, value: str | None) -> None:
    (finding,) = complaints(with_value(mode, key, value))
    assert f"`{key}`" in finding or f": {key}: " in finding


def test_the_table_has_every_key_for_both_modes() -> None:
    keys = {"name", "description", "mode", "mkvp", "serialnr", "mingen", "secretid"}
    assert {(mode, key) for mode, key, _, _ in TABLE} == {(mode, key) for mode in USUAL for key in keys}


@pytest.mark.parametrize("key", ["serial", "Name", "NAME", "mk_vp", "generation", "count", "secret"])
def test_every_other_key_is_refused(key: str) -> None:
    for mode in USUAL:
        (finding,) = complaints(with_value(mode, key, "a"))
        assert f"unknown key `{key}`" in finding


@pytest.mark.parametrize("text", ["no", "012", "1e3", "2026-11-24", "~", "0x1f", "1:30", "null"])
def test_values_that_yaml_would_change_are_the_text_that_stands_there(text: str) -> None:
    rule = one(f"mode: EP11, name: {text}, mkvp: {MKVP}")
    assert (rule.name, rule.secret) == (text, Secret(secret_id(text), text))


def test_blanks_around_values_do_not_count() -> None:
    rule = one(
        f'mode: " EP11 ", name: " a ", mkvp: " 0X{MKVP}\\t", serialnr: " 93AADFK719460083", mingen: " cex8 "'
    )
    pattern = Pattern("ep11", KEY, "93AADFK719460083", Interval(8, None))
    assert rule == Rule("a", pattern, Secret(secret_id("a"), "a"), 1, 1, 3)
    assert one(f'mode: EP11, secretid: " 0X{ID}", mkvp: {MKVP}, name: " "').secret == Secret(secret_id("a"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "EP11"])
def test_what_is_no_list_is_no_pvapconfig_file(text: str) -> None:
    assert complaints(text)
