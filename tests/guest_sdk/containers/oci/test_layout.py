"""OCI layouts: tags, and directories that are none."""

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.oci.digests import digest_of
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout

from ..images import make


def test_layouts(tmp_path):
    made = make(tmp_path / "image", tag="v3")
    layout = made.layout
    layout.create()
    assert layout.find() == layout.find("v3")
    layout.tag(Descriptor(MANIFEST, digest_of(b"other"), 5), "v4")
    with pytest.raises(ImageRefused, match="`v3`, `v4`"):
        layout.find()
    with pytest.raises(ImageRefused) as caught:
        layout.find("v5")
    assert caught.value.code is Refusal.MISSING
    layout.tag(made.built.manifest, "v4")
    assert layout.find().digest == made.built.manifest.digest
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for path in (tmp_path / "full", tmp_path / "nothing"):
        with pytest.raises(ImageRefused):
            OciLayout(path).find()
    with pytest.raises(ImageRefused, match="empty directory"):
        OciLayout(tmp_path / "full").create()
    (tmp_path / "image" / "oci-layout").write_text('{"imageLayoutVersion":"2.0"}')
    with pytest.raises(ImageRefused, match="another version"):
        layout.find()
