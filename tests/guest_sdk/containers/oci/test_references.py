"""Names of images in registries: a host is always named, and what is written again is the same image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.references import Reference

DIGEST = digest_of(b"an image")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:5000/pay", ("localhost:5000", "pay", "latest", None)),
        ("reg.example/a/b-c:v1", ("reg.example", "a/b-c", "v1", None)),
        (f"reg.example/a@{DIGEST}", ("reg.example", "a", "latest", DIGEST)),
        (f"[::1]:5000/a:v1@{DIGEST}", ("[::1]:5000", "a", "v1", DIGEST)),
    ],
)
def test_references(text, expected):
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == expected
    assert Reference.parse(str(found)).name == found.name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pay",
        "debian/pay",
        "reg.example/",
        "reg.example/A",
        "reg.example/a/../b",
        "reg.example/a?x",
        "reg.example/a:v 1",
        "reg.example/a@sha256:0",
        "user@reg.example/a",
        "reg.example/a\n",
        "reg.example/" + "a" * 600,
    ],
)
def test_what_is_no_reference(text):
    with pytest.raises(ImageRefused):
        Reference.parse(text)


HOSTS = st.from_regex(
    r"([a-z0-9]{1,8}\.){1,2}[a-z]{2,4}(:[0-9]{1,5})?|localhost|\[::[0-9a-f]{1,4}\](:[0-9]{1,5})?",
    fullmatch=True,
)
REPOSITORIES = st.from_regex(r"[a-z0-9]{1,6}([._-][a-z0-9]{1,6})?(/[a-z0-9]{1,6}){0,2}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,9}", fullmatch=True)


@given(HOSTS, REPOSITORIES, TAGS | st.none(), st.booleans())
def test_what_is_put_together_is_taken_apart(host, repository, tag, pinned):
    text = f"{host}/{repository}" + (f":{tag}" if tag else "") + (f"@{DIGEST}" if pinned else "")
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag) == (host, repository, tag or "latest")
    assert found.digest == (DIGEST if pinned else None)
    again = Reference.parse(str(found))
    assert (again.host, again.repository, again.name) == (found.host, found.repository, found.name)


@given(st.text(max_size=60))
def test_whatever_comes_is_a_reference_or_refused(text):
    try:
        found = Reference.parse(text)
    except ImageRefused as error:
        found, said = None, str(error)
        assert said.isprintable()
    else:
        # Nothing of it means anything else in a URL's path.
        assert not set(found.host + found.repository + found.name) & set("?#%\\ \n")
        assert ".." not in found.repository.split("/")
