"""What umoci, which is not ours, unpacks an image to: a directory on this machine, told as volumes are told."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path

from .shadow_tree import Description


def unpack(layout: Path, bundle: Path, tag: str = "image") -> Path:
    """The root of the unpacked image."""
    command = ["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return bundle / "rootfs"


def write_layout(layout: Path, tars: list[bytes]) -> None:
    """An OCI image layout with the tag `image`."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    kind = "application/vnd.oci.image."
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}manifest.v1+json",
        "config": put(json.dumps(config).encode(), f"{kind}config.v1+json"),
        "layers": [put(gzip.compress(tar), f"{kind}layer.v1.tar+gzip") for tar in tars],
    }
    top = put(json.dumps(manifest).encode(), f"{kind}manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "image"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def described_directory(root: Path) -> Description:
    """What `described_volume` tells, of a directory on this machine."""
    paths = [root, *sorted(root.rglob("*"))]
    shared: dict[tuple[int, int], list[bytes]] = {}
    for path in paths:
        status = path.lstat()
        shared.setdefault((status.st_dev, status.st_ino), []).append(_inside(root, path))
    result: Description = {}
    for path in paths:
        status, content = path.lstat(), None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(os.fsencode(path))
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = (os.major(status.st_rdev), os.minor(status.st_rdev))  # type: ignore[assignment]
        result[_inside(root, path)] = (
            status.st_mode,
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            {
                os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
            content,
            tuple(sorted(shared[status.st_dev, status.st_ino])),
            status.st_nlink,
        )
    return result


def _inside(root: Path, path: Path) -> bytes:
    return b"" if path == root else b"/" + os.fsencode(path.relative_to(root))
