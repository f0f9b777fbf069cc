"""Of which release a client is: the installed one, libraries that are none, and small ones that say what they are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvisor_guest.client_release import UNKNOWN, carries, release, verdict
from keyvisor_guest.errors import ClientUnusable
from keyvisor_guest.stock_client import ADDRESS_VARIABLE, find
from keyvisor_guest.wire.client_releases import RELEASES

# A client that connects as p11-kit's does and does what `WITH` says once it is there.
_SOURCE = """
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static unsigned long initialize(void *arguments) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path, getenv("P11_KIT_SERVER_ADDRESS") + strlen("unix:path="));
    int door = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(door, (struct sockaddr *)&at, sizeof at))
        return 5;
    WITH;
    return 0;
}
static struct { unsigned char version[2]; void *calls[68]; } list = {{2, 40}, {(void *)initialize}};
unsigned long C_GetFunctionList(void **answer) { *answer = &list; return 0; }
"""
Client = Callable[[str], Path]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Builds a client."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler `cc` here: clients of other releases cannot be built")

    def build(doing: str) -> Path:
        (tmp_path / "client.c").write_text(_SOURCE)
        command = ["cc", "-shared", "-fPIC", f"-DWITH={doing}", "-o", "client.so", "client.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
        return tmp_path / "client.so"

    return build


def test_the_installed_client_is_of_a_release() -> None:
    try:
        library = find()
    except ClientUnusable as error:
        pytest.skip(str(error))
    assert release(library) in RELEASES


@pytest.mark.parametrize(("byte", "expected"), [(0, "0.24"), (1, "0.25.0"), (2, "0.25.6"), (3, UNKNOWN)])
def test_the_first_byte_tells_the_releases_apart(byte: int, expected: str, client: Client) -> None:
    assert release(client(f'write(door, "\\{byte:03o}", 1)')) == expected


@pytest.mark.parametrize("doing", ["close(door)", "abort()", "_exit(3)"])
def test_a_client_that_says_nothing_is_unknown(doing: str, client: Client) -> None:
    assert release(client(doing)) == UNKNOWN


def test_what_is_no_client_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no library")
    for library in (tmp_path / "text", tmp_path / "nothing", tmp_path):
        assert release(library) == UNKNOWN


def test_asking_leaves_nothing_behind(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "unix:path=/a/guest")
    before = {
        path for path in Path(tempfile.gettempdir()).glob("keyvisor-*") if path.joinpath("door").exists()
    }
    release(client("close(door)"))
    after = {
        path for path in Path(tempfile.gettempdir()).glob("keyvisor-*") if path.joinpath("door").exists()
    }
    assert after <= before
    assert os.environ[ADDRESS_VARIABLE] == "unix:path=/a/guest"


def test_the_verdict_names_the_way_out() -> None:
    aes_cbc, ecdsa, eddsa = 0x1082, 0x1041, 0x1057
    assert verdict(ecdsa, "0.24") == "yes"
    assert verdict(aes_cbc, "0.24") == "no: since 0.25.0"
    assert verdict(aes_cbc, "0.25.6") == "yes"
    assert verdict(eddsa, "0.25.6") == "no: no release does"
    assert verdict(aes_cbc, UNKNOWN) == "unknown: since 0.25.0"
    assert (carries(ecdsa, "0.24"), carries(aes_cbc, "0.24"), carries(ecdsa, UNKNOWN)) == (True, False, None)
