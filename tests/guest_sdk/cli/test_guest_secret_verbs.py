"""`keyvisor guest secret`, against the firmware's story."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvisor_guest.wire import messages
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_guest.wire.secret_list import decode_list

SIGNING = hashlib.sha256(b"payments-signing").hexdigest()
GREETING = hashlib.sha256(b"greeting").hexdigest()
DISK = b"disk".ljust(32, b"\x00").hex()
BLOB = bytes(range(64))


@pytest.fixture
def secret(keyvisor: Callable[..., Any], firmware: Any) -> Callable[..., Any]:
    """`keyvisor guest secret` for a guest with three secrets."""
    firmware.story.secrets += [
        messages.Secret(index=1, type=3, length=16, id=GREETING),
        messages.Secret(index=2, type=6, length=64, id=DISK),
    ]
    firmware.story.values |= {1: b"\x00\x05hello" + bytes(9), 2: BLOB}
    return lambda *arguments: keyvisor(
        "guest", "secret", *arguments, "--guest", "payments", "--state", str(firmware.state)
    )


@pytest.fixture
def request_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes a real request for the secret of that name."""

    def write(name: str) -> str:
        key = ec.derive_private_key(7, ec.SECP521R1())
        identity = BootIdentity(bytes(64), bytes(64), bytes(64), bytes(16))
        draft = Draft(SecretKind.ASSOCIATION, identity, id_from_name(name), bytes(32))
        path = tmp_path / f"{name}.request"
        path.write_bytes(build(draft, FreshKeys(key, bytes(32), bytes(12)), [key.public_key()]))
        return str(path)

    return write


# --- add


def test_requests_are_added_in_order(secret: Any, firmware: Any, request_file: Any) -> None:
    files = [request_file("one"), request_file("two")]
    assert secret("add", *files).code == 0
    assert firmware.story.requests == [Path(file).read_bytes() for file in files]


def test_what_is_no_request_is_for_the_firmware_to_refuse(
    secret: Any, firmware: Any, tmp_path: Path, secret_request: bytes
) -> None:
    (tmp_path / "request").write_bytes(secret_request)
    assert secret("add", str(tmp_path / "request")).code == 0
    assert firmware.story.requests == [secret_request]


def test_an_id_that_is_there_is_refused_without_force(secret: Any, firmware: Any, request_file: Any) -> None:
    file = request_file("payments-signing")
    ended = secret("add", file)
    assert (ended.code, firmware.story.requests) == (1, [])
    assert ended.err == (
        f"error: `{file}`: a secret with the id 0x{SIGNING} is in the store: `--force` adds it too\n"
    )
    assert secret("add", "-f", file).code == 0
    assert len(firmware.story.requests) == 1


def test_a_refusal_is_said_as_pvsecret_says_it(secret: Any, firmware: Any, request_file: Any) -> None:
    firmware.story.locked = True
    ended = secret("add", request_file("one"))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        "error: Ultravisor: 'the secret store is locked until the guest stops' (0x0102,0x0000)\n"
    )


def test_of_several_it_is_said_which(secret: Any, firmware: Any, request_file: Any) -> None:
    one, same, three = request_file("one"), request_file("payments-signing"), request_file("three")
    ended = secret("add", one, same, three)
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == f"error: `{same}` was not added; before it: `{one}`"
    assert len(firmware.story.requests) == 1


def test_a_file_that_is_too_long_is_not_sent(secret: Any, firmware: Any, tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 30)
    ended = secret("add", str(tmp_path / "long"))
    assert (ended.code, firmware.story.requests) == (1, [])
    assert "at most 1048576 bytes" in ended.err


# --- list and lock


def test_the_list_for_people(secret: Any, firmware: Any) -> None:
    told = (
        "Total number of secrets: 3\n\n"
        f"0 Association:\n  0x{SIGNING}\n"
        f"1 PLAINTEXT:\n  0x{GREETING}\n"
        f"2 AES-256-KEY:\n  0x{DISK}\n  disk\n"
    )
    assert secret("list").out == told
    firmware.story.locked = True
    assert secret("list").out == told + "\nThe store is locked until the guest stops.\n"


def test_an_empty_list(secret: Any, firmware: Any) -> None:
    firmware.story.secrets.clear()
    assert secret("list").out == "Total number of secrets: 0\n"
    assert yaml.safe_load(secret("list", "--format", "yaml").out) == {"total_num_secrets": 0, "secrets": []}


@pytest.mark.parametrize("name", [b"\x1b[2J", b"\xff\xfe", b"a\nb", b"", b"x" * 32])
def test_an_id_that_is_no_text_is_not_shown_as_one(secret: Any, firmware: Any, name: bytes) -> None:
    firmware.story.secrets[:] = [
        messages.Secret(index=0, type=0x99, length=32, id=name.ljust(32, b"\x00").hex())
    ]
    assert secret("list").out == (
        f"Total number of secrets: 1\n\n0 153:\n  0x{name.ljust(32, bytes(1)).hex()}\n"
    )


def test_the_list_as_yaml(secret: Any) -> None:
    assert yaml.safe_load(secret("list", "--format", "yaml").out) == {
        "total_num_secrets": 3,
        "secrets": [
            {"index": 0, "stype": 2, "len": 32, "id": f"0x{SIGNING}"},
            {"index": 1, "stype": 3, "len": 16, "id": f"0x{GREETING}"},
            {"index": 2, "stype": 6, "len": 64, "id": f"0x{DISK}"},
        ],
    }


def test_the_list_in_binary_goes_to_a_file(secret: Any, tmp_path: Path) -> None:
    file = tmp_path / "list.bin"
    assert secret("list", "--format", "bin", "-o", str(file)).out == ""
    found = decode_list(file.read_bytes())
    assert [(each.index, each.kind, each.length, each.id.hex()) for each in found.entries] == [
        (0, 2, 32, SIGNING),
        (1, 3, 16, GREETING),
        (2, 6, 64, DISK),
    ]
    assert secret("list", "-o", str(file)).code == 1
    assert secret("list", "-o", str(file), "--force").code == 0
    assert file.read_text().startswith("Total number of secrets: 3\n")


def test_the_list_as_json(secret: Any) -> None:
    told = json.loads(secret("list", "--json").out)
    assert told["locked"] is False
    assert [entry["type"] for entry in told["secrets"]] == [2, 3, 6]


def test_lock(secret: Any) -> None:
    assert secret("lock").code == 0
    assert json.loads(secret("list", "--json").out)["locked"] is True


# --- retrieve


@pytest.mark.parametrize(
    ("wanted", "inform"),
    [("greeting", "name"), ("1", "idx"), (GREETING, "hex"), (f"0x{GREETING.upper()}", "hex")],
)
def test_a_plaintext_secret_comes_back_in_clear(secret: Any, wanted: str, inform: str) -> None:
    assert secret("retrieve", wanted, "--inform", inform, "--outform", "bin").out == "hello"
    assert secret("retrieve", wanted, "--inform", inform).out == (
        "-----BEGIN PLAINTEXT SECRET-----\nkind: PLAINTEXT\n\naGVsbG8=\n-----END PLAINTEXT SECRET-----\n"
    )


@pytest.mark.parametrize(
    "tag", ["!Retrievable\n", "---\n!Retrievable\nkind: PLAINTEXT\n", "", "!Association\n"]
)
def test_the_file_beside_the_request_says_which(secret: Any, tmp_path: Path, tag: str) -> None:
    (tmp_path / "greeting.yaml").write_text(f"{tag}name: greeting\nid: '0x{GREETING}'\n")
    assert secret("retrieve", str(tmp_path / "greeting.yaml"), "--outform", "bin").out == "hello"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id: [1]\n",
        "- id\n",
        "id: 0x12\n",
        "name: x\n",
        ": :\n\t-",
        "\xff",
        "!!python/name:os.system\nid: x\n",
    ],
)
def test_a_file_that_says_nothing_is_refused(secret: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="latin-1")
    ended = secret("retrieve", str(tmp_path / "bad.yaml"))
    assert ended.code == 2
    assert "--inform" in ended.err


def test_the_short_verb_of_pvsecret_is_known(secret: Any) -> None:
    assert secret("retr", "1", "--inform", "idx", "--outform", "bin").out == "hello"


def test_without_a_file_the_way_out_is_said(secret: Any) -> None:
    ended = secret("retrieve", "greeting")
    assert ended.code == 1
    assert ended.err == "error: `greeting`: no such file or directory\n"


def test_a_key_comes_back_protected_and_says_whose_it_is(secret: Any, tmp_path: Path) -> None:
    file = tmp_path / "disk.pem"
    assert secret("retrieve", "disk", "--inform", "name", "-o", str(file)).code == 0
    text = file.read_text()
    assert text.startswith("-----BEGIN IBM PROTECTED KEY-----\nkind: AES-256-KEY\nemulator: keyvisor;")
    assert base64.b64decode("".join(text.splitlines()[4:-1])) == BLOB
    assert os.stat(file).st_mode & 0o777 == 0o600
    bare = tmp_path / "disk.bin"
    secret("retrieve", "disk", "--inform", "name", "--outform", "bin", "-o", str(bare))
    assert bare.read_bytes() == BLOB


@pytest.mark.parametrize(
    ("wanted", "inform"), [("x", "idx"), ("-1", "idx"), ("123456", "idx"), ("abc", "hex"), ("g" * 64, "hex")]
)
def test_what_names_no_secret_is_the_command_line_that_is_wrong(
    secret: Any, wanted: str, inform: str
) -> None:
    assert secret("retrieve", "--inform", inform, "--", wanted).code == 2


def test_a_retrieval_that_is_refused_is_said_as_pvsecret_says_it(secret: Any) -> None:
    ended = secret("retrieve", "9", "--inform", "idx")
    assert ended.err == "error: Ultravisor: 'no secret has this index; look at the list' (0x0110,0x0000)\n"
    assert "no secret has `unknown`" in secret("retrieve", "unknown", "--inform", "name").err


def test_other_refusals_are_not_the_ultravisors(secret: Any, firmware: Any) -> None:
    firmware.story.answer_with = lambda handler: handler.send_answer(
        404, messages.Problem(kind="http", code=404, message="this guest was stopped")
    )
    assert secret("lock").err == "error: this guest was stopped\n"


def test_the_verbs_of_before_are_gone(keyvisor: Any) -> None:
    for verb in ("add-secret", "secrets", "lock-secrets"):
        assert keyvisor("guest", verb, "--guest", "payments").code == 2


# --- verify


def test_a_request_is_verified_as_the_owner_does_it(keyvisor: Any, request_file: Any, tmp_path: Path) -> None:
    """The rules are tested with `owner request verify`; here, that every option reaches them. No firmware is asked."""
    file = request_file("one")
    outcomes = [keyvisor(*verb, "verify", file) for verb in (("owner", "request"), ("guest", "secret"))]
    assert outcomes[0] == outcomes[1]
    assert (outcomes[1].code, outcomes[1].out) == (0, "")
    assert "no user data" in outcomes[1].err
    output = tmp_path / "data"
    assert keyvisor("guest", "secret", "verify", "-i", file, "-o", str(output)).code == 0
    assert output.read_bytes() == b""
    assert keyvisor("guest", "secret", "verify", "-i", file, "-o", str(output)).code == 1
    assert keyvisor("guest", "secret", "verify", "-i", file, "-o", str(output), "-f").code == 0
    signer = tmp_path / "signer.pem"
    public = ec.derive_private_key(9, ec.SECP521R1()).public_key()
    signer.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert keyvisor("guest", "secret", "verify", file, "--user-cert", str(signer)).code == 1
    assert keyvisor("guest", "secret", "verify").code == 2
    assert keyvisor("guest", "secret", "verify", file, "-i", file).code == 2
