"""A whole Debian as a secure image: fetched with mmdebstrap, a package and an application on top, held against umoci's tree.

Slow, and wants a mirror of Debian: `make slow`.
"""

import io
import os
import shutil
import stat
import subprocess
import tarfile

import pytest

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.ext4.programs import check
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.reader import ImageReader

from .archives import archive, member
from .ext4.shadow_tree import described_volume
from .ext4.unpacked import described_directory, unpack, write_layout
from .images import KEY
from .whole_images import build, source_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PACKAGE = "python3.11-minimal"
LINK, SYMLINK, CHARACTERS = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE
KNOWN = [
    b"root:x:0:0:root:/root:/bin/bash",
    b"Package: base-files",
    b"a rule that nobody knows",
    b"GNU C Library",
]


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """The tars of three layers: minbase, a package, an application that deletes and replaces some of it."""
    for name in ("mmdebstrap", "umoci"):
        if shutil.which(name) is None:
            pytest.skip(f"`{name}` is not installed: run `make slow`, which installs it")
    if os.getuid() != 0:
        pytest.skip("umoci keeps owners and makes devices as root only")
    directory = tmp_path_factory.mktemp("debian")
    base, package = directory / "base.tar", directory / "package"
    package.mkdir(mode=0o777)
    package.chmod(0o777)  # apt fetches as a user of its own
    _fetched(
        ["mmdebstrap", "--quiet", "--mode=unshare", "--variant=minbase", "bookworm", str(base)],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    _fetched(["apt-get", "download", "-qq", PACKAGE], cwd=package)
    (deb,) = package.glob("*.deb")
    middle = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
    return [base.read_bytes(), middle, application(base)]


def _fetched(command, **how):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, **how)
    if done.returncode != 0:
        pytest.skip(
            f"`{command[0]}` does not reach a mirror of Debian, or may not do so here: {done.stderr[-200:]}"
        )


def application(base):
    """Deletes documentation, makes /etc/apt a file, adds what no package has."""
    with tarfile.open(base) as tar:
        names = {one.name.removeprefix("./") for one in tar}
    gone = sorted(name for name in names if name.startswith("usr/share/doc/") and name.count("/") == 3)[:16]
    whiteouts = [member(f"usr/share/doc/.wh.{name.rpartition('/')[2]}", mtime=5) for name in gone]
    assert len(whiteouts) == 16
    note = {"SCHILY.xattr.user.note": "hello"}
    return archive(
        member("srv", flag=tarfile.DIRTYPE, mode=0o755, mtime=5),
        *whiteouts,
        member("etc/apt", b"no more a directory", mtime=6),
        member("srv/rules", b"a rule that nobody knows\n" * 4000, uid=1000, gid=2000, mtime=6),
        member("srv/again", flag=LINK, linkname="srv/rules", uid=1000, gid=2000, mtime=6),
        member("srv/setuid", b"x", mode=0o4755, mtime=7),
        member("srv/ü 'quoted'", b"", mtime=7),
        member("srv/sparse", bytes(40 << 20) + b"end", mtime=7),
        member("srv/null", flag=CHARACTERS, devmajor=1, devminor=3, mode=0o666, mtime=8),
        member("srv/noted", b"x", mtime=8, pax_headers=note),
        member("bin/through-a-symlink", flag=SYMLINK, linkname="bash", mtime=8),
    )


@pytest.fixture(scope="module")
def image(debian, tmp_path_factory):
    """The secure image, built reproducibly; each state of its volume is checked by e2fsck, and the layers' changes counted."""
    path = tmp_path_factory.mktemp("image")
    layout, changed = OciLayout(path / "secure"), []

    def seen(state):
        check(state.path)
        changed.append(sum(count for _, count in state.differences.changed))

    built = build(source_image(path / "source", debian), layout, path / "work", Cipher.GCM, "0-", None, seen)
    assert len(changed) == 3
    return layout, built, changed


@pytest.fixture
def opened(image):
    layout, built, _ = image
    with ImageReader.open(
        layout.blobs, built.manifest.digest, VolumeKey(KEY), ExactImage(built.root)
    ) as reader:
        yield reader


def test_T1_the_tree_in_the_encrypted_image_is_umocis(debian, opened, tmp_path):
    write_layout(tmp_path / "layout", debian)
    theirs = described_directory(unpack(tmp_path / "layout", tmp_path / "bundle"))
    ours = described_volume(VolumeReader(opened.read_at))
    assert sorted(ours) == sorted(theirs)
    assert len(ours) > 5000
    other = {path for path in ours if ours[path] != theirs[path]}
    # Only times, and only of directories in which umoci worked without an entry that says their time.
    timeless = {
        path for path in other if (ours[path][:2], ours[path][3:]) == (theirs[path][:2], theirs[path][3:])
    }
    assert other == timeless
    assert all(stat.S_ISDIR(ours[path][0]) for path in other)
    assert other <= {b"/etc", b"/usr/share/doc", b"/usr/bin", b"/bin", b""}


def test_the_volume_that_comes_out_is_sound_and_sparse(opened, tmp_path):
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(opened.size)
        for piece in opened.order.stored:
            file.seek(piece.first * BLOCK)
            file.write(opened.read_at(piece.first * BLOCK, piece.count * BLOCK))
    check(path)
    opened.verify()


def test_T2_upper_layers_store_what_they_changed(debian, image):
    _, built, changed = image
    sizes = [layer.data.size for layer in built.secure.layers]
    assert sizes == [BLOCK * count for count in changed]
    # The package's own bytes and some blocks of directories and tables; of 40 MiB of zeros nothing.
    assert sizes[1] < len(debian[1]) * 1.3 + (1 << 20)
    assert sizes[2] < 3 << 20


def test_T4_nothing_that_every_debian_has_is_seen(debian, image):
    layout, _, _ = image
    assert all(any(known in tar for tar in debian) for known in KNOWN)
    for path in layout.path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(known in data for known in KNOWN)


def test_one_file_opens_few_blocks(opened):
    volume = VolumeReader(opened.read_at)
    found = volume.read(volume.find((b"etc", b"os-release")))  # through a symlink
    assert b"bookworm" in found
    assert opened.opened_blocks < opened.stored_blocks / 500


def test_T13_a_second_build_is_the_same_to_the_byte(debian, image, tmp_path):
    layout, built, _ = image
    again = OciLayout(tmp_path / "secure")
    second = build(
        source_image(tmp_path / "source", debian), again, tmp_path / "work", Cipher.GCM, "0-", None
    )
    assert second == built
    names = [{one.relative_to(each.path) for one in each.path.rglob("*")} for each in (layout, again)]
    assert names[0] == names[1]


def test_the_fetched_base_is_a_tar_of_a_root(debian):
    with tarfile.open(fileobj=io.BytesIO(debian[0])) as tar:
        kinds = {one.type for one in tar}
    assert {tarfile.REGTYPE, tarfile.DIRTYPE, SYMLINK} <= kinds
