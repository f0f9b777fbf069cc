"""Through Debian's docker-registry on loopback, with our client and with skopeo: the same digests on both sides."""

import subprocess

import pytest
from tests.docker_registry import a_registry

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import ImageRefused, Refusal, RegistryFailed
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.references import Reference
from keyvisor_guest.containers.oci.registry import Registry
from keyvisor_guest.containers.oci.transfer import pull, push
from keyvisor_guest.containers.reader import ImageReader

from ..images import KEY, inputs, make


@pytest.fixture
def registry(tmp_path, program):
    with a_registry(tmp_path, program("docker-registry", "docker-registry")) as place:
        yield place


def client(host, repository="pay/app", tag="v3", digest=None):
    return Registry(Reference(host, repository, tag, digest), insecure_http=True)


def opened(layout, digest, root):
    return ImageReader.open(layout.blobs, digest, VolumeKey(KEY), ExactImage(root))


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
def test_an_image_pushed_and_pulled_is_the_same(tmp_path, registry, cipher):
    # Layer 1 of three changes nothing: its blobs are empty, and go along.
    made = make(
        tmp_path / "image",
        cipher=cipher,
        layers=inputs(changed=(((0, 4),), (), ((2, 1),)), zero=((), (), ())),
    )
    seen = []
    push(made.layout, made.built.manifest, client(registry), lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    again = OciLayout(tmp_path / "again")
    found = pull(client(registry), again, "v3")
    assert found.digest == made.built.manifest.digest
    assert again.find("v3") == again.find() == again.images()[0]
    with opened(again, found.digest, made.built.root) as reader:
        reader.verify()
    pull(client(registry, digest=found.digest), OciLayout(tmp_path / "by-digest"), "x")
    push(made.layout, made.built.manifest, client(registry, tag="v4"))  # nothing is sent twice


def test_skopeo_moves_an_image_through_the_registry_with_the_same_digest(tmp_path, registry, program):
    skopeo = program("skopeo", "skopeo")
    made = make(tmp_path / "image", tag="v3")
    place = f"docker://{registry}/pay/app:v3"
    copies = (
        ["--dest-tls-verify=false", f"oci:{tmp_path}/image:v3", place],
        ["--src-tls-verify=false", place, f"oci:{tmp_path}/back:v3"],
    )
    for arguments in copies:
        command = [skopeo, "copy", "--insecure-policy", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    back = OciLayout(tmp_path / "back")
    assert back.find("v3").digest == made.built.manifest.digest
    with opened(back, back.find("v3").digest, made.built.root) as reader:
        assert reader.read_at(0, reader.size) == made.volume
    ours = OciLayout(tmp_path / "ours")
    assert pull(client(registry), ours, "v3").digest == made.built.manifest.digest
    refused = [
        skopeo,
        "copy",
        "--insecure-policy",
        f"oci:{tmp_path}/image:v3",
        f"docker-archive:{tmp_path}/a.tar",
    ]
    assert subprocess.run(refused, capture_output=True, check=False).returncode != 0


def test_a_registry_that_lost_or_changed_a_blob_is_told(tmp_path, registry):
    made = make(tmp_path / "image")
    push(made.layout, made.built.manifest, client(registry))
    with pytest.raises(RegistryFailed, match="not there") as caught:
        pull(client(registry, tag="other"), OciLayout(tmp_path / "none"), "v3")
    assert caught.value.status == 404
    digest = made.built.secure.layers[0].data.digest
    hexed = digest.partition(":")[2]
    stored = next((tmp_path / "registry").rglob(f"sha256/{hexed[:2]}/{hexed}/data"))
    stored.write_bytes(bytes(stored.stat().st_size))
    again = OciLayout(tmp_path / "again")
    with pytest.raises(ImageRefused) as refused:
        pull(client(registry), again, "v3")
    assert refused.value.code is Refusal.DIGEST
    assert again.images() == ()
    assert not again.blobs.has(digest)


def test_nobody_there(tmp_path):
    with pytest.raises(RegistryFailed, match="does not answer"):
        pull(client("127.0.0.1:1"), OciLayout(tmp_path / "image"), "v3")
