"""What a host sees that keeps an image (T4, T9, secure-containers 5): everything stored, and of encrypted layers no plaintext.

Not only known text: each block of the volume after each encrypted layer is looked for, whole, in pieces and by its hash.
"""

import base64
import hashlib

import pytest

from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci.layout import OciLayout

from .archives import archive, member
from .images import Counted
from .whole_images import build, source_image

PIECE = 64  # bytes: long enough that none is in a ciphertext by chance

NOISE = hashlib.shake_256(b"noise").digest(150_000)
TARS = [
    archive(member("usr/bin/tool", NOISE[:60_000]), member("etc/motd", b"a public base layer\n" * 300)),
    archive(
        member("srv/model.bin", NOISE[60_000:]),
        member("srv/rules.txt", b"".join(b"rule %d: pay nobody\n" % number for number in range(3000))),
        member("srv/very-private-name-of-a-file", b"x"),
    ),
    archive(member("srv/.wh.model.bin"), member("etc/motd", b"".join(b"%d\n" % one for one in range(2000)))),
]


def host_view(path, cipher, portion):
    """All that is stored of an image, and the blocks that each layer wrote, in clear."""
    source, layout = source_image(path / "source", TARS), OciLayout(path / "secure")
    written = []

    def seen(state):
        data = state.path.read_bytes()
        written.append(
            [
                data[number * BLOCK : (number + 1) * BLOCK]
                for first, count in state.differences.changed
                for number in range(first, first + count)
            ]
        )

    build(source, layout, path / "work", cipher, portion, Counted(), seen)
    stored = [one.read_bytes() for one in layout.path.rglob("*") if one.is_file()]
    assert sum(map(len, stored)) > 2 * len(NOISE)
    return stored, written


def pieces(block):
    """Parts of a block that say something: not all of one byte."""
    parts = (block[at : at + PIECE] for at in range(0, BLOCK, 512))
    return {part for part in parts if len(set(part)) > 8}


def found(stored, written, layer, clear=1):
    """How much of what the layer wrote is seen, without what the `clear` lowest layers wrote too."""
    public = {part for below in written[:clear] for block in below for part in pieces(block)}
    wanted = set().union(*map(pieces, written[layer])) - public
    hashes = [hashlib.sha256(block) for block in written[layer]]
    wanted |= {one.digest() for one in hashes} | {one.hexdigest().encode() for one in hashes}
    wanted |= {base64.b64encode(block[:48]) for block in written[layer] if len(set(block[:48])) > 8}
    wanted |= {hashlib.sha256(TARS[layer]).hexdigest().encode()}
    return sum(any(part in data for data in stored) for part in wanted), len(wanted)


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
def test_nothing_of_an_encrypted_layer_is_seen(tmp_path, cipher):
    stored, written = host_view(tmp_path, cipher, "1-")
    for layer in (1, 2):
        seen, looked_for = found(stored, written, layer)
        assert looked_for > 30
        assert seen == 0
    assert not any(
        name in data for data in stored for name in (b"very-private-name", b"model.bin", b"rule 1")
    )


def test_the_scan_sees_a_layer_in_clear(tmp_path):
    """The broken twin: a layer that is left out of the portion."""
    stored, written = host_view(tmp_path, Cipher.GCM, "2")
    seen, looked_for = found(stored, written, 1)
    assert seen > looked_for / 3
    assert any(b"very-private-name" in data for data in stored)
    assert found(stored, written, 2, clear=2)[0] == 0


@pytest.mark.parametrize("cipher", [Cipher.GCM, Cipher.XTS])
def test_equal_layers_do_not_look_equal(tmp_path, cipher):
    """The same file in two layers, under other names: no block is stored twice."""
    source = source_image(tmp_path / "source", [archive(member(name, NOISE)) for name in ("one", "two")])
    layout = OciLayout(tmp_path / "secure")
    built = build(source, layout, tmp_path / "work", cipher, "0-", Counted())
    blocks = []
    for layer in built.secure.layers:
        data = layout.blobs.path_of(layer.data.digest).read_bytes()
        blocks += [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    assert len(set(blocks)) == len(blocks) > 2 * len(NOISE) // BLOCK
