"""Whole images between a registry and a layout: what is named last is whole, and what is not whole is not named."""

import json

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal, RegistryFailed
from keyvisor_guest.containers.oci.blobs import BlobDirectory, Stored
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.documents import INDEX, MANIFEST, Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.references import Reference
from keyvisor_guest.containers.oci.transfer import choose_manifest, pull, push

from ..images import make

LINUX = {"os": "linux", "architecture": "amd64"}


class Registry:
    """A registry in a dictionary. It remembers in which order it was asked."""

    def __init__(self, blobs=None, manifests=None):
        self.reference = Reference.parse("reg.example/pay:v3")
        self.blobs, self.manifests, self.asked = blobs or {}, manifests or {}, []

    def manifest(self, name):
        self.asked.append("manifest")
        media_type, data = self.manifests[name]
        return Descriptor(media_type, digest_of(data), len(data)), data

    def pull_blob(self, blob, into):
        self.asked.append(blob.digest)
        if blob.digest not in self.blobs:
            raise RegistryFailed("it is not there", 404)
        with into.writing() as writing:
            writing.write(self.blobs[blob.digest])
            return writing.commit(blob.digest)

    def push_blob(self, blob, source):
        self.asked.append(blob.digest)
        with source.open(blob.digest) as file:
            self.blobs[blob.digest] = file.read_at(0, file.size)

    def push_manifest(self, name, media_type, data):
        self.asked.append("manifest")
        self.manifests[name] = (media_type, data)


@pytest.fixture
def made(tmp_path):
    return make(tmp_path / "image")


def pushed(made):
    registry = Registry()
    told = []
    push(made.layout, made.built.manifest, registry, lambda *both: told.append(both))
    assert told[-1][0] == told[-1][1] == sum(map(len, registry.blobs.values()))
    return registry


def test_the_manifest_goes_last_and_comes_last(made, tmp_path):
    registry = pushed(made)
    assert registry.asked.index("manifest") == len(registry.asked) - 1 == len(registry.blobs)
    layout = OciLayout(tmp_path / "pulled")
    found = pull(registry, layout, "mine")
    assert layout.find("mine").digest == found.digest == made.built.manifest.digest
    for digest in registry.blobs:
        assert layout.blobs.path_of(digest).read_bytes() == made.layout.blobs.path_of(digest).read_bytes()


def test_a_blob_that_is_in_the_image_twice_goes_once(made):
    registry = pushed(made)
    blobs = registry.asked[:-1]
    assert len(set(blobs)) == len(blobs)


@pytest.mark.parametrize("place", range(10))
def test_wherever_a_pull_breaks_off_nothing_new_is_named(made, tmp_path, place):
    registry = pushed(made)
    layout = OciLayout(tmp_path / "pulled")
    registry.blobs.pop(registry.asked[place % len(registry.blobs)])
    with pytest.raises(RegistryFailed):
        pull(registry, layout, "mine")
    assert layout.images() == ()
    again = pushed(made)
    pull(again, layout, "mine")
    assert layout.find("mine").digest == made.built.manifest.digest


def index_of(*entries):
    data = json.dumps({"schemaVersion": 2, "manifests": [one.members() for one in entries]}).encode()
    return Descriptor(INDEX, digest_of(data), len(data), {}, LINUX), data


def nested(made, depth):
    """The image's manifest below so many indexes, and the documents."""
    top = Descriptor(MANIFEST, made.built.manifest.digest, made.built.manifest.size, {}, LINUX)
    documents = {}
    for _ in range(depth):
        top, documents_data = index_of(top)
        documents[top.digest] = documents_data
    return top, documents


@pytest.mark.parametrize(("depth", "good"), [(0, True), (1, True), (3, True), (4, False), (9, False)])
def test_indexes_within_indexes(made, tmp_path, depth, good):
    top, documents = nested(made, depth)
    for data in documents.values():
        made.layout.blobs.put(data)
    registry = pushed(made)
    manifests = {digest: (INDEX, data) for digest, data in documents.items()}
    manifests[made.built.manifest.digest] = registry.manifests["v3"]
    registry.manifests = {**manifests, "v3": manifests[top.digest]}
    layout = OciLayout(tmp_path / "pulled")
    if good:
        assert choose_manifest(made.layout.blobs, top)[0].digest == made.built.manifest.digest
        assert pull(registry, layout, "mine").digest == made.built.manifest.digest
        return
    with pytest.raises(ImageRefused, match="no image"):
        choose_manifest(made.layout.blobs, top)
    with pytest.raises(ImageRefused, match="no image"):
        pull(registry, layout, "mine")
    assert layout.images() == ()


def test_what_a_manifest_says_it_has_is_counted_before_it_is_pulled(made, tmp_path):
    registry = pushed(made)
    media_type, data = registry.manifests["v3"]
    manifest = json.loads(data)
    manifest["layers"][0]["size"] = 1 << 50
    registry.manifests["v3"] = (media_type, json.dumps(manifest).encode())
    registry.asked.clear()
    with pytest.raises(ImageRefused) as caught:
        pull(registry, OciLayout(tmp_path / "pulled"), "mine")
    assert caught.value.code is Refusal.LIMIT
    assert registry.asked == ["manifest"]


def test_an_image_of_another_kind(tmp_path):
    blobs = BlobDirectory(tmp_path)
    stored: Stored = blobs.put(b"{}")
    with pytest.raises(ImageRefused, match="`text/plain`, and no image"):
        choose_manifest(blobs, Descriptor("text/plain", stored.digest, stored.size))


def test_no_image_for_this_machine(made):
    other = Descriptor(MANIFEST, made.built.manifest.digest, 1, {}, {"os": "linux", "architecture": "s390x"})
    top, data = index_of(other, other)
    made.layout.blobs.put(data)
    with pytest.raises(
        ImageRefused, match=r"there is no image for `linux/amd64`: there is `linux/s390x`"
    ) as caught:
        choose_manifest(made.layout.blobs, top)
    assert caught.value.code is Refusal.MISSING
