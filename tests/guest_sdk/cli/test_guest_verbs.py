"""`keyvisor guest`, against the firmware's story."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvisor_guest import client_release
from keyvisor_guest.wire import messages

MET = """\
version: 1
associations:
  - name: payments-signing
    hsm: {mode: ep11, serial: 93AADFK719460083}
"""
APPLY_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "apply.md").read_text(encoding="utf-8")
HALF_MET = f"""\
{MET}  - name: elsewhere
    secret: payments-signing
    hsm: {{mode: ep11, serial: AAAAAAAAAAAAAAAA}}
"""


@pytest.fixture
def guest(keyvisor: Callable[..., Any], firmware: Any) -> Callable[..., Any]:
    return lambda *arguments: keyvisor(
        "guest", *arguments, "--guest", "payments", "--state", str(firmware.state)
    )


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "policy.yaml").write_text(text)
        return str(tmp_path / "policy.yaml")

    return write


def test_identity(guest: Callable[..., Any]) -> None:
    assert "header_tag" in guest("identity").out
    assert json.loads(guest("identity", "--json").out)["cuid"] == "0f" * 16


def test_an_associations_life(guest: Callable[..., Any]) -> None:
    assert guest("bind", "03.0011").out == "03.0011 is bound\n"
    assert guest("associate", "03.0011", "--secret", "payments-signing").out == "03.0011 is associated\n"
    lines = guest("hsms").out.splitlines()
    assert lines[1].split()[:3] == ["03.0011", "associated", "ep11"]
    assert json.loads(guest("hsms", "--json").out)["hsms"][1]["state"] == "unbound"
    assert guest("unbind", "03.0011").out == "03.0011 is unbound\n"


def test_a_refusal_is_one_line_per_finding(guest: Callable[..., Any]) -> None:
    guest("bind", "03.0011")
    ended = guest("associate", "03.0011", "--secret", "unknown")
    assert ended.code == 1
    assert ended.err.splitlines() == [
        "error: HSM 03.0011 is not associated",
        "error: secret not in the guest's store",
        "error: no rule of the policy allows it",
    ]


@pytest.mark.parametrize(
    ("release", "carried"),
    [
        ("0.24", {"CKM_ECDSA": "yes", "CKM_AES_CBC": "no: since 0.25.0", "CKM_EDDSA": "no: no release does"}),
        ("0.25.6", {"CKM_ECDSA": "yes", "CKM_AES_CBC": "yes", "CKM_EDDSA": "no: no release does"}),
        (
            "unknown",
            {"CKM_ECDSA": "unknown: since 0.24", "CKM_AES_CBC": "unknown: since 0.25.0"},
        ),
    ],
)
def test_mechanisms_say_where_each_gets_lost(
    release: str, carried: dict[str, str], guest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, release)
    guest("bind", "03.0011")
    lines = guest("mechanisms", "--hsm", "03.0011").out.splitlines()
    cells = {line.split()[0]: line.split(maxsplit=3) for line in lines[1:-1]}
    assert len(cells) == 3
    for name, verdict in carried.items():
        assert cells[name][1:3] == ["yes", "yes"]
        assert cells[name][3].strip() == verdict
    assert lines[-1].startswith("3 mechanisms; ")


def test_mechanisms_of_every_bound_hsm_are_one_table(
    guest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "0.24")
    assert "keyvisor guest bind" in guest("mechanisms").err
    guest("bind", "03.0011")
    assert "only" not in guest("mechanisms").out
    guest("bind", "04.0011")
    lines = guest("mechanisms").out.splitlines()
    (ecdsa,) = [line for line in lines if "CKM_ECDSA" in line]
    assert " yes " in ecdsa  # both have it
    assert "only 03.0011" in ecdsa  # policy allows it on one
    (aes,) = [line for line in lines if "CKM_AES_CBC" in line]
    assert aes.count("only 03.0011") == 2
    assert lines[-1] == (
        "3 mechanisms; this client (release 0.24) carries 1: a later release carries 1 more, no release the other 1"
    )


def test_mechanisms_as_json(guest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "0.24")
    guest("bind", "04.0011")
    assert json.loads(guest("mechanisms", "--json").out) == {
        "client": "0.24",
        "hsms": [
            {
                "apqn": "04.0011",
                "mechanisms": [
                    {
                        "type": 0x1041,
                        "name": "CKM_ECDSA",
                        "min_key_size": 16,
                        "max_key_size": 32,
                        "flags": 0x300,
                        "allowed": False,
                        "carried": True,
                        "since": "0.24",
                    }
                ],
            }
        ],
    }


def test_mechanisms_of_an_hsm_that_is_not_bound(
    guest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "0.24")
    ended = guest("mechanisms", "--hsm", "03.0011")
    assert (ended.code, ended.err) == (1, "error: HSM 03.0011 is not bound: bind it first\n")


def installed(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Another client than this machine's."""
    monkeypatch.setattr(client_release, "release", lambda _library: release)
    monkeypatch.setenv("KEYVISOR_PKCS11_MODULE", __file__)


def test_refusals(guest: Callable[..., Any]) -> None:
    shown = guest("refusals").out
    assert shown.splitlines()[0].split() == ["time", "HSM", "call", "code", "why", "what", "is", "missing"]
    assert "CKR_USER_NOT_LOGGED_IN" in shown
    for line in (
        "CKR_USER_NOT_LOGGED_IN, HSM 03.0011, now bound",
        "    rule     payments (policy.yaml:3)",
        "    must be  the HSM is associated",
        "    do       keyvisor guest associate --guest g 03.0011 --secret s",
    ):
        assert line in shown.splitlines()
    assert shown.splitlines()[-1] == "3 older ones are no longer kept"
    answer = json.loads(guest("refusals", "--json").out)
    assert answer["dropped"] == 3
    assert answer["refusals"][0]["missing"] == "a secret for 03.0011"
    assert answer["refusals"][0]["rule"] == "payments (policy.yaml:3)"


def test_policy(guest: Callable[..., Any], policy: Callable[[str], str]) -> None:
    ended = guest("policy")
    assert (ended.code, ended.out) == (1, "")
    assert "keyvisor guest apply FILE" in ended.err
    guest("apply", policy(MET))
    assert guest("policy").out == MET


def test_apply_without_a_file_applies_the_policy_that_is_there(
    firmware: Any, guest: Callable[..., Any], policy: Callable[[str], str]
) -> None:
    ended = guest("apply")
    assert (ended.code, ended.out) == (1, "")
    assert "its image carries none" in ended.err
    guest("apply", policy(MET), "--dry-run")
    firmware.story.policy = messages.PolicyText(text=MET, source="/etc/keyvisor/policy.yaml")
    ended = guest("apply")
    assert (ended.code, ended.err) == (0, "")
    assert firmware.story.plans[-1].policy == firmware.story.policy


def test_apply_shows_the_plan_with_its_reasons(
    guest: Callable[..., Any], policy: Callable[[str], str]
) -> None:
    ended = guest("apply", policy(MET))
    assert (ended.code, ended.err) == (0, "")
    assert "associate" in ended.out
    assert "03.0011" in ended.out


@pytest.mark.parametrize(
    ("options", "code", "applied"),
    [
        ((), 1, 0),
        (("--strict",), 1, 0),
        (("--strict", "--dry-run"), 1, 0),
        (("--no-strict",), 1, 0),
        (("--partial",), 1, 1),
        (("--partial", "--no-strict"), 0, 1),
        (("--dry-run",), 1, 0),
        (("--dry-run", "--partial"), 1, 0),
        (("--dry-run", "--partial", "--no-strict"), 0, 0),
    ],
)
def test_an_unmet_rule(
    guest: Callable[..., Any],
    policy: Callable[[str], str],
    firmware: Any,
    options: tuple[str, ...],
    code: int,
    applied: int,
) -> None:
    ended = guest("apply", policy(HALF_MET), *options)
    assert ended.code == code
    assert len(firmware.story.plans) == applied
    assert "elsewhere" in ended.out
    assert "serial differs" in ended.out
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--unbind",)])
def test_all_or_nothing_and_what_can_be_met_exclude_each_other(
    guest: Callable[..., Any], policy: Callable[[str], str], firmware: Any, more: tuple[str, ...]
) -> None:
    ended = guest("apply", policy(MET), "--partial", "--strict", *more)
    assert ended.code == 2
    assert "--strict" in ended.err
    assert firmware.story.asked == []


def test_what_was_done_is_told_per_hsm(
    guest: Callable[..., Any], policy: Callable[[str], str], firmware: Any
) -> None:
    guest("bind", "04.0011")
    ended = guest("apply", policy(MET))
    assert [line.rstrip() for line in ended.out.splitlines()] == [
        "rule              HSM      action           reason",
        "payments-signing  03.0011  bind, associate",
        "",
        "HSM      was      done             is now",
        "03.0011  unbound  bind, associate  associated",
        "04.0011  bound    nothing          bound",
        "04.0011 stays as it is: no rule wants it; `--unbind` unbinds it",
    ]
    assert "\n".join(line.rstrip() for line in ended.out.splitlines()) in APPLY_PAGE
    ended = guest("apply", policy(MET), "--unbind", "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["applied"], told["met"], told["left"]) == (0, True, True, [])
    assert told["done"] == [
        {"apqn": "03.0011", "was": "associated", "done": [], "is": "associated"},
        {"apqn": "04.0011", "was": "bound", "done": ["unbind"], "is": "unbound"},
    ]


def test_the_page_on_apply_has_every_option_and_no_other(keyvisor: Callable[..., Any]) -> None:
    told = set(re.findall(r"--[a-z-]+", keyvisor("guest", "apply", "--help").out))
    elsewhere = {"--guest", "--state", "--help"}
    assert set(re.findall(r"^\| `(--[a-z-]+)`", APPLY_PAGE, re.MULTILINE)) == told - elsewhere


def test_a_dry_run_tells_what_would_be_left(
    guest: Callable[..., Any], policy: Callable[[str], str], firmware: Any
) -> None:
    guest("bind", "04.0011")
    ended = guest("apply", policy(MET), "--dry-run")
    assert "04.0011 stays as it is" in ended.out
    told = json.loads(guest("apply", policy(MET), "--dry-run", "--json").out)
    assert (told["left"], told["applies"]) == (["04.0011"], True)
    told = json.loads(guest("apply", policy(HALF_MET), "--partial", "--json").out)
    assert (told["left"], told["applied"], told["met"]) == (["04.0011"], True, False)
    assert firmware.story.hsms["04.0011"].state == "bound"


def test_a_plan_for_programs(guest: Callable[..., Any], policy: Callable[[str], str]) -> None:
    ended = guest("apply", policy(HALF_MET), "--dry-run", "--json")
    assert ended.code == 1
    assert "elsewhere" in json.dumps(json.loads(ended.out))


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--dry-run", "--json")])
def test_a_hostile_rule_reaches_the_terminal_only_escaped(
    guest: Callable[..., Any], policy: Callable[[str], str], options: tuple[str, ...]
) -> None:
    """Only pvapconfig's lists let such names in."""
    mkvp = "1" * 32
    ended = guest("apply", policy(f'- {{mode: EP11, mkvp: {mkvp}, name: "\\e[2J\\x9b\\u202ex"}}\n'), *options)
    assert ended.code == 1
    assert not {"\x1b", "\x9b", "\u202e"} & set(ended.out + ended.err)
    if "--json" not in options:
        assert "\\x1b[2J\\x9b\\u202ex" in ended.out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_plan_is_what_the_policys_author_sees_without_a_firmware(
    guest: Callable[..., Any],
    keyvisor: Callable[..., Any],
    policy: Callable[[str], str],
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    """What `guest hsms --json` prints is the inventory that `policy plan` takes, and the two plans are the same.

    With `--unbind`: the author sees all that the policy asks for, what it does not want included.
    """
    guest("bind", "04.0011")
    inventory = tmp_path / "hsms.json"
    inventory.write_text(guest("hsms", "--json").out)
    file = policy(HALF_MET)
    for_author = keyvisor(
        "policy", "plan", file, "--inventory", str(inventory), "--secrets", "payments-signing", *options
    )
    in_guest = guest("apply", file, "--dry-run", "--unbind", *options)
    assert in_guest.out == for_author.out
    assert in_guest.code == for_author.code == 1


def test_a_file_that_is_no_policy_has_a_line_per_finding(
    guest: Callable[..., Any], policy: Callable[[str], str], firmware: Any
) -> None:
    file = policy("version: 1\nassociation: []\nassociations: 3\n")
    ended = guest("apply", file)
    assert ended.code == 1
    lines = ended.err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(f"error: {file}:") for line in lines)
    assert firmware.story.asked == []


def test_the_guest_may_come_from_the_environment(
    keyvisor: Callable[..., Any], firmware: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYVISOR_STATE", str(firmware.state))
    monkeypatch.setenv("KEYVISOR_GUEST", "lab")
    ended = keyvisor("guest", "hsms")
    assert ended.out == "no HSM is attached; the host does it with `keyvisor host attach`\n"


def test_no_such_guest(keyvisor: Callable[..., Any], firmware: Any) -> None:
    ended = keyvisor("guest", "hsms", "--guest", "nobody", "--state", str(firmware.state))
    assert ended.code == 1
    assert ended.err.startswith("error: no guest `nobody` in")
    ended = keyvisor("guest", "hsms", "--guest", "No/body", "--state", str(firmware.state))
    assert ended.code == 1
    assert "names no guest" in ended.err
