"""Images in ocicrypt's format: what skopeo encrypts we read, what we encrypt skopeo reads; what was changed is refused."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keyvisor_guest.containers import jwe, ocicrypt
from keyvisor_guest.containers.errors import ImageRefused, KeyRefused, Refusal
from keyvisor_guest.containers.oci.documents import (
    MANIFEST,
    Descriptor,
    Manifest,
    manifest_bytes,
    read_manifest,
)
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import CONFIG_TYPE

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(scope="module")
def keys():
    return [rsa.generate_private_key(65537, 3072) for _ in range(2)]


@pytest.fixture
def plain(tmp_path):
    """An ordinary image of two layers, and its manifest's descriptor."""
    layout = OciLayout(tmp_path / "plain")
    layout.create()
    layers, diff_ids = [], []
    for name in ("one", "two"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 3_000_000
            tar.addfile(member, io.BytesIO(os.urandom(member.size)))
        diff_ids.append("sha256:" + hashlib.sha256(file.getvalue()).hexdigest())
        stored = layout.blobs.put(gzip.compress(file.getvalue(), 1, mtime=0))
        layers.append(Descriptor(LAYER_TYPE, stored.digest, stored.size))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    stored = layout.blobs.put(json.dumps(config).encode())
    data = manifest_bytes(Manifest(Descriptor(CONFIG_TYPE, stored.digest, stored.size), tuple(layers)))
    stored = layout.blobs.put(data)
    image = Descriptor(MANIFEST, stored.digest, stored.size)
    layout.tag(image)
    return layout, image


def layers_of(layout, image):
    return [one.digest for one in manifest_of(layout, image).layers]


def manifest_of(layout, image):
    return read_manifest(layout.blobs.path_of(image.digest).read_bytes())


def skopeo_copy(program, *arguments):
    command = [program("skopeo", "skopeo"), "copy", "--insecure-policy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write_keys(tmp_path, key):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.mark.parametrize("recipients", [1, 2])
def test_what_is_encrypted_comes_back(plain, keys, recipients):
    layout, image = plain
    public = [key.public_key() for key in keys[:recipients]]
    sealed = ocicrypt.encrypt_image(layout.blobs, image, public, os.urandom)
    assert not set(layers_of(layout, sealed)) & set(layers_of(layout, image))
    for key in keys[:recipients]:
        opened = ocicrypt.decrypt_image(layout.blobs, sealed, jwe.unwrap_with(key))
        assert opened == image
    other = rsa.generate_private_key(65537, 3072)
    with pytest.raises(KeyRefused):
        ocicrypt.decrypt_image(layout.blobs, sealed, jwe.unwrap_with(other))


@pytest.mark.parametrize("recipients", [1, 2])
def test_skopeo_reads_what_we_encrypt(tmp_path, plain, keys, program, recipients):
    layout, image = plain
    private, _ = write_keys(tmp_path, keys[0])
    public = [key.public_key() for key in keys[:recipients]]
    layout.tag(ocicrypt.encrypt_image(layout.blobs, image, public, os.urandom), "sealed")
    place = f"oci:{layout.path}:sealed"
    done = skopeo_copy(program, "--decryption-key", private, place, f"oci:{tmp_path}/opened:x")
    assert done.returncode == 0, done.stderr
    opened = OciLayout(tmp_path / "opened")
    assert layers_of(opened, opened.find()) == layers_of(layout, image)


@pytest.mark.parametrize("recipients", [1, 2])
def test_we_read_what_skopeo_encrypts(tmp_path, plain, keys, program, recipients):
    layout, image = plain
    options = []
    for key in keys[:recipients]:
        folder = tmp_path / str(key.public_key().public_numbers().n % 1000)
        folder.mkdir()
        options += ["--encryption-key", f"jwe:{write_keys(folder, key)[1]}"]
    done = skopeo_copy(program, *options, f"oci:{layout.path}:latest", f"oci:{tmp_path}/sealed:x")
    assert done.returncode == 0, done.stderr
    sealed = OciLayout(tmp_path / "sealed")
    for key in keys[:recipients]:
        opened = ocicrypt.decrypt_image(sealed.blobs, sealed.find(), jwe.unwrap_with(key))
        assert layers_of(sealed, opened) == layers_of(layout, image)
        assert manifest_of(sealed, opened).layers[0].media_type == LAYER_TYPE


def test_a_changed_layer_is_refused_before_it_is_decrypted(plain, keys):
    layout, image = plain
    sealed = ocicrypt.encrypt_image(layout.blobs, image, [keys[0].public_key()], os.urandom)
    before = set(layout.path.rglob("sha256/*"))
    with layout.blobs.path_of(layers_of(layout, sealed)[0]).open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    with pytest.raises(ImageRefused) as caught:
        ocicrypt.decrypt_image(layout.blobs, sealed, jwe.unwrap_with(keys[0]))
    assert caught.value.code is Refusal.DIGEST
    assert set(layout.path.rglob("sha256/*")) == before


def test_a_wrapped_key_is_read_strictly(keys):
    open_key = jwe.unwrap_with(keys[0])
    good = jwe.wrap(b"payload", [keys[0].public_key()], os.urandom)
    assert jwe.unwrap(good, open_key) == b"payload"
    members = json.loads(good)
    for name in members:
        for other in ("", "AAAA", 7, None, members[name][:-2], members[name] + "=", "A" + members[name][1:]):
            if other == members[name]:
                continue
            with pytest.raises(KeyRefused):
                jwe.unwrap(json.dumps({**members, name: other}).encode(), open_key)
        with pytest.raises(KeyRefused):
            jwe.unwrap(
                json.dumps({key: text for key, text in members.items() if key != name}).encode(), open_key
            )
    for data in (b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b"x" * (1 << 19)):
        with pytest.raises(KeyRefused):
            jwe.unwrap(data, open_key)


def test_a_short_key_is_not_wrapped_for():
    short = rsa.generate_private_key(65537, 2048)
    with pytest.raises(KeyRefused, match="3072"):
        jwe.wrap(b"payload", [short.public_key()], os.urandom)
