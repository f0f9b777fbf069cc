"""A secure image as the disk of a real machine: Linux mounts the volume over NBD, and reads what its owner built.

A real kernel's ext4 is another reader of our volumes than ours. The machine is QEMU without acceleration; its kernel is a
Debian cloud kernel, unpacked or installed, and KEYVISOR_TEST_KERNELS names the directory that has its `boot` and `lib`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from keyvisor_guest.wire.initrd import Entry, pack

from ..guest_sdk.ordinary_image import layer, write_layout
from .test_container_images import PROGRAMS, Desk, needed

pytestmark = pytest.mark.slow

DATA = b"the application's own data, known to this test and to nobody else\n" * 9000
MODULES = (
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /dev /mnt
$bb mount -t devtmpfs none /dev
for again in 1 2 3; do for one in {modules}; do $bb insmod /$one.ko 2>/dev/null; done; done  # in whatever order they want
$bb mount -t ext4 -o ro,nosuid,nodev,noload /dev/vda /mnt && echo mounted
$bb sha256sum /mnt/srv/data
$bb cat /mnt/srv/other && echo read
$bb poweroff -f
"""


def kernel() -> tuple[Path, Path]:
    """A kernel, and where its modules are."""
    root = Path(os.environ.get("KEYVISOR_TEST_KERNELS", "/"))
    for image in sorted(root.glob("boot/vmlinuz-*cloud*")):
        modules = root / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if modules.is_dir():
            return image, modules
    pytest.skip(
        f"no Debian cloud kernel in `{root}`: `linux-image-cloud-amd64` has one (KEYVISOR_TEST_KERNELS)"
    )


def initrd(modules: Path) -> bytes:
    files = {one.stem: one for one in modules.rglob("*.ko")}
    program = INIT.format(modules=" ".join(one for one in MODULES if one in files))
    entries = [
        Entry("bin", 0o40755, b""),
        Entry("bin/busybox", 0o100755, Path(needed("busybox", "busybox-static")).read_bytes()),
        Entry("init", 0o100755, program.encode()),
        *(Entry(f"{one}.ko", 0o100644, files[one].read_bytes()) for one in MODULES if one in files),
    ]
    return pack(entries)


def test_linux_mounts_the_volume_and_never_gets_a_changed_block(tmp_path: Path) -> None:
    machine = needed("qemu-system-x86_64", "qemu-system-x86")
    image, modules = kernel()
    (tmp_path / "initrd").write_bytes(initrd(modules))
    folder = tmp_path / "desk"
    folder.mkdir()
    desk = Desk(folder)
    first = layer([("srv", None), ("srv/data", DATA)])
    write_layout(folder / "source", [first, layer([("srv/other", b"of another layer\n")])], "v1")
    built = desk.json("build", "source", "-o", "secure", "--key-out", "key")
    assert built["layers"] == 2
    (folder / "d").mkdir(mode=0o700)
    words = [str(PROGRAMS / "keyvisor"), "image", "serve", "secure", "--key", "key", "--nbd", "d/s"]
    with subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        try:
            assert served.stdout is not None
            assert served.stdout.readline().startswith("ready: ")
            told = boot(machine, image, tmp_path / "initrd", folder / "d/s")
            assert "mounted" in told, told
            assert hashlib.sha256(DATA).hexdigest() in told
            assert "of another layer\nread" in told
            blocks = max((folder / "secure/blobs/sha256").iterdir(), key=lambda one: one.stat().st_size)
            with blocks.open("r+b") as file:  # in the middle of the data
                file.seek(blocks.stat().st_size // 2)
                file.write(bytes(8192))
            told = boot(machine, image, tmp_path / "initrd", folder / "d/s")
            assert "mounted" in told, told
            assert "I/O error" in told
            assert hashlib.sha256(DATA).hexdigest() not in told
            served.send_signal(signal.SIGTERM)
            _, errors = served.communicate(timeout=60)
        finally:
            served.kill()
    assert "is not as it was built" in errors


def boot(machine: str, image: Path, initial: Path, socket: Path) -> str:
    """What the machine says on its console, until it goes off."""
    drive = f"file=nbd+unix:///?socket={socket},format=raw,if=virtio,readonly=on"
    words = [
        machine,
        "-accel",
        "tcg",
        "-m",
        "256",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
        "-drive",
        drive,
    ]
    words += ["-kernel", str(image), "-initrd", str(initial), "-append", "console=ttyS0 quiet panic=-1"]
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    return done.stdout + done.stderr
