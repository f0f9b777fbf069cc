"""The audit log with the real command: recorded, exported, verified elsewhere, explained, and decided again."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from tests.end_to_end.conftest import HSM, SPARE, World, worlds


def story(world: World) -> None:
    """A guest that was refused three things: a call, an HSM that is not attached, and an association."""
    world.guest("payments", HSM)
    world.keyvisor("guest", "bind", "--guest", "payments", HSM).ok()
    assert world.tool("payments", "--keygen", "--key-type", "AES:32").code != 0
    world.keyvisor("guest", "bind", "--guest", "payments", SPARE).refused()
    world.add_secret("payments", "signing")
    other = world.policy("signing", serial="93AADFK719460099")
    world.keyvisor("guest", "apply", "--guest", "payments", "--partial", "--no-strict", other).ok()
    world.keyvisor("guest", "associate", "--guest", "payments", HSM, "--secret", "signing").refused()
    (world.directory / "key.pem").write_text(world.keyvisor("audit", "key").ok())
    (world.directory / "head").write_text(world.keyvisor("audit", "head").ok())


@pytest.fixture(scope="module")
def audited() -> Iterator[World]:
    """A world with that story, for all tests that only look."""
    with worlds() as make:
        world = make()
        world.up()
        story(world)
        yield world


def entries(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.json("audit")["entries"]
    return found


def number_of(world: World, event: str, **detail: str) -> str:
    found = [
        one for one in entries(world) if one["event"] == event and detail.items() <= one["detail"].items()
    ]
    return str(found[-1]["number"])


def test_every_record_has_a_number_in_order(audited: World) -> None:
    assert [one["number"] for one in entries(audited)] == list(range(1, len(entries(audited)) + 1))


def test_a_refused_call_is_explained(audited: World) -> None:
    number = number_of(audited, "call refused", call="C_GenerateKey")
    told = audited.keyvisor("audit", "explain", number).ok()
    assert "asked      C_GenerateKey on HSM 03.0011" in told
    assert "CKR_USER_NOT_LOGGED_IN" in told
    assert "state      bound; ep11" in told
    assert "keyvisor guest apply --guest payments" in told


def test_a_refused_association_is_explained_with_the_rule_its_line_and_the_field(audited: World) -> None:
    number = number_of(audited, "associate", outcome="refused")
    told = audited.keyvisor("audit", "explain", number).ok()
    assert "rule       rule-of-signing (" in told
    assert "signing.yaml:3)" in told
    assert "| - name: rule-of-signing" in told
    assert "no   serial: 93AADFK719460099 wanted, 93AADFK719460083 found" in told
    assert "keyvisor policy explain" in told
    decision = audited.json("audit", "explain", number)["decisions"][0]
    assert decision["answer"].startswith("refused: AP response code 3f")


def test_the_command_that_an_explanation_names_brings_it_about(audited: World) -> None:
    """Followed to the letter: bind what is not attached, as the explanation says."""
    number = number_of(audited, "bind", outcome="refused", apqn=SPARE)
    [command] = audited.json("audit", "explain", number)["decisions"][0]["commands"]
    assert command == f"keyvisor host attach payments {SPARE}"
    audited.keyvisor(*command.split()[1:]).ok()
    audited.keyvisor("guest", "bind", "--guest", "payments", SPARE).ok()
    audited.keyvisor("host", "detach", "payments", SPARE).ok()


def test_the_guest_is_told_the_same_of_its_own(audited: World) -> None:
    told = audited.keyvisor("guest", "refusals", "--guest", "payments").ok()
    assert "CKR_USER_NOT_LOGGED_IN, HSM 03.0011, now bound" in told
    assert "signing.yaml:3)" in told
    assert "do       keyvisor guest apply --guest payments" in told


def test_the_log_is_good_with_the_key_alone_beside_the_daemon_and_in_an_export(audited: World) -> None:
    assert "good: " in audited.keyvisor("audit", "verify", "--key", "key.pem").ok()
    audited.keyvisor("audit", "verify", "--key", "key.pem", "--expect-head", "head").ok()
    told = audited.keyvisor("audit", "export", "log.jsonl").ok()
    assert f"head {audited.keyvisor('audit', 'head').ok().strip()}" in told
    elsewhere = audited.json("audit", "verify", "log.jsonl", "--key", "key.pem", "--state", "/nowhere")
    assert (elsewhere["good"], elsewhere["broken"]) == (True, None)
    assert "error" in audited.keyvisor("audit", "export", "log.jsonl").refused(), "it is there already"
    (audited.directory / "log.jsonl").unlink()


@pytest.mark.parametrize("line", [0, 3, -1])
def test_an_export_that_was_changed_is_bad(audited: World, line: int) -> None:
    audited.keyvisor("audit", "export", "log.jsonl").ok()
    path = audited.directory / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    del lines[line]
    (audited.directory / "changed.jsonl").write_bytes(b"".join(lines))
    ended = audited.keyvisor("audit", "verify", "changed.jsonl", "--key", "key.pem")
    assert "the log is not as it was written" in ended.refused()
    ended = audited.keyvisor("audit", "verify", "changed.jsonl", "--key", "key.pem", "--json")
    assert json.loads(ended.refused())["good"] is False


def test_a_wrong_command_line_ends_with_2(audited: World) -> None:
    (audited.directory / "no.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    for words in (
        ("verify",),
        ("verify", "--key", "nowhere.pem"),
        ("verify", "--key", "no.pem"),
        ("verify", "--key", "key.pem", "--expect-head", "7"),
        ("verify", "nowhere.jsonl", "--key", "key.pem"),
        ("explain", "0"),
        ("explain", "x"),
        ("replay",),
        ("export",),
    ):
        assert audited.keyvisor("audit", *words).code == 2, words


def test_another_policy_is_tried_on_what_was_decided(audited: World) -> None:
    text = (audited.directory / "signing.yaml").read_text()
    (audited.directory / "same.yaml").write_text(text)
    told = audited.keyvisor("audit", "replay", "--policy", "same.yaml").ok()
    assert "0 would change" in told
    (audited.directory / "wider.yaml").write_text(text.replace(", serial: 93AADFK719460099", ""))
    told = audited.keyvisor("audit", "replay", "--policy", "wider.yaml").refused()
    assert "1 would change" in told
    assert "  now      allowed by rule `rule-of-signing` (wider.yaml:3)" in told
    audited.keyvisor("audit", "replay", "--policy", "wider.yaml", "--guest", "other").ok()


def test_a_kill_loses_no_command_and_leaves_a_good_log(world: World) -> None:
    story(world)
    before = entries(world)
    world.restart(signal.SIGKILL)
    assert entries(world)[: len(before)] == before
    world.keyvisor("audit", "verify", "--key", "key.pem", "--expect-head", "head").ok()


def test_what_gates_refused_is_written_at_the_end(world: World) -> None:
    story(world)
    assert world.tool("payments", "--keygen", "--key-type", "AES:16").code != 0
    world.down()
    told = world.keyvisor("audit", "explain", number_without_daemon(world)).ok()
    assert "C_GenerateKey" in told
    world.keyvisor("audit", "verify", "--key", "key.pem").ok()


def number_without_daemon(world: World) -> str:
    connection = sqlite3.connect(world.state / "state.db")
    [(number,)] = connection.execute("select max(number) from audit where event = 'call refused'").fetchall()
    connection.close()
    return str(number)


def test_a_database_that_was_put_back_is_noticed(world: World) -> None:
    story(world)
    world.down()
    older = world.directory / "older.db"
    shutil.copy(world.state / "state.db", older)
    world.up()
    world.keyvisor("host", "detach", "payments", HSM).ok()
    world.down()
    assert not (world.state / "state.db-wal").exists()
    shutil.copy(older, world.state / "state.db")
    world.up()
    assert "went back" in world.keyvisor("audit").ok()
    assert "the audit log went back" in world.log()
