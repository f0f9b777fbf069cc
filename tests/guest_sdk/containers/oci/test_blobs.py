"""Blobs by their digests: there only when they are whole, and read as they were written or not at all."""

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.oci.blobs import BlobDirectory, read_document, verify_blob
from keyvisor_guest.containers.oci.digests import digest_of


def test_blobs(tmp_path):
    blobs = BlobDirectory(tmp_path)
    stored = blobs.put(b"content")
    assert read_document(blobs, stored.digest, 7, 7) == b"content"
    for limit, size in ((6, None), (7, 8)):
        with pytest.raises(ImageRefused):
            read_document(blobs, stored.digest, limit, size)

    def break_off():
        with blobs.writing() as blob:
            blob.write(b"half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        break_off()
    with blobs.writing() as blob:
        blob.write(b"content")
        with pytest.raises(ImageRefused):
            blob.commit(digest_of(b"another"))
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == [stored.digest[7:]]
    blobs.path_of(stored.digest).write_bytes(b"Content")
    for check in (lambda: read_document(blobs, stored.digest, 7), lambda: verify_blob(blobs, stored.digest)):
        with pytest.raises(ImageRefused) as caught:
            check()
        assert caught.value.code is Refusal.DIGEST
    blobs.path_of(stored.digest).unlink()
    blobs.path_of(stored.digest).mkdir()
    with pytest.raises(ImageRefused):
        blobs.open(stored.digest)
