"""The NBD server over real images: what clients get, and what they get when the host changes a block meanwhile."""

import shutil
import socket
import stat
import struct
import subprocess
import threading

import pytest

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import BlockRefused, Unservable
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.nbd_server import MAX_CONNECTIONS, NbdServer, served_image

from . import nbd_client
from .images import VOLUME_BLOCKS, make
from .nbd_client import Client

SIZE = VOLUME_BLOCKS * BLOCK


@pytest.fixture(params=[Cipher.GCM, Cipher.XTS])
def made(request, tmp_path):
    return make(tmp_path / "layout", cipher=request.param)


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / "d"
    directory.mkdir(mode=0o700)
    return directory / "nbd"


@pytest.fixture
def refused():
    return []


@pytest.fixture
def served(made, place, refused):
    with (
        made.open(ExactImage(made.built.root)) as reader,
        NbdServer(served_image(reader), place, name="image", on_refused=refused.append),
    ):
        made.reader = reader
        yield made


def change(made, block_of_blob, layer=0):
    """One bit of a stored block."""
    named = made.built.secure.layers[layer].data.digest
    path = made.layout.blobs.path_of(named)
    with path.open("r+b") as file:
        file.seek(block_of_blob * BLOCK + 100)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("structured", [False, True])
def test_the_whole_volume_and_pieces_of_it(served, place, structured):
    with Client(place) as client:
        if structured:
            client.option(nbd_client.STRUCTURED)
        client.go(b"image")
        assert client.read(0, SIZE) == (0, served.volume)
        for offset, length in ((0, 1), (4095, 2), (SIZE - 1, 1), (12345, 54321)):
            assert client.read(offset, length) == (0, served.volume[offset : offset + length])
        assert client.read(SIZE - 1, 2)[0] == 22
        assert client.read(0, 0)[0] == 22
        client.ask(nbd_client.WRITE, 0, 5, payload=b"hello")
        assert client.answer(0)[0] == 1
        assert client.read(0, 5) == (0, served.volume[:5])
        client.ask(nbd_client.DISC)
        assert client.ended()


def test_where_there_is_nothing(served, place):
    with Client(place) as client:
        client.option(nbd_client.STRUCTURED)
        query = b"base:allocation"
        client.option(nbd_client.SET_META, struct.pack(">III", 0, 1, len(query)) + query)
        client.go()
        for flags, offset in ((0, 0), (8, 0), (0, 100), (0, 4 * BLOCK)):
            client.ask(nbd_client.STATUS, offset, SIZE - offset, flags=flags)
            error, _, data = client.answer(0)
            assert not error
            told = [struct.unpack_from(">II", data, at) for at in range(4, len(data), 8)]
            assert flags == 0 or len(told) == 1
            at = offset
            for length, state in told:
                assert length
                if state == 3:
                    assert not any(served.volume[at : at + length])
                at += length
            assert at <= SIZE
            assert flags or at == SIZE
            assert flags or any(state == 3 for _, state in told)


@pytest.mark.parametrize("structured", [False, True])
def test_attack8_a_block_changed_under_a_running_client_is_EIO_and_never_bytes(
    served, place, refused, structured
):
    with Client(place) as client:
        if structured:
            client.option(nbd_client.STRUCTURED)
        client.go()
        assert client.read(20 * BLOCK, 1)[0] == 0  # zeros by layer 2: of no blob
        change(served, 6)  # block 12 in layer 0: covered by layer 2
        change(served, 8)  # block 14: on top
        assert client.read(12 * BLOCK, BLOCK) == (0, served.volume[12 * BLOCK : 13 * BLOCK])
        assert not refused
        for offset, length in ((14 * BLOCK, BLOCK), (14 * BLOCK + 5, 1), (0, SIZE), (13 * BLOCK, 2 * BLOCK)):
            error, data = client.read(offset, length)
            assert (error, data) == (5, b"")
        assert {one.block for one in refused} == {14}
        assert all(isinstance(one, BlockRefused) for one in refused)
        assert client.read(15 * BLOCK, BLOCK) == (0, served.volume[15 * BLOCK : 16 * BLOCK])
        change(served, 8)  # and back
        assert client.read(14 * BLOCK, BLOCK)[0] == 0


def test_a_closed_image_gives_no_bytes_any_more(served, place):
    with Client(place) as client:
        client.go()
        assert client.read(0, BLOCK)[0] == 0
        served.reader.close()
        assert client.read(0, BLOCK) == (108, b"")


def test_the_end_of_the_server_ends_its_clients(made, place):
    with made.open(ExactImage(made.built.root)) as reader:
        with NbdServer(served_image(reader), place), Client(place) as idle, Client(place) as client:
            client.go()
            before = threading.active_count()
        assert not place.exists()
        assert threading.active_count() < before
        assert idle.socket.fileno() == -1
        with NbdServer(served_image(reader), place):  # the place is free again
            client = Client(place)
            client.go()
        assert client.ended()
        client.socket.close()


def test_only_the_owner_reaches_the_socket(made, place, tmp_path):
    with made.open(ExactImage(made.built.root)) as reader:
        image = served_image(reader)
        with NbdServer(image, place):
            assert stat.S_IMODE(place.stat().st_mode) == 0o600
            with pytest.raises(Unservable, match="name a new path"), NbdServer(image, place):
                pass
            with Client(place) as client:  # and the one that is there is not disturbed
                client.go()
                assert client.read(0, 1)[0] == 0
        place.write_text("a file of somebody's")
        with pytest.raises(Unservable), NbdServer(image, place):
            pass
        assert place.read_text() == "a file of somebody's"
        place.parent.chmod(0o750)
        with pytest.raises(Unservable, match="open to others"), NbdServer(image, place.parent / "new"):
            pass
        place.parent.chmod(0o700)
        with pytest.raises(Unservable, match="too long"), NbdServer(image, place.parent / ("n" * 100)):
            pass


def test_more_connections_than_the_limit_are_turned_away(served, place):
    clients = [Client(place) for _ in range(MAX_CONNECTIONS)]
    for client in clients:
        client.go()
    late = socket.socket(socket.AF_UNIX)
    late.settimeout(30)
    late.connect(str(place))
    assert late.recv(18) == b""
    late.close()
    for client in clients:
        assert client.read(0, 10) == (0, served.volume[:10])
        client.socket.close()


def test_many_read_at_once(served, place):
    wrong = []

    def reader(start):
        with Client(place) as client:
            client.go()
            for number in range(200):
                offset = (start * 997 + number * 1237) % (SIZE - 9000)
                if client.read(offset, 9000) != (0, served.volume[offset : offset + 9000]):
                    wrong.append(offset)

    threads = [threading.Thread(target=reader, args=(one,)) for one in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


# --- the programs of others


def run(*command):
    return subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, timeout=60, check=False
    )


def needs(name, package):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"`{name}` is not installed: it comes with Debian's `{package}`")
    return found


def test_nbdinfo_and_nbdcopy_of_libnbd(served, place, tmp_path):
    info = needs("nbdinfo", "libnbd-bin")
    uri = f"nbd+unix:///image?socket={place}"
    told = run(info, uri)
    assert told.returncode == 0, told.stderr
    assert f"export-size: {SIZE}" in told.stdout
    assert "is_read_only: true" in told.stdout
    assert "base:allocation" in told.stdout
    assert run(info, "--list", f"nbd+unix://?socket={place}").returncode == 0
    zeros = run(info, "--map", uri)
    assert "hole,zero" in zeros.stdout, zeros.stderr
    copied = run(needs("nbdcopy", "libnbd-bin"), uri, tmp_path / "copy")
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "copy").read_bytes() == served.volume


def test_attack8_nbdcopy_fails_on_a_changed_block(served, place, tmp_path):
    program = needs("nbdcopy", "libnbd-bin")
    change(served, 8)
    copied = run(program, f"nbd+unix:///image?socket={place}", tmp_path / "copy")
    assert copied.returncode != 0
    assert "Input/output error" in copied.stderr


def test_qemu_reads_it_and_not_what_was_changed(served, place, tmp_path):
    image, reader = needs("qemu-img", "qemu-utils"), needs("qemu-io", "qemu-utils")
    uri = f"nbd+unix:///image?socket={place}"
    change(served, 8)
    told = run(reader, "-r", "-f", "raw", "-c", f"read {14 * BLOCK} 4096", uri)
    assert "Input/output error" in told.stdout + told.stderr
    assert run(image, "convert", "-f", "raw", "-O", "raw", uri, tmp_path / "bad").returncode != 0
    change(served, 8)  # back: nothing of the refused block was kept
    done = run(image, "convert", "-f", "raw", "-O", "raw", uri, tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy").read_bytes() == served.volume
