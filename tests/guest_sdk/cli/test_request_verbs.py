"""`keyvisor owner request`, all of its verbs as an owner runs them: files in, files out, and no secret anywhere else."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import stat
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from keyvisor_guest.cli.owner_files import write_private
from keyvisor_guest.cli.request_options import _EXCLUSIVE, _SPELLED, CommonOptions
from keyvisor_guest.wire.asrcb import open_request, parse
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import Unbuildable
from keyvisor_guest.wire.retrieved_secrets import KIND_NAMES
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind
from keyvisor_guest.wire.secret_values import elliptic_key
from keyvisor_guest.wire.user_data import unsigned, verify

HOST_KEY = ec.derive_private_key(0x1001, ec.SECP521R1())
USER_KEY = ec.derive_private_key(int.from_bytes(bytes(range(66))), ec.SECP521R1())
TLS_KEY = ec.derive_private_key(int.from_bytes(bytes(range(32))), ec.SECP256R1())
IDENTITY = BootIdentity(b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa4" * 16)
CUID = bytes(range(0xC0, 0xD0))

Run = Callable[..., Any]


def certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA512()).public_bytes(Encoding.PEM)


def pem(key: ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The owner's folder, with what they start from."""
    folder = tmp_path / "desk"
    folder.mkdir()
    fields = {name: getattr(IDENTITY, name).hex() for name in ("pld", "ald", "tld", "header_tag")}
    public = USER_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    contents = {
        "identity.json": json.dumps(fields).encode(),
        "host.crt": certificate(HOST_KEY),
        "user.pem": pem(USER_KEY),
        "user.crt": certificate(USER_KEY),
        "user.pub": public,
        "other.crt": certificate(HOST_KEY),
        "tls.pem": pem(TLS_KEY),
        "secret32": b"never-shown-0123456789-0123456-x",
        "text": b"never shown text\n",
        "data": b"for payments-1",
        "policy.yaml": b"version: 1\n",
        "empty": b"",
        "cuid": CUID,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def owner(keyvisor: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(desk)
    return lambda *arguments: keyvisor("owner", "request", *arguments)


@pytest.fixture
def make(owner: Run) -> Run:
    """Make a request with the options that all need."""
    common = ("-k", "host.crt", "--no-verify", "-o", "made.bin")

    def run(*arguments: str) -> Any:
        image = () if "--hdr" in arguments or "--identity" in arguments else ("--identity", "identity.json")
        return owner(*arguments, *common, *image)

    return run


def opened(path: Path) -> Any:
    block = parse(path.read_bytes())
    return block.public, open_request(block, [HOST_KEY])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


EVERY_VERB = (
    ("association", "payments", "--input-secret", "secret32"),
    ("retrievable", "disk", "--type", "aes", "--secret", "secret32"),
    ("retrievable", "file", "--type", "plain", "--secret", "text"),
    ("retrievable", "tls", "--type", "ec", "--secret", "tls.pem"),
    ("meta", "--extension-secret", "secret32"),
    ("update-cck", "--secret", "secret32"),
)


# What is made


@pytest.mark.parametrize(
    ("arguments", "tag", "kind", "name"),
    [
        (("association", "payments"), "Association", None, "payments"),
        (
            ("retrievable", "file", "--type", "plain", "--secret", "text"),
            "Retrievable",
            "3 (PLAINTEXT)",
            "file",
        ),
        (
            ("retrievable", "disk", "--type", "aes", "--secret", "secret32"),
            "Retrievable",
            "6 (AES-256-KEY)",
            "disk",
        ),
        (
            ("retr", "d", "--type", "aes-xts", "--secret", "secret32"),
            "Retrievable",
            "7 (AES-XTS-128-KEY)",
            "d",
        ),
        (
            ("retrievable", "tls", "--type", "ec", "--secret", "tls.pem"),
            "Retrievable",
            "17 (EC-SECP256R1-PRIVATE-KEY)",
            "tls",
        ),
    ],
)
def test_the_description_is_byte_for_byte_what_pvsecret_leaves(
    make: Run, desk: Path, arguments: tuple[str, ...], tag: str, kind: str | None, name: str
) -> None:
    kind_line = "" if kind is None else f"kind: {kind}\n"
    golden = f"!{tag}\n{kind_line}name: {name}\nid: '0x{digest(name)}'\n"
    assert make(*arguments).code == 0
    assert (desk / f"{name}.yaml").read_text() == golden
    assert make(*arguments, "--stdout", "--force").out == golden


def test_every_retrievable_kind_has_its_name() -> None:
    others = {SecretKind.NULL, SecretKind.ASSOCIATION, SecretKind.UPDATE_CCK}
    assert set(KIND_NAMES) == set(KINDS) - others
    assert len(set(KIND_NAMES.values())) == len(KIND_NAMES)


def test_a_retrievable_request_holds_what_its_file_holds(make: Run, desk: Path) -> None:
    make("retrievable", "tls", "--type", "ec", "--secret", "tls.pem", "--use-name")
    public, contents = opened(desk / "made.bin")
    assert (public.secret.kind, public.secret.id) == (SecretKind.EC_P256, b"tls".ljust(32, b"\x00"))
    key = elliptic_key(SecretKind.EC_P256, contents.secret)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.private_numbers() == TLS_KEY.private_numbers()
    make("retrievable", "file", "--type", "plain", "--secret", "text", "--force")
    public, contents = opened(desk / "made.bin")
    assert (public.secret.id.hex(), contents.secret[2:19]) == (digest("file"), b"never shown text\n")


@pytest.mark.parametrize("verb", ["update-cck", "cck"])
def test_an_update_of_the_cck_leaves_no_description(make: Run, desk: Path, verb: str) -> None:
    before = names(desk)
    assert make(verb, "--secret", "secret32").code == 0
    assert names(desk) - before == {"made.bin"}
    public, contents = opened(desk / "made.bin")
    assert (public.secret.kind, public.secret.id) == (SecretKind.UPDATE_CCK, bytes(32))
    assert contents.secret == (desk / "secret32").read_bytes()


@pytest.mark.parametrize("arguments", EVERY_VERB)
def test_part3_T4_every_verb_can_sign(make: Run, owner: Run, desk: Path, arguments: tuple[str, ...]) -> None:
    assert make(*arguments, "--user-data", "data", "--user-sign-key", "user.pem").code == 0
    assert verify((desk / "made.bin").read_bytes(), certificate(USER_KEY)) == b"for payments-1"
    for user_cert in ("user.crt", "user.pub"):
        ended = owner("verify", "made.bin", "--user-cert", user_cert)
        assert (ended.code, ended.out) == (0, "for payments-1")
        assert ended.err == f"verified: signed by the key of `{user_cert}`\n"


def test_user_data_can_be_unsigned_and_empty(make: Run, desk: Path) -> None:
    make("meta", "--user-data", "data")
    assert unsigned((desk / "made.bin").read_bytes()) == b"for payments-1"
    assert "`empty` is empty" in make("meta", "--user-data", "empty", "--force").err
    assert unsigned((desk / "made.bin").read_bytes()) == b""


def test_a_policy_is_named_by_its_digest_and_its_path(make: Run, desk: Path) -> None:
    assert make("meta", "--policy", "policy.yaml").code == 0
    expected = hashlib.sha256(b"version: 1\n").digest() + b"policy.yaml"
    assert unsigned((desk / "made.bin").read_bytes()) == expected


def test_the_tags_of_requests_are_listed(make: Run, desk: Path) -> None:
    tags = []
    for _ in range(2):
        assert make("meta", "--toc-policy", "toc", "--force").code == 0
        tags.append((desk / "made.bin").read_bytes()[-16:].hex())
    assert (desk / "toc").read_text() == "".join(f"{tag}\n" for tag in tags)
    (desk / "toc").write_text("# a line without an end")
    make("meta", "--toc-policy", "toc", "--force")
    assert len((desk / "toc").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "content",
    [
        CUID,
        b"0x" + CUID.hex().encode(),
        f"cuid: 0x{CUID.hex()}\n".encode(),
        f"cuid: '0x{CUID.hex().upper()}'\n".encode(),
        f"cuid: {CUID.hex()}\nother: 1\n".encode(),
        f"a:\n  b:\n    cuid: 0x{CUID.hex()}\n".encode(),
        json.dumps({"cuid": CUID.hex()}).encode(),
        f"cuid: 0x{CUID.hex()}\na:\n  cuid: 0x{'00' * 16}\n".encode(),
    ],
)
def test_a_cuid_comes_as_bytes_or_in_yaml(make: Run, desk: Path, content: bytes) -> None:
    (desk / "cuid").write_bytes(content)
    assert make("meta", "--cuid", "cuid").code == 0
    assert opened(desk / "made.bin")[0].cuid == CUID


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no entry `cuid`"),
        (b"a: 1\n", "has no entry `cuid`"),
        (b"- cuid: 1\n", "has no entry `cuid`"),
        (b"cuid: 0x12\n", "is not 32 hex digits"),
        (b"cuid: [", "neither 16 bytes nor YAML"),
        (b"\xff\xfe\x00", "neither 16 bytes nor YAML"),
        (b"[" * 5000, "neither 16 bytes nor YAML"),
        (b"&a [*a]", "neither 16 bytes nor YAML"),
        (b"x" * 70000, "too long for a CUID"),
        (b"a: &a {b: {c: {d: {e: {f: {g: {h: {cuid: 0}}}}}}}}", "has no entry `cuid`"),
    ],
)
def test_what_holds_no_cuid_is_refused(make: Run, desk: Path, content: bytes, said: str) -> None:
    (desk / "cuid").write_bytes(content)
    ended = make("meta", "--cuid", "cuid")
    assert ended.code == 1
    assert said in ended.err.splitlines()[-1]
    assert not (desk / "made.bin").exists()


def test_references_do_not_multiply(make: Run, desk: Path) -> None:
    """Each level names the one before it nine times: looked at once each, it takes no time."""
    levels = ["a0: &a0 {x: y}"] + [
        f"a{n}: &a{n} {{{', '.join(f'k{k}: *a{n - 1}' for k in range(9))}}}" for n in range(1, 9)
    ]
    (desk / "cuid").write_text("\n".join(levels))
    assert "has no entry `cuid`" in make("meta", "--cuid", "cuid").err


# Who must not see what


@pytest.mark.parametrize("arguments", EVERY_VERB)
def test_no_secret_leaves_its_file(make: Run, desk: Path, arguments: tuple[str, ...]) -> None:
    """Neither on the terminal nor in a file that was made: not in clear, not in hex, not in base64."""
    inputs = names(desk)
    ended = make(*arguments, "--user-sign-key", "user.pem", "--toc-policy", "toc")
    assert ended.code == 0
    said = (ended.out + ended.err).encode()
    written = [(desk / name).read_bytes() for name in names(desk) - inputs]
    assert written
    secrets = [(desk / name).read_bytes() for name in ("secret32", "text", "tls.pem", "user.pem")]
    secrets += [
        TLS_KEY.private_numbers().private_value.to_bytes(32, "big"),
        USER_KEY.private_numbers().private_value.to_bytes(66, "big"),
    ]
    for where in (said, *written):
        for secret in secrets:
            assert secret not in where
            assert secret.hex().encode() not in where
            assert base64.b64encode(secret) not in where
        assert b"never" not in where


@pytest.mark.parametrize("arguments", EVERY_VERB)
def test_files_are_for_the_owner_alone(make: Run, desk: Path, arguments: tuple[str, ...]) -> None:
    before = names(desk)
    make(*arguments, "--toc-policy", "toc")
    made = names(desk) - before
    assert {"made.bin", "toc"} <= made
    assert {stat.S_IMODE((desk / name).stat().st_mode) for name in made} == {0o600}


def test_making_a_request_inside_a_guest_is_warned_about(make: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "seems to be a guest" not in make("meta").err
    monkeypatch.setenv("KEYVISOR_GUEST", "payments")
    ended = make("meta", "--force")
    assert ended.code == 0
    assert "KEYVISOR_GUEST is set, so this seems to be a guest" in ended.err


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("retrievable", "f", "--type", "plain", "--secret", "big"),
            "too long for a secret of type `plain`: 8190",
        ),
        (
            ("retrievable", "f", "--type", "aes", "--secret", "data"),
            "an AES key is a file of 16, 24 or 32 bytes",
        ),
        (
            ("retrievable", "f", "--type", "aes", "--secret", "big"),
            "too long for a secret of type `aes`: 32 bytes",
        ),
        (
            ("retrievable", "f", "--type", "ec", "--secret", "text"),
            "an EC key: not a private key, PEM or DER",
        ),
        (("retrievable", " f", "--type", "plain", "--secret", "text"), "no secret's name"),
        (("update-cck", "--secret", "data"), "32 bytes, not 14"),
        (("update-cck", "--secret", "big"), "too long for a customer communication key"),
        (("meta", "--user-data", "big"), "too long for user data: 512 bytes"),
        (("meta", "--user-data", "half", "--user-sign-key", "user.pem"), "EC P-521 has at most 256 bytes"),
        (("meta", "--user-sign-key", "tls.pem"), "`tls.pem`: a user signing key is EC P-521"),
        (("meta", "--user-sign-key", "data"), "`data`: the user signing key: not a private key"),
        (("meta", "--toc-policy", "absent/toc"), "`absent`: there is no such directory"),
        (("meta", "--toc-policy", "made.bin"), "two outputs are one file"),
        (("association", "toc", "--toc-policy", "toc.yaml"), "two outputs are one file"),
        (("meta", "--cuid", "zeros"), "binds to no instance"),
    ],
)
def test_what_fails_ends_with_1_one_line_and_no_file(
    make: Run, desk: Path, arguments: tuple[str, ...], said: str
) -> None:
    for name, content in (("big", bytes(8191)), ("half", bytes(257)), ("zeros", bytes(16))):
        (desk / name).write_bytes(content)
    before = names(desk)
    ended = make(*arguments)
    errors = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
    assert (ended.code, len(errors)) == (1, 1)
    assert said in errors[0]
    assert names(desk) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("retrievable", "f", "--type", "plain"),
        ("retrievable", "f", "--secret", "text"),
        ("retrievable", "f", "--type", "rsa", "--secret", "text"),
        ("retrievable", "--type", "plain", "--secret", "text"),
        ("update-cck",),
        ("meta", "--user-data", "absent"),
        ("meta", "--identity", "identity.json", "--hdr", "text"),
        ("meta", "--cuid", "cuid", "--cuid-hex", "c1" * 16),
        ("meta", "--policy", "policy.yaml", "--user-data", "data"),
        ("meta", "--policy", "policy.yaml", "--user-sign-key", "user.pem"),
        ("meta", "--cck", "secret32", "--extension-secret", "secret32"),
    ],
)
def test_a_wrong_command_line_ends_with_2(make: Run, desk: Path, arguments: tuple[str, ...]) -> None:
    before = names(desk)
    assert make(*arguments).code == 2
    assert names(desk) == before


def test_the_image_must_be_named(owner: Run) -> None:
    ended = owner("meta", "-k", "host.crt", "--no-verify", "-o", "made.bin")
    assert ended.code == 2
    assert "for which image? give --hdr FILE or --identity FILE" in ended.err


def test_the_image_can_name_itself(make: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of images is put in here: what it says is taken, for the file that was given."""
    images = types.ModuleType("images")
    images.identity_of = lambda data: IDENTITY if data == b"an image" else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyvisor_guest.wire.se_image", images)
    (desk / "image").write_bytes(b"an image")
    assert make("meta", "--hdr", "image").code == 0
    assert opened(desk / "made.bin")[0].identity == IDENTITY


def test_what_has_no_image_header_is_refused(make: Run) -> None:
    ended = make("meta", "--hdr", "text")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("error: ")


def test_the_table_of_options_that_exclude_each_other_names_options() -> None:
    assert {name for pair in _EXCLUSIVE for name in pair} == set(_SPELLED)
    assert set(_SPELLED) <= set(CommonOptions.__dataclass_fields__)


@pytest.mark.parametrize("taken", ["made.bin", "file.yaml"])
def test_nothing_is_overwritten_without_force(make: Run, desk: Path, taken: str) -> None:
    (desk / taken).write_text("somebody's")
    arguments = ("retrievable", "file", "--type", "plain", "--secret", "text", "--toc-policy", "toc")
    before = names(desk)
    assert make(*arguments).code == 1
    assert names(desk) == before
    assert (desk / taken).read_text() == "somebody's"
    assert make(*arguments, "--force").code == 0


def test_a_tag_that_cannot_be_listed_leaves_no_request(tmp_path: Path) -> None:
    (tmp_path / "toc").mkdir()
    (tmp_path / "made").write_text("somebody's")
    for force in (False, True):
        with pytest.raises(OSError, match=r"directory|exists already"):
            write_private([(tmp_path / "made", b"1")], force=force, appended=(tmp_path / "toc", b"tag\n"))
    assert names(tmp_path) == {"toc", "made"}
    assert (tmp_path / "made").read_text() == "somebody's"


def test_a_request_that_cannot_be_written_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else makes the file after it was looked for and before ours is put there."""
    made, toc = tmp_path / "made", (tmp_path / "toc", b"tag\n")
    with monkeypatch.context() as raced:
        raced.setattr("os.fsync", lambda _descriptor: made.write_text("somebody's"))
        with pytest.raises(FileExistsError):
            write_private([(made, b"1")], force=False, appended=toc)
    assert names(tmp_path) == {"made"}
    toc[0].write_text("first\n")
    with pytest.raises(FileExistsError):
        write_private([(made, b"1")], force=False, appended=toc)
    assert toc[0].read_text() == "first\n"


def test_a_list_of_requests_is_a_file_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Unbuildable, match="one file"):
        write_private([(tmp_path / "made", b"1")], force=True, appended=(tmp_path / "made", b"tag\n"))


# Looking at it


@pytest.mark.parametrize(
    ("arguments", "kind", "name", "length"),
    [
        (("association", "payments"), "association", "payments", 32),
        (("retrievable", "file", "--type", "plain", "--secret", "text"), "plaintext", "file", 32),
        (("retrievable", "tls", "--type", "ec", "--secret", "tls.pem"), "EC P-256 private key", "tls", 32),
        (("meta",), "null", None, 0),
        (("update-cck", "--secret", "secret32"), "update of the customer communication key", None, 32),
    ],
)
def test_show_tells_what_is_public_of_every_kind(
    make: Run, owner: Run, arguments: tuple[str, ...], kind: str, name: str | None, length: int
) -> None:
    make(*arguments, "--user-data", "data", "--user-sign-key", "user.pem")
    shown = json.loads(owner("show", "made.bin", "--json").out)
    expected = {"meta": None, "update-cck": "00" * 32}.get(arguments[0], name and digest(name))
    assert (shown["type"], shown["id"], shown["secret_length"]) == (kind, expected, length)
    assert (shown["user_data_kind"], bytes.fromhex(shown["user_data"])) == ("EC P-521", b"for payments-1")
    lines = owner("show", "made.bin").out.splitlines()
    assert [line.split()[0] for line in lines] == list(shown)


# Verifying


def test_part3_T4_the_verb_refuses_what_is_not_the_users(make: Run, owner: Run, desk: Path) -> None:
    make("meta", "--user-data", "data", "--user-sign-key", "user.pem")
    signed = (desk / "made.bin").read_bytes()
    (desk / "changed").write_bytes(signed[:0x218] + b"F" + signed[0x219:])
    make("meta", "--user-data", "data", "--force")
    (desk / "unsigned").write_bytes((desk / "made.bin").read_bytes())
    make("meta", "--force")
    (desk / "none").write_bytes((desk / "made.bin").read_bytes())
    (desk / "signed").write_bytes(signed)
    for arguments, said in (
        (("changed", "--user-cert", "user.crt"), "`changed`: the signature does not hold"),
        (("signed", "--user-cert", "other.crt"), "the signature does not hold"),
        (("signed", "--user-cert", "data"), "neither a certificate nor a public key"),
        (("unsigned", "--user-cert", "user.crt"), "not signed"),
        (("none", "--user-cert", "user.crt"), "no user data: nobody signed it"),
        (("signed",), "signed with EC P-521: give the signer's certificate"),
        (("text",), "not an add-secret request"),
        (("text", "--user-cert", "user.crt"), "not an add-secret request"),
    ):
        ended = owner("verify", *arguments, "-o", "verified")
        assert (ended.code, ended.out) == (1, "")
        assert said in ended.err
        assert len(ended.err.splitlines()) == 1
        assert not (desk / "verified").exists()


def test_without_a_certificate_it_says_that_nobody_vouches(make: Run, owner: Run) -> None:
    make("meta", "--user-data", "data")
    ended = owner("verify", "made.bin")
    assert (ended.code, ended.out) == (0, "for payments-1")
    assert "NOT signed; nobody vouches" in ended.err
    make("meta", "--force")
    ended = owner("verify", "-i", "made.bin")
    assert (ended.code, ended.out) == (0, "")
    assert "no user data; nobody vouches" in ended.err


def test_user_data_goes_to_a_file_whatever_bytes_it_has(make: Run, owner: Run, desk: Path) -> None:
    (desk / "data").write_bytes(b"\x00\xff\x1b[31m\n")
    make("meta", "--user-data", "data", "--user-sign-key", "user.pem")
    arguments = ("verify", "-i", "made.bin", "--user-cert", "user.crt", "-o", "verified")
    assert owner(*arguments).code == 0
    assert (desk / "verified").read_bytes() == b"\x00\xff\x1b[31m\n"
    assert stat.S_IMODE((desk / "verified").stat().st_mode) == 0o600
    assert owner(*arguments).code == 1
    assert owner(*arguments, "--force").code == 0


@pytest.mark.parametrize("arguments", [("verify",), ("verify", "text", "-i", "text"), ("verify", "absent")])
def test_which_request_to_verify_is_said_once(owner: Run, arguments: tuple[str, ...]) -> None:
    assert owner(*arguments).code == 2
