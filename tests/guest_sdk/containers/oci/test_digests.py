"""Digests become file names and parts of URLs: one spelling is taken, whatever comes."""

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.blobs import BlobDirectory
from keyvisor_guest.containers.oci.digests import digest_of, parse_digest, spell


@given(st.text(max_size=80) | st.from_regex(re.compile(r"sha256:[0-9a-f]{63,65}", re.ASCII)) | st.integers())
@example("sha256:" + "A" * 64)
@example("sha256:" + "0" * 64 + "\n")
@example("sha256:../../" + "0" * 58)
def test_digests_have_one_spelling(text):
    good = isinstance(text, str) and len(text) == 71 and text[:7] == "sha256:"
    good = good and set(text[7:]) <= set("0123456789abcdef")
    if good:
        assert parse_digest(text) == text
    else:
        with pytest.raises(ImageRefused):
            parse_digest(text)


@given(st.binary(max_size=100))
def test_a_digest_is_sha256(data):
    assert (
        digest_of(data)
        == f"sha256:{hashlib.sha256(data).hexdigest()}"
        == spell(hashlib.sha256(data).digest())
    )


@given(st.text(max_size=80))
@example("sha256:../../../../../../etc/passwd")
@example("sha256:/etc/passwd")
@example("sha256:" + "a" * 63 + "/")
def test_no_text_leads_out_of_the_directory(tmp_path_factory, text):
    blobs = BlobDirectory(tmp_path_factory.getbasetemp())
    with pytest.raises(ImageRefused) as caught:
        blobs.path_of(text)
    assert str(caught.value).isprintable()
