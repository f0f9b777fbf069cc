"""`never`: what an entry means, and what is said about each thing that is wrong in one."""

from __future__ import annotations

import pytest

from keyvisor_policy import DocumentError, Hsm, Interval, Policy, Secret, SecretId, parse, secret_id
from keyvisor_policy.never import Description, Is, Never
from keyvisor_policy.rules import MAX_NEVERS

MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"


def never(*entries: str) -> tuple[Never, ...]:
    return parsed(*entries).never


def parsed(*entries: str) -> Policy:
    return parse("version: 1\nnever:\n" + "".join(f"- {entry}\n" for entry in entries), "p.yaml")


def complaints(*entries: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parsed(*entries)
    return [str(finding) for finding in caught.value.findings]


def test_the_example_of_the_design_is_compiled() -> None:
    text = f'version: 1\nnever:\n  - secret: payments-signing\n    hsm: {{mkvp: "!0x{MKVP}"}}\n'
    described = Description(mkvp=Is(bytes.fromhex(MKVP), but=True))
    secret = Secret(secret_id("payments-signing"), "payments-signing")
    assert parse(text).never == (Never(described, secret, None, 3, 5),)
    assert parse("version: 1\n").never == ()


def test_every_field_is_taken_as_it_is_and_as_anything_but() -> None:
    fields = (
        ("mkvp", MKVP, Is(bytes.fromhex(MKVP))),
        ("serial", "93AADFK719460083", Is("93AADFK719460083")),
        ("generation", "CEX6..CEX8", Is(Interval(6, 8))),
        ("firmware", "<=8.1", Is(Interval(None, (8, 1)))),
        ("api", "==4", Is(Interval(4, 4))),
    )
    for field, text, value in fields:
        (plain, but, spaced) = never(*(f"hsm: {{{field}: '{sign}{text}'}}" for sign in ("", "!", "! ")))
        assert getattr(plain.hsm, field) == value
        assert getattr(but.hsm, field) == Is(value.value, but=True) == getattr(spaced.hsm, field)


def test_compliance_names_what_is_there_and_what_is_not() -> None:
    (one,) = never("hsm: {compliance: [fips, '!bsi', bsi2]}")
    assert (one.hsm.present, one.hsm.absent) == (frozenset({"fips", "bsi2"}), frozenset({"bsi"}))


def test_a_secret_by_name_or_id_a_name_and_a_mode_left_out() -> None:
    by_id = SecretId(b"\x11" * 32)
    first, second, third = never(
        f"secret_id: 0x{by_id.hex()}", "{name: no cards, hsm: {mode: accel}}", "{secret: a, hsm: {}}"
    )
    assert (first.secret, first.hsm) == (Secret(by_id), Description())
    assert (second.name, second.secret, second.hsm.mode) == ("no cards", None, "accel")
    assert (third.secret, third.hsm) == (Secret(secret_id("a"), "a"), Description())


def test_what_is_left_out_is_any_and_no_master_key_is_anything_but_one() -> None:
    hsm = Hsm("03.0001", "accel", 8)
    a = secret_id("a")
    assert Never(Description()).forbids(hsm, None)
    assert Never(Description()).forbids(hsm, a)
    assert Never(Description(), Secret(a)).forbids(hsm, a)
    assert not Never(Description(), Secret(a)).forbids(hsm, None)
    assert not Never(Description(mode="ep11")).forbids(hsm, None)
    assert Never(Description(mkvp=Is(b"\1" * 16, but=True))).forbids(hsm, None)
    assert not Never(Description(mkvp=Is(b"\1" * 16))).forbids(hsm, None)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{}", "3:3: expected a `secret`, an `hsm` with a field, or both; this would forbid everything"),
        (
            "{hsm: {}}",
            "3:3: expected a `secret`, an `hsm` with a field, or both; this would forbid everything",
        ),
        (
            "{name: a}",
            "3:3: expected a `secret`, an `hsm` with a field, or both; this would forbid everything",
        ),
        ("3", "3:3: never: expected a mapping, found `3`"),
        (
            "{secret: a, hsm: {mode: accel}}",
            "3:4: secret: an accelerator is bound and never associated; remove `secret`",
        ),
        (
            "{hsm: {mode: '!accel'}}",
            "3:16: mode: expected `ep11` or `accel`, found `!accel`; did you mean `accel`?",
        ),
        ("{hsm: {mkvp: '!12'}}", "3:16: mkvp: behind `!`: expected 32 or 64 hex digits, found `12`"),
        ("{hsm: {mkvp: '12'}}", "3:16: mkvp: expected 32 or 64 hex digits, found `12`"),
        (
            f"{{hsm: {{mkvp: !0x{MKVP}}}}}",
            "3:51: tags (`!`) are not supported; put a value that begins with `!` in quotes",
        ),
        (
            "{hsm: {api: '!4'}}",
            "3:15: api: behind `!`: expected an operator, as in `>=4`, `==4`, `<=4` or `2..4`, found `4`",
        ),
        ("{hsm: {compliance: ['!']}}", "3:23: compliance: behind `!`: expected a name, found an empty text"),
        ("{hsm: {compliance: '!a'}}", "3:22: compliance: expected a list, found `!a`"),
        ("{secert: a}", "3:4: unknown key `secert`; did you mean `secret`?"),
        (
            f"{{secret: a, secret_id: '{'1' * 64}'}}",
            f"3:26: secret_id: differs from the id of `a`, which is `{secret_id('a').hex()}`; drop one of them",
        ),
    ],
)
def test_each_mistake_is_named_at_its_place(entry: str, said: str) -> None:
    assert f"p.yaml:{said}" in complaints(entry)


def test_there_are_no_more_than_a_policy_may_have() -> None:
    entry = "secret: a"
    assert len(never(*[entry] * MAX_NEVERS)) == MAX_NEVERS
    over = f"p.yaml:{MAX_NEVERS + 3}:3: more than the {MAX_NEVERS} entries of `never` that a policy may have"
    assert complaints(*[entry] * (MAX_NEVERS + 1)) == [over]


def test_a_never_allows_and_refuses_nothing() -> None:
    rules = "version: 1\nassociations: [{name: a, hsm: {}}]\n"
    hsm = Hsm("03.0001", "ep11", 8, mkvp=b"\1" * 16)
    assert parse(rules + "never: [{secret: a}]\n").permit(hsm, secret_id("a")).name == "a"
