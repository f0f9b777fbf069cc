"""Where an image is, in text: what skopeo means by it is what is meant here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.places import (
    ArchivePlace,
    LayoutPlace,
    RegistryPlace,
    parse_layout,
    parse_place,
    parse_registry,
)
from keyvisor_guest.containers.oci.references import Reference


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("oci:dir", LayoutPlace(Path("dir"))),
        ("oci:/a/dir:v1", LayoutPlace(Path("/a/dir"), "v1")),
        ("image:v1", LayoutPlace(Path("image"), "v1")),
        ("./dir", LayoutPlace(Path("dir"))),
        ("oci:dir:host.example:5000/name:v1", LayoutPlace(Path("dir"), "host.example:5000/name:v1")),
        ("docker-archive:a.tar", ArchivePlace(Path("a.tar"))),
        ("docker-archive:a.tar:pay/app:v1", ArchivePlace(Path("a.tar"), "pay/app:v1")),
        ("docker://localhost:5000/pay/app:v1", RegistryPlace(Reference("localhost:5000", "pay/app", "v1"))),
        ("docker://example.com/app", RegistryPlace(Reference("example.com", "app"))),
    ],
)
def test_places(text: str, place: object) -> None:
    assert parse_place(text) == place
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no image"),
        ("oci:", "names no image"),
        ("oci:dir:", "names no image"),
        ("oci:dir:a b", "names no image"),
        ("oci::v1", "names no image"),
        ("a\0b", "names no image"),
        ("docker://app:v1", "no image in a registry"),
        ("docker-archive:", "names no image"),
        ("dir:there", "skopeo copy"),
        ("oci-archive:a.tar", "skopeo copy"),
        ("containers-storage:x", "skopeo copy"),
        ("docker-daemon:x:y", "skopeo copy"),
        ("https://example.com/app", "skopeo copy"),
    ],
)
def test_what_is_no_place_is_told_the_way_out(text: str, said: str) -> None:
    with pytest.raises(ImageRefused, match=said):
        parse_place(text)


@given(st.text())
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        place = parse_place(text)
    except ImageRefused:
        return
    assert parse_place(str(place)) == place


def test_a_verb_that_wants_one_kind_refuses_the_others() -> None:
    assert parse_layout("image:v1").tag == "v1"
    assert parse_registry("docker://localhost/a").reference.tag == "latest"
    for text in ("docker://localhost/a", "docker-archive:a.tar"):
        with pytest.raises(ImageRefused, match="no OCI layout"):
            parse_layout(text)
    for text in ("oci:dir", "dir", "docker-archive:a.tar"):
        with pytest.raises(ImageRefused, match="in no registry"):
            parse_registry(text)
