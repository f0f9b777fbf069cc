"""Ordinary images for tests of the command: tars made by Python's own `tarfile`, laid out as OCI has them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor, Manifest, manifest_bytes
from keyvisor_guest.containers.oci.layout import OciLayout

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
RUNS = {"Entrypoint": ["/bin/pay"], "Cmd": ["--all"], "Env": ["A=1"], "User": "pay", "WorkingDir": "/srv"}


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """A tar header."""
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def layer(members: Iterable[tuple[tarfile.TarInfo | str, bytes | None]]) -> bytes:
    """A tar. A name alone is a file, or a directory where its content is None."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one, content in members:
            header = (
                member(one, tarfile.DIRTYPE if content is None else tarfile.REGTYPE)
                if isinstance(one, str)
                else one
            )
            header.size = len(content or b"")
            tar.addfile(header, io.BytesIO(content or b""))
    return file.getvalue()


def diff_ids_of(tars: Iterable[bytes]) -> list[str]:
    return ["sha256:" + hashlib.sha256(one).hexdigest() for one in tars]


def write_layout(
    path: Path, layers: Iterable[bytes], tag: str = "latest", runs: object = None, diff_ids: object = None
) -> OciLayout:
    """An ordinary image in a layout; one that is there gets it beside its others."""
    layout = OciLayout(path)
    layout.create()
    tars = list(layers)
    stored = [layout.blobs.put(gzip.compress(one, mtime=0)) for one in tars]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": RUNS if runs is None else runs,
        "rootfs": {"type": "layers", "diff_ids": diff_ids or diff_ids_of(tars)},
    }
    described = layout.blobs.put(json.dumps(config).encode())
    manifest = Manifest(
        Descriptor(CONFIG, described.digest, described.size),
        tuple(Descriptor(LAYER, one.digest, one.size) for one in stored),
    )
    made = layout.blobs.put(manifest_bytes(manifest))
    layout.tag(Descriptor(MANIFEST, made.digest, made.size), tag)
    return layout


def write_docker_archive(path: Path, layers: Iterable[bytes], tag: str = "pay/app:v1") -> None:
    """The same as `docker save` writes it."""
    tars = list(layers)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": RUNS,
            "rootfs": {"type": "layers", "diff_ids": diff_ids_of(tars)},
        }
    ).encode()
    names = [f"{number}/layer.tar" for number in range(len(tars))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("config.json", config),
            ("manifest.json", manifest),
            *zip(names, tars, strict=True),
        ):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
