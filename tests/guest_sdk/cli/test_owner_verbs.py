"""`keyvisor owner`, as an owner runs it: files in, files out."""

from __future__ import annotations

import datetime
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.images import an_image

from keyvisor_guest.cli.owner_files import write_private, yaml_file_name
from keyvisor_guest.wire.asrcb import open_request, parse
from keyvisor_guest.wire.errors import Unbuildable
from keyvisor_guest.wire.p521 import public_key_hash
from keyvisor_guest.wire.secret_ids import derive_extension_secret

HOST_KEY = ec.derive_private_key(0x1001, ec.SECP521R1())
IMAGE = an_image(HOST_KEY)
SECRET = bytes(range(0x40, 0x60))


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a host key")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(HOST_KEY.public_key())
    builder = (
        builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    )
    return builder.sign(HOST_KEY, hashes.SHA512()).public_bytes(Encoding.PEM)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The owner's folder, with what they start from."""
    folder = tmp_path / "desk"
    folder.mkdir()
    (folder / "image").write_bytes(IMAGE.data)
    (folder / "host.crt").write_bytes(certificate())
    (folder / "secret").write_bytes(SECRET)
    identity = IMAGE.identity
    fields = {name: getattr(identity, name).hex() for name in ("pld", "ald", "tld", "header_tag")}
    (folder / "identity.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def owner(keyvisor: Callable[..., Any], desk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(desk)
    return lambda *arguments: keyvisor("owner", *arguments)


@pytest.fixture
def request_for(owner: Callable[..., Any]) -> Callable[..., Any]:
    common = ("-k", "host.crt", "--no-verify", "--identity", "identity.json", "-o", "made.bin")

    def run(*arguments: str) -> Any:
        return owner("request", *arguments, *common)

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def opened(path: Path) -> Any:
    block = parse(path.read_bytes())
    return block.public, open_request(block, [HOST_KEY])


def test_an_identity_is_stated_by_a_copy_of_ones_own(owner: Callable[..., Any], desk: Path) -> None:
    assert owner("identity", "image", "-o", "stated.json").code == 0
    assert json.loads((desk / "stated.json").read_text()) == json.loads((desk / "identity.json").read_text())
    assert json.loads(owner("identity", "image", "--json").out) == json.loads(
        (desk / "stated.json").read_text()
    )
    shown = dict(line.split() for line in owner("identity", "image").out.splitlines())
    assert shown == json.loads((desk / "stated.json").read_text())


def test_an_association_request_and_its_description(request_for: Callable[..., Any], desk: Path) -> None:
    before = names(desk)
    ended = request_for("association", "payments signing.v1")
    assert (ended.code, ended.out) == (0, "")
    assert names(desk) - before == {"made.bin", "payments_signing.yaml"}
    public, contents = opened(desk / "made.bin")
    assert public.identity == IMAGE.identity
    assert len(contents.secret) == 32
    text = (desk / "payments_signing.yaml").read_text()
    assert text.startswith("!Association\n")
    described = yaml.safe_load(text.removeprefix("!Association\n"))
    digest = hashlib.sha256(b"payments signing.v1").hexdigest()
    assert described == {"name": "payments signing.v1", "id": f"0x{digest}"}
    assert public.secret.id.hex() == digest


def test_the_description_can_go_to_standard_output(request_for: Callable[..., Any], desk: Path) -> None:
    ended = request_for("association", "payments", "--stdout")
    assert ended.out.startswith("!Association\nname: payments\nid: '0x")
    assert not (desk / "payments.yaml").exists()


def test_every_option_reaches_the_request(request_for: Callable[..., Any], desk: Path) -> None:
    (desk / "extension").write_bytes(b"\xe1" * 32)
    ended = request_for(
        "association", "payments", "--input-secret", "secret", "--output-secret", "kept", "--extension-secret",
        "extension", "--cuid-hex", "0x" + "C1" * 16, "--use-name", "--flags", "disable-dump",
    )  # fmt: skip
    assert ended.code == 0
    public, contents = opened(desk / "made.bin")
    assert contents.secret == SECRET == (desk / "kept").read_bytes()
    assert contents.extension_secret == b"\xe1" * 32
    assert (public.cuid, public.flags) == (b"\xc1" * 16, 1 << 63)
    assert public.secret.id == b"payments".ljust(32, b"\x00")


def test_a_meta_request_with_a_derived_extension_secret(request_for: Callable[..., Any], desk: Path) -> None:
    (desk / "cck").write_bytes(b"\x0c" * 32)
    before = names(desk)
    assert request_for("meta", "--cck", "cck").code == 0
    assert names(desk) - before == {"made.bin"}
    public, contents = opened(desk / "made.bin")
    assert public.secret.kind == 1
    assert contents.extension_secret == derive_extension_secret(b"\x0c" * 32, IMAGE.identity.header_tag)


def test_files_are_for_the_owner_alone(
    owner: Callable[..., Any], request_for: Callable[..., Any], desk: Path
) -> None:
    before = names(desk)
    request_for("association", "payments", "--output-secret", "kept")
    owner("identity", "image", "-o", "stated.json")
    made = names(desk) - before
    assert made == {"made.bin", "payments.yaml", "kept", "stated.json"}
    assert {stat.S_IMODE((desk / name).stat().st_mode) for name in made} == {0o600}


def test_secrets_are_never_printed(request_for: Callable[..., Any]) -> None:
    ended = request_for("association", "payments", "--input-secret", "secret", "--stdout")
    for text in (SECRET.hex(), SECRET.decode()):
        assert text not in ended.out + ended.err


@pytest.mark.parametrize("taken", ["made.bin", "payments.yaml", "kept"])
def test_nothing_is_overwritten_without_force(
    request_for: Callable[..., Any], desk: Path, taken: str
) -> None:
    (desk / taken).write_text("somebody's")
    before = names(desk)
    arguments = ("association", "payments", "--output-secret", "kept")
    ended = request_for(*arguments)
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == f"error: `{taken}`: exists already: give another name, or --force"
    assert names(desk) == before
    assert (desk / taken).read_text() == "somebody's"
    assert request_for(*arguments, "--force").code == 0
    assert (desk / taken).read_bytes() != b"somebody's"
    assert stat.S_IMODE((desk / taken).stat().st_mode) == 0o600


def test_without_no_verify_it_asks_who_vouches(owner: Callable[..., Any], desk: Path) -> None:
    for verb in (("association", "payments"), ("meta",)):
        ended = owner("request", *verb, "-k", "host.crt", "--identity", "identity.json", "-o", "made.bin")
        assert ended.code == 2
        assert "who vouches for the host-key documents? give --cert, --crl and --root-ca" in ended.err
    assert not (desk / "made.bin").exists()


def test_with_no_verify_it_says_what_is_not_checked(request_for: Callable[..., Any]) -> None:
    ended = request_for("meta")
    assert ended.code == 0
    assert "NOT verified: not their signature, not their validity, not their revocation" in ended.err
    assert public_key_hash(HOST_KEY.public_key()).hex() in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("association", " payments"), "no secret's name"),
        (
            ("association", "payments", "--input-secret", "image"),
            "`image` is too long for a secret: 32 bytes",
        ),
        (("association", "payments", "--input-secret", "short"), "32 bytes, not 3"),
        (("meta", "--cck", "short"), "has 32 bytes, not 3"),
        (("meta", "--extension-secret", "short"), "has 32 bytes, not 3"),
        (("meta", "-k", "short"), "`short`: not an X.509 certificate"),
        (("meta", "--identity", "short"), "`short` holds no boot identity"),
        (("meta", "-o", "absent/made"), "`absent`: there is no such directory"),
        (("association", "made", "-o", "made.yaml"), "two outputs are one file"),
        (("meta", "--cuid-hex", "00" * 16), "binds to no instance"),
    ],
)
def test_what_fails_ends_with_1_one_line_and_no_file(
    owner: Callable[..., Any], desk: Path, arguments: tuple[str, ...], said: str
) -> None:
    (desk / "short").write_bytes(b"abc")
    before = names(desk)
    defaults = {"-k": "host.crt", "--identity": "identity.json", "-o": "made.bin"}
    missing = [
        part for option, value in defaults.items() if option not in arguments for part in (option, value)
    ]
    ended = owner("request", *arguments, *missing, "--no-verify")
    errors = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
    assert ended.code == 1
    assert len(errors) == 1
    assert said in errors[0]
    assert names(desk) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("meta", "--cuid-hex", "c1"),
        ("meta", "--cuid-hex", "c1 " * 16),
        ("meta", "--cuid-hex", "zz" * 16),
        ("meta", "--flags", "enable-dump"),
        ("meta", "--cck", "secret", "--extension-secret", "secret"),
        ("meta", "--cck", "absent"),
        ("association",),
        ("retrievable", "payments"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    request_for: Callable[..., Any], desk: Path, arguments: tuple[str, ...]
) -> None:
    before = names(desk)
    assert request_for(*arguments).code == 2
    assert names(desk) == before


def test_show_prints_what_everybody_can_read(
    owner: Callable[..., Any], request_for: Callable[..., Any], desk: Path
) -> None:
    request_for("association", "payments", "--input-secret", "secret", "--flags", "disable-dump")
    data = (desk / "made.bin").read_bytes()
    shown = json.loads(owner("request", "show", "made.bin", "--json").out)
    assert shown["type"] == "association"
    assert shown["id"] == hashlib.sha256(b"payments").hexdigest()
    assert (shown["cuid"], shown["flags"], shown["size"]) == (None, ["disable-dump"], len(data))
    assert shown["host_keys"] == [public_key_hash(HOST_KEY.public_key()).hex()]
    assert shown["request_tag"] == data[-16:].hex()
    lines = owner("request", "show", "made.bin").out.splitlines()
    assert [line.split()[0] for line in lines] == list(shown)
    assert shown["pld"] in "".join(lines)
    assert SECRET.hex() not in "".join(lines)


def test_show_refuses_what_is_no_request(owner: Callable[..., Any]) -> None:
    ended = owner("request", "show", "image")
    assert ended.code == 1
    assert ended.err.startswith("error: `image` is no add-secret request that could be taken: ")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("payments", "payments.yaml"),
        ("my  key", "my__key.yaml"),
        ("a.b.c", "a.b.yaml"),
        (".hidden", ".hidden.yaml"),
        ("../../etc/passwd", ".._..yaml"),
        ("..", "..yaml"),
        ("/", "_.yaml"),
    ],
)
def test_a_description_stays_beside_the_request(name: str, file: str) -> None:
    assert yaml_file_name(name) == file


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    too_long = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="name too long"):
        write_private([(tmp_path / "first", b"1"), (too_long, b"2")], force=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unbuildable, match="one file"):
        write_private([(tmp_path / "a", b"1"), (tmp_path / "b/../a", b"2")], force=True)


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_private([(tmp_path / "link", b"1")], force=False)
    write_private([(tmp_path / "link", b"1")], force=True)
    assert not (tmp_path / "target").exists()
    assert (tmp_path / "link").read_bytes() == b"1"


def test_what_came_there_in_between_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else makes the file after it was looked for and before ours is put there."""
    wanted = tmp_path / "made.bin"
    monkeypatch.setattr("os.fsync", lambda _descriptor: wanted.write_text("somebody's"))
    with pytest.raises(FileExistsError, match="give another name, or --force"):
        write_private([(wanted, b"ours")], force=False)
    assert names(tmp_path) == {"made.bin"}
    assert wanted.read_text() == "somebody's"
