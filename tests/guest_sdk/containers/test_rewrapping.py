"""Rewrapping: only the manifest changes, only for a release that opens the image, and the old manifest goes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import read_document
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import SecureManifest, parse_secure_manifest
from keyvisor_guest.containers.release import Release
from keyvisor_guest.containers.rewrapping import rewrap

from .images import KEY, make


@dataclass
class Desk:
    layout: OciLayout
    image: Descriptor
    release: Release
    kept: dict[str, str] = field(default_factory=dict)

    def rewrap(self, wrapped: dict[str, str], *, drop: bool = False) -> None:
        self.image = rewrap(self.layout, self.image, self.release, wrapped, drop=drop).image

    def manifest(self) -> SecureManifest:
        data = read_document(self.layout.blobs, self.image.digest, DEFAULT_LIMITS.document)
        return parse_secure_manifest(data)

    def blobs(self) -> set[str]:
        return {one.name for one in (self.layout.path / "blobs/sha256").iterdir()}


def desk_in(folder: Path, tag: str | None = "v1") -> Desk:
    made = make(folder / "layout", tag=tag or "latest")
    if tag is None:  # as skopeo leaves an image that was given none
        index = made.layout.path / "index.json"
        members = json.loads(index.read_bytes())
        del members["manifests"][0]["annotations"]
        index.write_text(json.dumps(members))
    return Desk(made.layout, made.layout.find(tag), Release(VolumeKey(KEY), ExactImage(made.built.root)))


schemes = st.sampled_from(["jwe", "pkcs11", "provider.keyvisor"])
steps = st.lists(
    st.tuples(st.dictionaries(schemes, st.sampled_from(["AA==", "AQ==", "Ag=="]), min_size=1), st.booleans()),
    max_size=5,
)


@settings(max_examples=30, deadline=None)
@given(steps, st.sampled_from(["v1", None]))
def test_recipients_come_and_go_and_nothing_else_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[str, str], bool]], tag: str | None
) -> None:
    """Against a model: a list of what was wrapped, for each scheme."""
    desk = desk_in(tmp_path_factory.mktemp("desk"), tag)
    before, blobs = desk.manifest(), desk.blobs() - {desk.image.digest.removeprefix("sha256:")}
    model: dict[str, list[str]] = {}
    for wrapped, drop in steps:
        desk.rewrap(wrapped, drop=drop)
        model = {} if drop else model
        model = {
            name: [*model.get(name, []), *([wrapped[name]] if name in wrapped else [])]
            for name in model | wrapped
        }
        now = desk.manifest()
        assert {name: text.split(",") for name, text in now.wrapped_keys.items()} == model
        assert (now.config, now.layers, now.image_root) == (before.config, before.layers, before.image_root)
        assert desk.layout.find(tag) == desk.image
        assert len(desk.layout.images()) == 1
        assert desk.blobs() == blobs | {desk.image.digest.removeprefix("sha256:")}


def test_a_manifest_that_another_tag_names_stays(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    old = desk.image
    desk.layout.tag(old, "kept")
    desk.rewrap({"jwe": "AA=="})
    assert desk.layout.find("kept").digest == old.digest
    assert desk.layout.find("v1").digest == desk.image.digest != old.digest
    assert desk.layout.blobs.has(old.digest)


@pytest.mark.parametrize(
    "release",
    [Release(VolumeKey(KEY), ExactImage(bytes(32))), Release(VolumeKey(bytes(32)), ExactImage(bytes(32)))],
    ids=["another root", "another key"],
)
def test_what_does_not_open_the_image_is_not_put_into_it(tmp_path: Path, release: Release) -> None:
    desk = desk_in(tmp_path)
    before = desk.blobs()
    with pytest.raises(ImageRefused):
        rewrap(desk.layout, desk.image, release, {"jwe": "AA=="}, drop=False)
    assert desk.layout.find("v1") == desk.image
    assert desk.blobs() == before


def test_an_image_for_nobody_is_not_made(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    with pytest.raises(ImageRefused, match="for nobody"):
        desk.rewrap({}, drop=True)
