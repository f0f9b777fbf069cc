"""Images as their owner builds them: the tree packed, the policy checked, everything random new each time."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest import file_tree
from keyvisor_guest.file_tree import read_tree
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.errors import Unbuildable
from keyvisor_guest.wire.initrd import Entry, find_policy, pack, unpack
from keyvisor_guest.wire.se_header import Scf, open_header
from keyvisor_guest.wire.se_image import check_measured, identity_of, read_image
from keyvisor_guest.wire.se_image_layout import find_header
from keyvisor_guest.wire.se_pages import ComponentKind
from keyvisor_policy import DocumentError

HOST_KEY = ec.derive_private_key(0x1001, ec.SECP521R1())
POLICY = "version: 1\nassociations:\n  - {name: a, secret: b, hsm: {mode: ep11}}\n"
BAD_POLICY = "version: 1\nassociations:\n  - {name: a}\n"


@pytest.fixture
def owner():
    return Owner([HOST_KEY.public_key()])


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "root"
    (root / "etc/keyvisor").mkdir(parents=True)
    (root / "etc/hostname").write_text("payments\n")
    (root / "etc/hostname").chmod(0o600)
    (root / "empty").mkdir()
    (root / "link").symlink_to("/etc/passwd")
    return root


def opened(image):
    """The secrets of an image's header, and its components in clear."""
    header, secrets = open_header(find_header(image.data), [HOST_KEY])
    found = read_image(image.data, header)
    check_measured(found)
    return secrets, {kind: found.component(kind, secrets.image_key) for kind in ComponentKind}


def test_an_image_of_all_parts(owner, tree):
    (tree / "etc/keyvisor/policy.yaml").write_text(POLICY)
    image = owner.build_image(kernel=b"kernel", root=tree, cmdline="quiet")
    secrets, components = opened(image)
    assert components[ComponentKind.KERNEL] == b"kernel"
    assert components[ComponentKind.CMDLINE] == b"quiet\x00"
    entries = unpack(components[ComponentKind.RAMDISK])
    assert entries == read_tree(tree)
    assert find_policy(entries).content == POLICY.encode()
    assert image.identity == identity_of(image.data)
    assert (image.reveal_cck(), secrets.scf) == (secrets.cck, 0)
    assert secrets.psw_address == len(image.data) - 4096


def test_each_part_alone_is_enough(owner, tree):
    for parts in (
        {"kernel": b"k"},
        {"ramdisk": b"r"},
        {"root": tree},
        {"policy": POLICY},
        {"cmdline": "quiet"},
    ):
        opened(owner.build_image(**parts))
    with pytest.raises(Unbuildable, match="a kernel, a ramdisk or a command line"):
        owner.build_image()


def test_a_policy_given_alone_stands_where_firmware_looks(owner, tree):
    for parts in ({"policy": POLICY}, {"policy": POLICY, "root": tree}):
        _, components = opened(owner.build_image(**parts))
        assert find_policy(unpack(components[ComponentKind.RAMDISK])).content == POLICY.encode()


def test_no_two_images_share_a_key(owner):
    images = [owner.build_image(kernel=b"k") for _ in range(4)]
    kept = [opened(image)[0] for image in images]
    for values in (
        {one.cck for one in kept},
        {one.image_key for one in kept},
        {image.identity.header_tag for image in images},
        {image.identity.tld for image in images},
    ):
        assert len(values) == len(images)


def test_a_cck_and_flags_of_ones_own(owner):
    image = owner.build_image(kernel=b"k", cck=b"\x0c" * 32, scf=Scf.EXTENSION_FROM_CCK)
    assert image.reveal_cck() == b"\x0c" * 32
    assert opened(image)[0].scf == Scf.EXTENSION_FROM_CCK
    with pytest.raises(Unbuildable, match="32 bytes, not 3"):
        owner.build_image(kernel=b"k", cck=b"abc")
    with pytest.raises(Unbuildable, match="exclude each other"):
        owner.build_image(kernel=b"k", scf=Scf.EXTENSION_FROM_CCK | Scf.CCK_UPDATE_ALLOWED)


def test_a_bad_policy_is_told_before_anything_is_built(owner, tree):
    (tree / "etc/keyvisor/policy.yaml").write_text(BAD_POLICY)
    ramdisk = pack(read_tree(tree))
    for parts, source in (
        ({"policy": BAD_POLICY}, "policy"),
        ({"root": tree}, f"{tree}/etc/keyvisor/policy.yaml"),
        ({"ramdisk": ramdisk}, "/etc/keyvisor/policy.yaml"),
    ):
        with pytest.raises(DocumentError) as caught:
            owner.build_image(**parts)
        assert str(caught.value).startswith(f"{source}:3:")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"ramdisk": b"070701"}, "are needed"),
        ({"ramdisk": b"r", "policy": POLICY}, "not both"),
        ({"ramdisk": b""}, "the ramdisk is empty"),
        ({"cmdline": " "}, "not empty"),
        ({"cmdline": "a\x00b"}, "without NUL"),
        ({"policy": "#" * (1 << 20) + "\n"}, "a policy has at most"),
        ({"kernel": bytes(1 << 26)}, "leave files out"),
    ],
)
def test_what_cannot_be_built_is_refused(owner, parts, said):
    with pytest.raises(Unbuildable, match=said):
        owner.build_image(**parts)


def test_a_policy_twice_is_refused(owner, tree):
    (tree / "etc/keyvisor/policy.yaml").write_text(POLICY)
    with pytest.raises(Unbuildable, match=r"`etc/keyvisor/policy.yaml` is in the file tree twice"):
        owner.build_image(root=tree, policy=POLICY)


def test_no_secret_of_an_image_is_shown(owner):
    image = owner.build_image(kernel=b"k", cck=b"\x0c" * 32)
    assert repr(b"\x0c" * 4)[2:-1] not in repr(image)  # a digest may have one such byte
    assert "0c" * 4 not in repr(image)


def test_a_tree_is_read_as_it_stands(tree):
    assert [(one.path, stat.S_IFMT(one.mode), one.content) for one in read_tree(tree)] == [
        ("empty", stat.S_IFDIR, b""),
        ("etc", stat.S_IFDIR, b""),
        ("etc/hostname", stat.S_IFREG, b"payments\n"),
        ("etc/keyvisor", stat.S_IFDIR, b""),
        ("link", stat.S_IFLNK, b"/etc/passwd"),
    ]
    assert stat.S_IMODE(next(one for one in read_tree(tree) if one.path == "etc/hostname").mode) == 0o600


def test_what_is_no_file_is_not_packed(tree):
    os.mkfifo(tree / "pipe")
    with pytest.raises(Unbuildable, match="no file, directory or link"):
        read_tree(tree)


def test_a_tree_is_bounded(tree, monkeypatch):
    monkeypatch.setattr(file_tree, "MAX_ENTRIES", 4)
    with pytest.raises(Unbuildable, match="too much for a ramdisk"):
        read_tree(tree)
    monkeypatch.setattr(file_tree, "MAX_ENTRIES", 5)
    monkeypatch.setattr(file_tree, "MAX_TREE", 10)
    with pytest.raises(Unbuildable, match="too much for a ramdisk"):
        read_tree(tree)


def test_entries_of_a_tree_pack_to_the_same_bytes(tree):
    assert pack(read_tree(tree)) == pack(reversed(read_tree(tree)))
    assert pack([Entry("f", stat.S_IFREG | 0o644, b"x")])
