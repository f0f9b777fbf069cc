"""A small image that runs: a shell, a few programs and the stock PKCS#11 client, copied from this machine with libraries."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from keyvisor_guest.stock_client import find

from ..guest_sdk.ordinary_image import layer, member, write_layout

PROGRAMS = ("cat", "env", "id", "ls", "pkcs11-tool", "pwd", "sleep", "touch")
DATA = b"the application's own data, known to this test and to nobody else\n" * 3000
USERS = (
    ("etc", None),
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\npay:x:1000:2000::/home/pay:/bin/sh\n"),
    ("etc/group", b"root:x:0:\npayers:x:2000:\n"),
)
RUNS = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo started; id -u; id -g; pwd; env"],
    "Env": ["GREETING=good morning", "PATH=/bin"],
    "User": "pay",
    "WorkingDir": "/srv/work",
}


def libraries(program: Path) -> set[Path]:
    """What the loader wants for it."""
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", told, re.MULTILINE)}


@functools.cache
def lower_layer() -> bytes:
    """Programs, their libraries, the client, users."""
    files = {Path("/bin/sh"): Path("/bin/sh"), find(): find()}
    for name in PROGRAMS:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found is not None, name
        files[Path("/bin", name)] = Path(found)
    for source in list(files.values()):
        files |= {one: one for one in libraries(source)}
    names = sorted({parent for path in files for parent in path.parents if parent != Path("/")})
    return layer(
        [
            *((str(one)[1:], None) for one in names),
            *((member(str(path)[1:], mode=0o755), source.read_bytes()) for path, source in files.items()),
            *USERS,
        ]
    )


def write_source(
    place: Path, tag: str, more: Iterable[tuple[str, bytes | None]] = (), runs: object = None
) -> None:
    """The image in a layout: the lower layer, and one with DATA and what comes with `more`."""
    upper = layer([("srv", None), ("srv/data", DATA), *more])
    write_layout(place, [lower_layer(), upper], tag, RUNS if runs is None else runs)
