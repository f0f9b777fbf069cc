"""Volume keys from the guest's firmware and from its HSM, by the real command: who opens an image, who does not, and why.

With a real firmware and SoftHSM behind its cards. The guest `payments` has an HSM with keys, that of `others` is bound only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from keyvisor_guest.containers.key_wrapping import OaepHash, wrap_rsa
from keyvisor_guest.containers.oci.blobs import read_document
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import parse_secure_manifest, rewrapped
from keyvisor_guest.containers.release import parse_release

from ..guest_sdk.ordinary_image import layer, write_layout
from .conftest import HSM, SPARE, Ran, World, worlds
from .secrecy import nowhere

GUEST, OTHERS = "payments", "others"
LAYERS = [
    layer([("etc", None), ("etc/motd", b"welcome\n")]),
    layer([("srv", None), ("srv/pay", b"account numbers\n" * 500)]),
]
AES, RSA = "pkcs11:token=03.0011;object=kek", "pkcs11:id=%01"
LIMIT = 1 << 22


class Host(World):
    """The world, with images in it. `told` is all that was ever said."""

    told: list[str]

    def run(self, *command: str | Path, seconds: float = 120) -> Ran:
        ran = super().run(*command, seconds=seconds)
        self.told.append(ran.told)
        return ran

    def image(self, *words: str | Path) -> Ran:
        return self.keyvisor("image", *words)

    def opens(self, image: str, *words: str | Path, guest: str = GUEST) -> None:
        """The image opens, and its file is in it."""
        assert self.image("cat", image, "/etc/motd", *words, "--guest", guest).ok() == "welcome\n"

    def shut(self, image: str, *words: str | Path, guest: str = GUEST) -> str:
        """Why the image does not open."""
        told = self.image("cat", image, "/etc/motd", *words, "--guest", guest).refused()
        assert "welcome" not in told
        return told

    def give(self, name: str, file: str, guest: str = GUEST, kind: str = "plain") -> None:
        """The owner's request that carries a file, handed in."""
        words = ("owner", "request", "retrievable", name, "--type", kind, "--secret", file)
        made = ("--identity", f"{guest}.identity", "--output", f"{name}.request", "--force")
        self.keyvisor(*words, "--host-key-document", "host-key.pem", "--no-verify", *made).ok()
        self.keyvisor("guest", "secret", "add", "--guest", guest, f"{name}.request").ok()

    def fresh(self, image: str, name: str) -> str:
        """A copy of the layout for one test; the image's name in it."""
        shutil.copytree(self.directory / "images", self.directory / name)
        return f"{name}:{image}"

    def manifest(self, image: str) -> tuple[OciLayout, Descriptor, bytes]:
        path, _, tag = image.partition(":")
        layout = OciLayout(self.directory / path)
        found = layout.find(tag)
        return layout, found, read_document(layout.blobs, found.digest, LIMIT)

    def wrapped(self, image: str) -> dict[str, str]:
        return dict(parse_secure_manifest(self.manifest(image)[2]).wrapped_keys)

    def forge(self, image: str, wrapped: dict[str, str]) -> None:
        """What a host does: it puts annotations of its choice into an image's manifest."""
        layout, found, data = self.manifest(image)
        stored = layout.blobs.put(rewrapped(data, wrapped))
        layout.replace(found, Descriptor(found.media_type, stored.digest, stored.size, found.annotations))

    def provider(self, request: dict[str, Any], *words: str, guest: str = GUEST) -> dict[str, Any]:
        """What the key provider's command answers, asked as ocicrypt asks it."""
        ended = subprocess.run(
            ["keyvisor", "image", "keyprovider", "--guest", guest, *words],
            cwd=self.directory,
            env=self.environment,
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
        )
        self.told.append(ended.stderr.decode())
        assert b"Traceback" not in ended.stderr
        if ended.returncode:
            assert (ended.returncode, ended.stdout) == (1, b"")
            return {"refused": ended.stderr.decode()}
        return json.loads(ended.stdout)  # type: ignore[no-any-return]

    def wrap(self, options: bytes, *words: str) -> bytes:
        parameters = {
            "ec": {"Parameters": {}, "DecryptConfig": {}},
            "optsdata": base64.b64encode(options).decode(),
        }
        answer = self.provider({"op": "keywrap", "keywrapparams": parameters}, *words)
        return base64.b64decode(answer["keywrapresults"]["annotation"])

    def unwrap(self, annotation: bytes, *words: str, guest: str = GUEST) -> bytes | str:
        parameters = {"dc": {"Parameters": {}}, "annotation": base64.b64encode(annotation).decode()}
        answer = self.provider({"op": "keyunwrap", "keyunwrapparams": parameters}, *words, guest=guest)
        if "refused" in answer:
            return str(answer["refused"])
        return base64.b64decode(answer["keyunwrapresults"]["optsdata"])


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with worlds() as make:
        made = make()
        made.__class__ = Host
        assert isinstance(made, Host)
        made.told = []
        made.up()
        made.ready(GUEST, "payments-signing")
        made.guest(OTHERS, SPARE)
        made.keyvisor("guest", "bind", "--guest", OTHERS, SPARE).ok()
        kept = ("--login", "--sensitive")
        made.tool(GUEST, *kept, "--keygen", "--key-type", "AES:32", "--label", "kek").ok()
        made.tool(GUEST, *kept, "--keygen", "--key-type", "AES:32", "--label", "another").ok()
        made.tool(GUEST, "--login", "--keygen", "--key-type", "AES:32", "--label", "loose").ok()
        for number in ("31", "32"):
            twice = ("--keygen", "--key-type", "AES:32", "--label", "twice", "--id", number)
            made.tool(GUEST, *kept, *twice).ok()
        curve = ("--keypairgen", "--key-type", "EC:prime256v1", "--label", "ec", "--id", "33")
        made.tool(GUEST, "--login", *curve).ok()
        for bits, label, number in (("3072", "rk", "01"), ("2048", "short", "02")):
            pair = ("--keypairgen", "--key-type", f"RSA:{bits}", "--label", label, "--id", number)
            made.tool(GUEST, "--login", *pair).ok()
        write_layout(made.directory / "source", LAYERS, "v1")
        build = ("build", "source:v1", "--name", "pay", "--release", "min-version")
        made.image(*build, "-o", "images:v2", "--version", "2", "--key-out", "v2.key").ok()
        made.image(*build, "-o", "images:v1", "--version", "1", "--key", "v2.key").ok()
        made.give("volume-key", "v2.key")
        yield made


def key_of(host: Host, name: str = "v2.key") -> bytes:
    return parse_release((host.directory / name).read_bytes()).key.reveal()


def root_of(host: Host, image: str) -> str:
    return parse_secure_manifest(host.manifest(image)[2]).image_root.hex()


def public_key(host: Host, name: str) -> rsa.RSAPublicKey:
    """The public half of `rk`, as the owner gets it: PEM in the file `name`."""
    read = ("--read-object", "--type", "pubkey", "--id", "01", "-o", "rk.der")
    host.tool(GUEST, "--login", *read).ok()
    key = load_der_public_key((host.directory / "rk.der").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (host.directory / name).write_bytes(pem)
    return key


def test_the_firmware_releases_the_key_to_its_guest_and_for_no_older_image(host: Host) -> None:
    host.opens("images:v2")
    host.opens("images:v2", "--secret", "volume-key")
    assert "this is version 1, and the key was released for 2" in host.shut("images:v1")
    assert "no secret of the guest has the name `volume-key`" in host.shut("images:v2", guest=OTHERS)
    assert "no secret of the guest has the name `other`" in host.shut("images:v2", "--secret", "other")


def test_a_release_for_one_root_opens_that_image_only(host: Host) -> None:
    build = ("build", "source:v1", "--name", "pay", "--release", "exact", "--key", "v2.key")
    host.image(*build, "-o", "exact:new", "--version", "2", "--key-out", "exact.key").ok()
    host.give("exact-key", "exact.key")
    host.opens("exact:new", "--secret", "exact-key")
    assert "for another image" in host.shut("images:v1", "--secret", "exact-key")


def test_a_secret_that_carries_something_else_is_refused_and_not_shown(host: Host) -> None:
    (host.directory / "token").write_bytes(b"a token that is none of the image's business")
    (host.directory / "aes").write_bytes(b"\xb6\x6b\x28\x82" * 8)
    host.give("token", "token")
    host.give("aes-key", "aes", kind="aes")
    told = host.shut("images:v2", "--secret", "token")
    assert "carries no volume key" in told
    assert "business" not in told
    assert "never comes out in clear" in host.shut("images:v2", "--secret", "aes-key")


def test_an_aes_key_that_never_leaves_the_hsm_wraps_and_opens(host: Host) -> None:
    image = host.fresh("v2", "by-aes")
    assert "carries no key" in host.shut(image, "--key", AES)
    before = root_of(host, image)
    blobs = {one.name for one in (host.directory / "by-aes/blobs/sha256").iterdir()}
    ended = host.image(
        "rewrap", image, "--secret", "volume-key", "--recipient", AES, "--guest", GUEST, "--json"
    )
    told = json.loads(ended.ok())
    assert (told["recipients"], told["root"]) == (["provider.keyvisor"], before)
    now = {one.name for one in (host.directory / "by-aes/blobs/sha256").iterdir()}
    assert now - blobs == {told["digest"].removeprefix("sha256:")}
    assert len(now) == len(blobs)  # the old manifest went
    host.opens(image, "--key", AES)
    assert "wrapped for" in host.shut(image, "--key", "pkcs11:object=another")
    # The host gives the older image the same wrapped key: what is in it says that this is too old.
    old = "by-aes:v1"
    host.forge(old, host.wrapped(image))
    assert "this is version 1, and the key was released for 2" in host.shut(old, "--key", AES)
    assert "released for something else" in host.shut(image, "--key", AES, "--root", before)


def test_an_rsa_key_of_the_hsm_opens_what_anybody_wrapped_and_so_wants_the_root(host: Host) -> None:
    image = host.fresh("v2", "by-rsa")
    root = root_of(host, image)
    told = json.loads(
        host.image("rewrap", image, "--key", "v2.key", "--recipient", RSA, "--guest", GUEST, "--json").ok()
    )
    assert told["recipients"] == ["pkcs11"]
    assert "anybody can wrap" in host.shut(image, "--key", RSA)
    host.opens(image, "--key", RSA, "--root", root)
    host.forge("by-rsa:v1", host.wrapped(image))
    assert "for another image" in host.shut("by-rsa:v1", "--key", RSA, "--root", root)


def test_the_owner_needs_no_guest_to_wrap_for_its_hsm(host: Host) -> None:
    """By JWE at the build, and as ocicrypt's pkcs11 with SHA-1; with SHA-256 SoftHSM says what it cannot."""
    key = public_key(host, "owner.pem")
    build = ("build", "source:v1", "-o", "jwe:v1", "--recipient", "jwe:owner.pem", "--json")
    root = json.loads(host.image(*build).ok())["root"]
    host.opens("jwe:v1", "--key", RSA, "--root", root)
    image = host.fresh("v2", "by-hand")
    release = (host.directory / "v2.key").read_bytes()
    root = root_of(host, image)
    host.forge(image, {"pkcs11": base64.b64encode(wrap_rsa(release, key, OaepHash.SHA1)).decode()})
    host.opens(image, "--key", RSA, "--root", root)
    host.forge(image, {"pkcs11": base64.b64encode(wrap_rsa(release, key, OaepHash.SHA256)).decode()})
    assert "no RSA-OAEP with sha256" in host.shut(image, "--key", RSA, "--root", root)


def test_recipients_come_and_go(host: Host) -> None:
    image = host.fresh("v2", "many")
    public_key(host, "many.pem")
    words = ("rewrap", image, "--key", "v2.key", "--guest", GUEST)
    host.image(*words, "--recipient", "pkcs11:object=another").ok()
    told = host.image(*words, "--recipient", AES, "--recipient", "jwe:many.pem", "--json").ok()
    assert json.loads(told)["recipients"] == ["jwe", "provider.keyvisor"]
    root = root_of(host, image)
    host.opens(image, "--key", AES)
    host.opens(image, "--key", "pkcs11:object=another")
    host.opens(image, "--key", RSA, "--root", root)
    host.image(*words, "--recipient", AES, "--drop-others").ok()
    host.opens(image, "--key", AES)
    assert "wrapped for" in host.shut(image, "--key", "pkcs11:object=another")
    assert "carries no key" in host.shut(image, "--key", RSA, "--root", root)
    assert host.image("verify", image, "--key", AES, "--guest", GUEST).ok().startswith("verified")


def test_a_release_that_does_not_open_the_image_is_wrapped_for_nobody(host: Host) -> None:
    image = host.fresh("v1", "too-old")
    before = host.manifest(image)[2]
    told = host.image("rewrap", image, "--key", "v2.key", "--recipient", AES, "--guest", GUEST).refused()
    assert "this is version 1" in told
    assert host.manifest(image)[2] == before


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("pkcs11:object=nothing", "no private or secret key with the label `nothing`"),
        ("pkcs11:object=short", "2048 bits is too short: use 3072"),
        ("pkcs11:object=loose", "or may leave it"),
        ("pkcs11:object=twice", "2 keys with the label `twice`"),
        ("pkcs11:object=ec", "no RSA and no AES key"),
        ("pkcs11:token=09.0001;object=kek", "no HSM `09.0001` that is bound"),
    ],
)
def test_keys_that_are_not_taken(host: Host, uri: str, reason: str) -> None:
    image = host.fresh("v2", hashlib.sha256(uri.encode()).hexdigest()[:8])
    told = host.image("rewrap", image, "--key", "v2.key", "--recipient", uri, "--guest", GUEST).refused()
    assert reason in told


WRAPS = f"""
from keyvisor_guest import Guest
from pkcs11 import PROTECTED_AUTH, Attribute, KeyType, ObjectClass
session = Guest("{GUEST}").pkcs11().get_token(token_label="{HSM}").open(rw=True, user_pin=PROTECTED_AUTH)
key = session.generate_key(KeyType.AES, 256, template={{Attribute.TOKEN: False, Attribute.EXTRACTABLE: True}})
assert session.get_key(label="wraps", object_class=ObjectClass.PUBLIC_KEY).wrap_key(key)
"""


def test_a_key_that_wraps_keys_opens_no_image(host: Host) -> None:
    """The guard gave it its side: what it would decrypt could be a key of the HSM's."""
    image = host.fresh("v2", "wraps")
    host.tool(GUEST, "--login", "--keypairgen", "--key-type", "RSA:3072", "--label", "wraps").ok()
    host.run(sys.executable, "-c", WRAPS).ok()
    words = ("--key", "v2.key", "--recipient", "pkcs11:object=wraps", "--guest", GUEST)
    assert "one that has wrapped keys does neither" in host.image("rewrap", image, *words).refused()


def test_label_and_id_together_find_one_of_two(host: Host) -> None:
    image = host.fresh("v2", "one-of-two")
    first, second = ("pkcs11:object=twice;id=%31", "pkcs11:object=twice;id=%32")
    host.image("rewrap", image, "--key", "v2.key", "--recipient", first, "--guest", GUEST).ok()
    host.opens(image, "--key", first)
    host.opens(image, "--key", "pkcs11:id=1")  # the same byte
    assert "wrapped for" in host.shut(image, "--key", second)
    assert "the label `kek` and the id 31" in host.shut(image, "--key", "pkcs11:object=kek;id=1")


def test_a_pin_in_the_command_line_is_refused_and_not_repeated(host: Host) -> None:
    ran = host.image("verify", "images:v2", "--key", "pkcs11:object=kek?pin-value=739112", "--guest", GUEST)
    assert ran.code == 2
    assert "seen by others" in " ".join(ran.told.split())
    assert "739112" not in ran.told


def test_skopeo_encrypts_for_a_key_that_stays_in_the_hsm(host: Host) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("`skopeo` is not installed: it comes with Debian's `skopeo`")
    public_key(host, "skopeo.pem")
    encrypt = ("skopeo", "copy", "--insecure-policy", "--encryption-key", "jwe:skopeo.pem")
    host.run(*encrypt, "oci:source:v1", "oci:sealed:v1").ok()
    host.image("ocicrypt", "decrypt", "sealed:v1", "-o", "clear:v1", "--key", RSA, "--guest", GUEST).ok()
    clear, source = (host.manifest(f"{name}:v1")[2] for name in ("clear", "source"))
    assert [one["digest"] for one in json.loads(clear)["layers"]] == [
        one["digest"] for one in json.loads(source)["layers"]
    ]
    told = host.image(
        "ocicrypt", "decrypt", "sealed:v1", "-o", "no:v1", "--key", AES, "--guest", GUEST
    ).refused()
    assert "RSA keys" in told


def test_ocicrypts_key_provider_in_the_guest(host: Host) -> None:
    """As its protocol is documented: Debian 12's skopeo is older than it."""
    (host.directory / "layers").write_bytes(b"\x17\x71\xc3\x3c" * 8)
    host.give("layers", "layers", kind="aes")
    options = json.dumps(
        {"symkey": base64.b64encode(b"\x99" * 32).decode(), "digest": "sha256:" + 64 * "a"}
    ).encode()
    ways = {
        "aes": ("--key", AES),
        "rsa": ("--key", RSA),
        "firmware": ("--secret", "layers"),
    }
    wrapped = {name: host.wrap(options, *way) for name, way in ways.items()}
    for name, way in ways.items():
        assert host.unwrap(wrapped[name], *way) == options
        for other in wrapped.keys() - {name}:
            assert "error: this " in str(host.unwrap(wrapped[other], *way))
    changed = wrapped["firmware"].replace(b'"sealed":"', b'"sealed":"AAAA')
    assert "another key, or changed" in str(host.unwrap(changed, "--secret", "layers"))
    assert "no secret of the guest" in str(
        host.unwrap(wrapped["firmware"], "--secret", "layers", guest=OTHERS)
    )


def test_what_the_key_provider_sealed_is_no_release(host: Host) -> None:
    """A host that has the key provider wrap a release of its own gets nothing that opens an image."""
    image = host.fresh("v1", "conjured")
    forged = json.loads((host.directory / "v2.key").read_bytes())
    forged["minVersion"] = 1
    sealed = host.wrap(json.dumps(forged, sort_keys=True, separators=(",", ":")).encode(), "--key", AES)
    host.forge(image, {"provider.keyvisor": base64.b64encode(sealed).decode()})
    assert "wrapped for" in host.shut(image, "--key", AES)


def test_only_an_associated_guest_with_this_hsm_opens(host: Host) -> None:
    image = host.fresh("v2", "guests")
    host.image("rewrap", image, "--secret", "volume-key", "--recipient", AES, "--guest", GUEST).ok()
    assert "bound and not associated" in host.shut(image, "--key", "pkcs11:object=kek", guest=OTHERS)
    assert f"no HSM `{HSM}`" in host.shut(image, "--key", AES, guest=OTHERS)
    assert "no guest `nobody`" in host.shut(image, "--key", AES, guest="nobody")
    host.opens(image, "--key", AES)
    host.keyvisor("guest", "unbind", "--guest", GUEST, HSM).ok()
    assert "that is bound" in host.shut(image, "--key", AES)
    host.keyvisor("guest", "bind", "--guest", GUEST, HSM).ok()
    assert "bound and not associated" in host.shut(image, "--key", AES)
    host.keyvisor("guest", "apply", "--guest", GUEST, "payments-signing.yaml").ok()
    host.opens(image, "--key", AES)


def test_a_token_with_a_pin_takes_it_from_a_file(world: World) -> None:
    label, pin, so_pin = "our keys", "pin-of-payments", "so-pin-of-payments"
    world.ready(GUEST, "payments-signing")
    world.tool(GUEST, "--init-token", "--label", label, "--so-pin", so_pin).ok()
    so = ("--login", "--login-type", "so", "--so-pin", so_pin)
    world.tool(GUEST, *so, "--init-pin", "--new-pin", pin, token=label).ok()
    made = ("--login", "--pin", pin, "--keygen", "--key-type", "AES:32", "--label", "kek", "--sensitive")
    world.tool(GUEST, *made, token=label).ok()
    write_layout(world.directory / "source", LAYERS, "v1")
    world.keyvisor("image", "build", "source:v1", "-o", "image:v1", "--key-out", "key").ok()
    (world.directory / "pin").write_text(f"{pin}\n")
    (world.directory / "wrong").write_text("another-pin\n")
    uri = "pkcs11:token=our%20keys;object=kek"
    rewrap = ("image", "rewrap", "image", "--key", "key", "--guest", GUEST, "--recipient")
    assert "`?pin-source=FILE`" in world.keyvisor(*rewrap, uri).refused()
    told = world.keyvisor(*rewrap, f"{uri}?pin-source={world.directory}/wrong").refused()
    assert "has another PIN" in told
    assert "another-pin" not in told
    assert "no such file" in world.keyvisor(*rewrap, f"{uri}?pin-source=/nothing").refused()
    world.keyvisor(*rewrap, f"{uri}?pin-source=file:{world.directory}/pin").ok()
    opened = ("--key", f"{uri}?pin-source={world.directory}/pin", "--guest", GUEST)
    assert world.keyvisor("image", "cat", "image", "/etc/motd", *opened).ok() == "welcome\n"


def test_every_option_of_the_page_is_one(host: Host) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/container-keys.md").read_text(encoding="utf-8")
    verbs = (
        "image build",
        "image verify",
        "image rewrap",
        "image keyprovider",
        "owner request retrievable",
        "guest secret add",
    )
    helps = "".join(host.keyvisor(*verb.split(), "--help").ok() for verb in verbs)
    known = set(re.findall(r"--[a-z][a-z-]+", helps))
    tools = {
        "--module",
        "--login",
        "--keygen",
        "--keypairgen",
        "--key-type",
        "--label",
        "--id",
        "--sensitive",
    }
    named = set(re.findall(r"--[a-z][a-z-]+", page)) - tools - {"--encryption-key"}
    assert len(named) > 12
    assert named <= known, named - known


def test_the_key_is_nowhere(host: Host) -> None:
    """Not in the state, the log, the images, nor in what was said; only in the owner's files and requests."""
    image = host.fresh("v2", "scanned")
    host.image(
        "rewrap", image, "--secret", "volume-key", "--recipient", AES, "--recipient", RSA, "--guest", GUEST
    ).ok()
    host.opens(image, "--key", AES)
    audit = host.keyvisor("audit").ok()
    layouts = [one.parent for one in host.directory.glob("*/oci-layout")]
    assert len(layouts) >= 2
    places = [host.state, host.directory / "daemon.log", *layouts]
    nowhere([key_of(host), b"\x17\x71\xc3\x3c" * 8], places, audit, host.log(), *host.told)
