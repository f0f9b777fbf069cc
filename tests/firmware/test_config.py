"""The configuration: the shipped file is the reference, and everything that is wrong is said at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from keyvisor_firmware.broker import limits as broker
from keyvisor_firmware.config import (
    Config,
    StorageLimits,
    _BrokerLimits,
    _Card,
    _Domain,
    _File,
    _Gate,
    _Limits,
    _Storage,
    load,
    parse,
)
from keyvisor_firmware.errors import ConfigInvalid
from keyvisor_hsm.cards import Apqn, Mode

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "keyvisor.yaml"
CARD = """
version: 1
cards:
  - number: "03"
    generation: CEX8
    mode: ep11
    serial: 93AADFK719460083
    domains:
      - {number: "0011", master_key: payments-mk}
      - {number: "0012", master_key: ledger-mk}
"""


def wrong(text: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "keyvisor.yaml")
    for finding in caught.value.findings:
        assert re.match(r"keyvisor\.yaml:\d+:\d+: ", finding)
    return list(caught.value.findings)


def test_the_shipped_file_says_the_defaults() -> None:
    assert load(SHIPPED) == Config()


def test_the_shipped_file_has_every_key() -> None:
    said = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    assert set(said) == set(_File.model_fields)
    assert set(said["gate"]) == set(_Gate.model_fields)
    assert set(said["limits"]) == set(_Limits.model_fields)
    assert set(said["storage"]) == set(_Storage.model_fields)
    assert set(said["broker_limits"]) == set(_BrokerLimits.model_fields)
    assert all(set(card) == set(_Card.model_fields) for card in said["cards"])
    domains = [domain for card in said["cards"] for domain in card["domains"]]
    assert set().union(*domains) == set(_Domain.model_fields)
    assert parse("version: 1", "keyvisor.yaml") == Config()


def test_the_shipped_inventory_tells_the_stories_it_is_for() -> None:
    inventory = Config().inventory
    hsm, spare = Apqn.parse("03.0011"), Apqn.parse("05.0011")
    assert inventory.master_key(hsm) == inventory.master_key(spare) == "payments-mk"
    others = {inventory.master_key(Apqn.parse(apqn)) for apqn in ("03.0012", "05.0012")}
    assert len(others | {"payments-mk"}) == 3
    mkvps = dict.fromkeys(inventory.master_keys(), bytes(16))
    assert inventory.query(Apqn.parse("07.0000"), mkvps).mode is Mode.ACCEL
    assert inventory.query(Apqn.parse("09.0011"), mkvps).mode is Mode.CCA


def test_the_same_master_key_may_be_on_two_cards_but_not_twice_on_one() -> None:
    second = CARD.partition("cards:\n")[2].replace('"03"', '"05"')
    assert len(parse(CARD + second, "keyvisor.yaml").cards) == 2
    (finding,) = wrong(CARD.replace("ledger-mk", "payments-mk"))
    assert finding.startswith("keyvisor.yaml:10:")
    assert "twice" in finding


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("ep11", "accel"), "an accelerator has no master key"),
        (('"0012"', '"0011"'), "domain `0011` is on this card twice"),
        (('"0012"', '"12"'), "4 hex digits"),
        (('"0012"', '"0112"'), "at most 00ff"),
        (("93AADFK719460083", "93AADFK71946008"), "16 characters"),
        (("CEX8", "CEX9"), "did you mean `CEX"),
        (("ep11", "EP11"), "did you mean `ep11`"),
        (("ledger-mk", "Ledger"), "a-z, 0-9"),
        (("serial:", "seriall:"), "did you mean `serial`"),
        (("version: 1", "version: 2"), "expected `1`"),
    ],
)
def test_a_mistake_is_said_at_its_place(change: tuple[str, str], said: str) -> None:
    assert any(said in finding for finding in wrong(CARD.replace(*change)))


def test_two_cards_with_one_number() -> None:
    (finding,) = wrong(CARD + CARD.partition("cards:\n")[2])
    assert "card `03` is there twice" in finding


def test_all_mistakes_are_said_at_once() -> None:
    text = (
        CARD.replace("CEX8", "CEX9").replace("ep11", "ep12") + "limits: {guests: 0}\ngate: {idle_second: 5}\n"
    )
    found = wrong(text)
    assert len(found) == 4
    assert found == sorted(found, key=lambda finding: int(finding.split(":")[1]))


def test_limits_and_the_module_are_taken() -> None:
    config = parse(
        "version: 1\nmodule: /opt/hsm.so\ngate: {idle_seconds: 5}\nlimits: {guests: 3}\ncards: []\n", "f"
    )
    assert config.module == Path("/opt/hsm.so")
    assert (config.gate_idle_seconds, config.limits.guests, config.cards) == (5, 3, ())
    assert config.limits.association_secrets == Config().limits.association_secrets


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 1 << 32), ("8T", 1 << 43), ("4097M", 4097 << 20), ("4194304K", 1 << 32)]
)
def test_the_size_of_storage_is_read_with_its_unit(text: str, size: int) -> None:
    for written in (text, f'"{text}"'):
        assert parse(f"version: 1\nstorage: {{size: {written}}}\n", "f").storage == StorageLimits(size=size)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4095M", "4G to 8T"),
        ("9T", "4G to 8T"),
        ("4194305K", "whole MiB"),
        ("4294967296", "expected a size"),
        ("1t", "expected a size"),
        ("1.5T", "expected a size"),
        ("01T", "expected a size"),
        ("-1T", "expected a size"),
        ("1TiB", "expected a size"),
        ("1P", "expected a size"),
        ("99999999999999T", "expected a size"),
        ("٤G", "expected a size"),
        ("[1T]", "expected text"),
        ("", "a value is missing"),
    ],
)
def test_a_size_that_no_storage_has(text: str, said: str) -> None:
    (finding,) = wrong(f"version: 1\nstorage:\n  size: {text}\n")
    assert finding.startswith("keyvisor.yaml:3:")
    assert said in finding


def test_the_counts_of_storage_are_limited() -> None:
    config = parse("version: 1\nstorage: {max_cpus: 4096, ranges: 64}\n", "f")
    assert (config.storage.max_cpus, config.storage.ranges) == (4096, 64)
    for limit in ("max_cpus: 0", "max_cpus: 4097", "ranges: 63", "ranges: 1048577"):
        wrong(f"version: 1\nstorage: {{{limit}}}\n")


def test_the_room_of_a_store_is_a_limit_for_each_counter() -> None:
    config = parse("version: 1\nlimits: {association_secrets: 3, retrievable_secrets: 65535}\n", "f")
    assert (config.limits.association_secrets, config.limits.retrievable_secrets) == (3, 0xFFFF)
    for limit in ("association_secrets", "retrievable_secrets"):
        for value in (0, 0x10000):
            (finding,) = wrong(f"version: 1\nlimits: {{{limit}: {value}}}\n")
            assert f"{limit}" in finding


def test_every_limit_of_the_broker_can_be_set() -> None:
    assert set(_BrokerLimits.model_fields) - {"guests"} == set(broker.Limits.__dataclass_fields__)


def test_a_guests_own_limits_stand_above_those_for_all() -> None:
    config = parse(
        "version: 1\nbroker_limits:\n  sessions: 7\n  nesting: 0\n"
        "  guests:\n    payments: {sessions: 9, frame_seconds: 2}\n    ledger: {}\n",
        "f",
    )
    assert config.broker_limits == broker.Limits(sessions=7, nesting=0)
    assert config.guest_broker_limits == {
        "payments": broker.Limits(sessions=9, nesting=0, frame_seconds=2),
        "ledger": config.broker_limits,
    }


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("{sessions: 0}", "sessions: "),
        ("{frame_body: 268435457}", "frame_body: "),
        ("{nesting: 17}", "nesting: "),
        ("{session: 4}", "did you mean `sessions`"),
        ("{guests: {payments: {session: 4}}}", "unknown key `session`"),
        ("{guests: {payments: {sessions: 0}}}", "sessions: "),
        ("{guests: {payments: {guests: {}}}}", "unknown key `guests`"),
        ("{guests: {Payments: {}}}", "`Payments` is no guest's name"),
        ("{guests: [payments]}", "guests: expected a mapping"),
    ],
)
def test_a_limit_that_cannot_be_is_said_at_its_place(said: str, finding: str) -> None:
    (found,) = wrong(f"version: 1\nbroker_limits: {said}\n")
    assert finding in found
    assert found.startswith("keyvisor.yaml:2:")


def test_a_relative_module_is_refused() -> None:
    (finding,) = wrong("version: 1\nmodule: hsm.so\n")
    assert "absolute path" in finding


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_the_module_is_looked_for_where_distributions_put_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="install `softhsm2`"):
        Config().module_path(tmp_path)
    found = tmp_path / "usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"
    found.parent.mkdir(parents=True)
    found.touch()
    assert Config().module_path(tmp_path) == found
    with pytest.raises(ConfigInvalid, match="let `module` name one"):
        Config(module=tmp_path / "none.so").module_path()
    assert Config(module=found).module_path() == found
