"""A pvapconfig list in this grammar: it loads to the same rules."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.pvapconfig_world import KEYS, SERIALS, as_file

from keyvisor_policy import DocumentError, Rule, parse, secret_id
from keyvisor_policy.convert import converted
from keyvisor_policy.strict_yaml import Limits

MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"

LIST = f"""\
- name: payments
  description: "signs payments\\nin Frankfurt # only"
  mode: EP11
  mkvp: 0x{MKVP.upper()}{MKVP}
  serialnr: 93AADFK719460083
  mingen: cex8
- name: tls
  mode: Accel
  mingen: CEX6
  serialnr: dropped
- name: " payments "
  mode: ep11
  mkvp: {MKVP}
- description: no name
  mode: EP11
  mkvp: {MKVP}
  secretid: 0x{"ab" * 32}
- mode: Accel
"""

POLICY = f"""\
version: 1
associations:
  # signs payments
  # in Frankfurt # only
  - name: "payments"
    hsm:
      mode: ep11
      mkvp: 0x{MKVP}
      serial: "93AADFK719460083"
      generation: ">=CEX8"
  - name: "tls"
    hsm:
      mode: accel
      generation: ">=CEX6"
  # called payments in the list
  - name: "payments (3)"
    secret: "payments"
    hsm:
      mode: ep11
      mkvp: 0x{MKVP}
  # no name
  - name: "entry 4"
    secret_id: 0x{"ab" * 32}
    hsm:
      mode: ep11
      mkvp: 0x{MKVP}
  - name: "entry 5"
    hsm:
      mode: accel
"""

SPECIAL = "\"\\'#:{}[]&*!|>%@"  # a serial number of what means something in YAML

printing = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(
    lambda text: text.isprintable() and text.strip() == text != ""
)
anything = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    [
        "entry 1",
        "entry 2",
        "a (2)",
        "a",
        " a",
        "no",
        "x" * 5000,
        '"',
        "\\",
        "#",
        "\x85",
        "\u2028",
        "\x1b[2J",
        "{",
        "0x12",
    ]
)


@st.composite
def lists(draw: st.DrawFn, names: st.SearchStrategy[str], *, unique: bool) -> list[dict[str, str]]:
    """Entries of right pvapconfig files, with such names."""
    entries = []
    for name in draw(st.lists(names, max_size=5, unique=unique)):
        entry = {
            "name": name,
            "description": draw(anything),
            "mode": draw(st.sampled_from(["EP11", "Accel"])),
        }
        if entry["mode"] == "EP11":
            entry["mkvp"] = draw(st.sampled_from(KEYS)).hex()
            entry["serialnr"] = draw(st.sampled_from(["", *SERIALS, SPECIAL]))
            entry["mingen"] = draw(st.sampled_from(["", "CEX8"]))
            if not draw(st.booleans()) and not name.strip():
                entry["secretid"] = draw(st.sampled_from(["ab" * 32, "cd" * 32]))
        else:
            entry["mingen"] = draw(st.sampled_from(["", "CEX4", "cex7", "CEX8"]))
        entries.append(entry)
    return entries


def without_places(rules: tuple[Rule, ...]) -> list[Rule]:
    return [dataclasses.replace(rule, line=1, column=1) for rule in rules]


def test_a_list_in_this_grammar() -> None:
    assert converted(LIST) == POLICY
    again = parse(POLICY)
    assert (again.grammar, len(again.rules)) == ("keyvisor", 5)


@given(lists(printing, unique=True))
def test_where_every_name_can_stay_the_rules_are_the_same(entries: list[dict[str, str]]) -> None:
    text = as_file(entries)
    assert without_places(parse(converted(text)).rules) == without_places(parse(text).rules)


@given(lists(anything, unique=False))
def test_whatever_the_names_the_rules_ask_for_the_same(entries: list[dict[str, str]]) -> None:
    text = as_file(entries)
    try:
        before = parse(text).rules
    except DocumentError:
        with pytest.raises(DocumentError):
            converted(text)
        return
    made = converted(text)
    after = parse(made).rules
    assert [(rule.hsm, rule.secret and rule.secret.id, rule.count) for rule in after] == [
        (rule.hsm, rule.secret and rule.secret.id, rule.count) for rule in before
    ]
    assert all(character.isprintable() or character == "\n" for character in made)
    kept = [new.name == old.name for new, old in zip(after, before, strict=True)]
    for number, old in enumerate(before):
        fits = old.name.isprintable() and old.name.strip() == old.name and len(old.name) <= 4096
        first = old.name not in [rule.name for rule in before[:number]]
        assert kept[number] == (fits and first)
    assert made.count("  # called ") >= kept.count(False)


def test_an_empty_list_is_a_policy_without_rules() -> None:
    assert converted("[]") == "version: 1\nassociations: []\n"
    assert parse(converted("[]")).rules == ()


def test_a_made_name_is_never_another_entrys() -> None:
    called = ["a", "a", "a (2)", "a", "entry 6", ""]
    made = converted(as_file([{"mode": "Accel", "name": name} for name in called]))
    names = [rule.name for rule in parse(made).rules]
    assert names == ["a", "a (2.2)", "a (2)", "a (4)", "entry 6", "entry 6 (6)"]


def test_a_name_that_this_grammar_does_not_take_gives_its_secret_by_id() -> None:
    made = converted(as_file([{"mode": "EP11", "name": "a\x1bb", "mkvp": MKVP}]))
    (rule,) = parse(made).rules
    assert rule.secret is not None
    assert (rule.name, rule.secret.id, rule.secret.name) == ("entry 1", secret_id("a\x1bb"), None)
    assert "  # called a\\x1bb in the list\n" in made


def test_what_is_no_list_is_not_converted() -> None:
    with pytest.raises(ValueError, match="a policy already"):
        converted(POLICY)
    with pytest.raises(DocumentError):
        converted("- {mode: EP12}")


def test_a_policy_that_would_not_load_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvisor_policy.convert.LIMITS", Limits(length=len(POLICY.encode())))
    assert converted(LIST) == POLICY
    with pytest.raises(ValueError, match="split the list"):
        converted(f"{LIST}- mode: Accel\n")
