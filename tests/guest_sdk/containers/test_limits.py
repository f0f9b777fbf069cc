"""The table of limits (secure-containers, 5), line by line: at the limit it is taken, one beyond it is refused.

The one beside the other is what makes each test honest: what is refused is refused for this limit and nothing else. Then
bombs: little that wants to become much, whatever it is packed with.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.chain import InsecureAnyImage
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.inflating import InflatedStream
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.tar_layers import Kind, LayerReader

from .archives import a_file, an_entry, archive, entries_of, member
from .images import KEY, Made, make
from .zstd_by_hand import zstd_block, zstd_frame

ZEROS = gzip.compress(bytes(900_000), mtime=0)
THREE = archive(member("a"), member("b"), member("c", b"data"))
COMMENTED = archive(member("f", pax_headers={"comment": "x" * 5000}))


def inflated(blob: bytes, limits: Limits) -> None:
    stream = InflatedStream(io.BytesIO(blob), Budget(limits))
    while stream.read(1 << 16):
        pass


def through_links(path: Path, limits: Limits) -> None:
    volume = Volume.create(path / "volume", UUID(int=1), 1024, 64, limits)
    links = [an_entry(f"s{number}", Kind.SYMLINK, link=b"s%d" % (number + 1)) for number in range(3)]
    volume.apply(0, [*links, an_entry("s3", Kind.DIRECTORY), a_file("s0/f", b"x")])


def opened(made: Made, limits: Limits) -> None:
    ImageReader.open(
        made.layout.blobs, made.built.manifest.digest, VolumeKey(KEY), InsecureAnyImage(), limits
    ).close()


def largest(made: Made, *digests: str) -> int:
    return max(made.layout.blobs.path_of(digest).stat().st_size for digest in digests)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table: what is done with the limits, and the least value of this one that lets it through."""

    use: Callable[[Limits], object]
    least: int
    others: Limits = DEFAULT_LIMITS


def lines(path: Path) -> dict[str, Line]:
    made = make(path / "image")
    secure = made.built.secure
    numbers = itertools.count()

    def in_a_volume(limits: Limits) -> None:
        room = path / str(next(numbers))
        room.mkdir()
        through_links(room, limits)

    def of(blob: bytes) -> Callable[[Limits], object]:
        return lambda limits: entries_of(blob, limits)

    xattr = archive(member("f", pax_headers={"SCHILY.xattr.user.a": "x" * 100}))
    window = zstd_frame(zstd_block(THREE), window_log=20)
    ratio = Limits(ratio=20, ratio_from=100_000)
    return {
        "uncompressed": Line(of(gzip.compress(THREE)), len(THREE)),
        "ratio": Line(lambda it: inflated(ZEROS, it), -(-900_000 // len(ZEROS)), ratio),
        "ratio_from": Line(lambda it: inflated(ZEROS, it), 900_000, ratio),
        "zstd_window_log": Line(of(window), 20),
        "entries": Line(of(THREE), 3),
        "map_json": Line(
            lambda it: opened(made, it), largest(made, *[one.map.digest for one in secure.layers])
        ),
        "xattr": Line(of(xattr), 100),
        "path_depth": Line(of(archive(member("a/b/c/d/e"))), 5),
        "path": Line(of(archive(member("d" * 9 + "/" + "f" * 10))), 20),
        "name": Line(of(archive(member("d" * 9 + "/" + "f" * 30))), 30),
        "layers": Line(lambda it: opened(made, it), 3),
        "pax_header": Line(of(COMMENTED), int(COMMENTED[124:135], 8)),
        "symlink_hops": Line(in_a_volume, 3),
        "document": Line(
            lambda it: opened(made, it), largest(made, made.built.manifest.digest, secure.config.digest)
        ),
    }


def test_every_limit_has_its_line(tmp_path: Path) -> None:
    assert set(lines(tmp_path)) == {field.name for field in dataclasses.fields(Limits)}


@pytest.mark.parametrize("limit", [field.name for field in dataclasses.fields(Limits)])
def test_at_the_limit_and_one_beyond(tmp_path: Path, limit: str) -> None:
    line = lines(tmp_path)[limit]
    line.use(dataclasses.replace(line.others, **{limit: line.least}))
    with pytest.raises(ImageRefused) as refused:
        line.use(dataclasses.replace(line.others, **{limit: line.least - 1}))
    assert refused.value.code is (Refusal.LIMIT if limit != "zstd_window_log" else Refusal.MALFORMED)
    assert "\n" not in str(refused.value)


def test_the_defaults_are_those_of_the_design() -> None:
    assert dataclasses.asdict(DEFAULT_LIMITS) == {
        "uncompressed": 16 << 30,
        "ratio": 200,
        "ratio_from": 64 << 20,
        "zstd_window_log": 27,
        "entries": 1_000_000,
        "map_json": 64_000_000,
        "xattr": 64 << 10,
        "path_depth": 256,
        "path": 4095,
        "name": 255,
        "layers": 128,
        "pax_header": 1 << 20,
        "symlink_hops": 40,
        "document": 4 << 20,
    }


class Endless(io.RawIOBase):
    """A blob that goes on for as long as it is read, and counts what it gave."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest, self.given = pieces, b"", 0

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        found, self._rest = self._rest[:size], self._rest[size:]
        self.given += len(found)
        return found


def bomb(name: str) -> Iterator[bytes]:
    many = zstd_block(b"\0", 128 << 10, last=False) * 1000
    match name:
        case "a member":
            yield gzip.compress(bytes(64 << 20), mtime=0)
        case "many members":  # each is small, and would be let through by itself
            yield from itertools.repeat(gzip.compress(bytes(256 << 10), mtime=0))
        case "zstd":
            yield zstd_frame(b"")
            yield from itertools.repeat(many)
        case "many frames":
            yield from itertools.repeat(zstd_frame(zstd_block(b"\0", 128 << 10)))


def until_refused(blob: Endless, limits: Limits) -> tuple[int, ImageRefused]:
    """How much came out before it was refused, and why it was."""
    stream, taken = InflatedStream(blob, Budget(limits)), 0  # type: ignore[arg-type]
    try:
        while data := stream.read(1 << 16):
            taken += len(data)
    except ImageRefused as refused:
        return taken, refused
    pytest.fail(f"all {taken} bytes came out")


@pytest.mark.parametrize("name", ["a member", "many members", "zstd", "many frames"])
def test_a_bomb_is_refused_after_what_every_layer_may_have(name: str) -> None:
    limits = Limits(ratio_from=8 << 20)
    blob = Endless(bomb(name))
    taken, refused = until_refused(blob, limits)
    assert "looks like a bomb" in str(refused)
    assert refused.code is Refusal.LIMIT
    assert taken <= max(limits.ratio_from, limits.ratio * blob.given)
    assert blob.given <= 128 << 10  # the blob is not read on


@pytest.mark.parametrize("name", ["many members", "zstd", "many frames"])
def test_who_allows_any_ratio_is_held_by_the_sum(name: str) -> None:
    """The broken twin: without the ratio the same blobs go on, up to what all layers may have together."""
    taken, refused = until_refused(Endless(bomb(name)), Limits(ratio=1 << 40, uncompressed=32 << 20))
    assert "inflate to more than" in str(refused)
    assert (32 << 20) - (1 << 20) < taken <= 32 << 20


def test_a_hundred_thousand_empty_members_are_nothing() -> None:
    inflated(gzip.compress(b"", mtime=0) * 100_000, DEFAULT_LIMITS)


def test_a_frame_that_says_it_is_endless_gets_no_room_for_it() -> None:
    """A single segment's window is as large as the content that it claims: 8 EiB."""
    claimed = b"\x28\xb5\x2f\xfd\xe0" + (1 << 63).to_bytes(8, "little") + zstd_block(b"x")
    with pytest.raises(ImageRefused, match="no zstd stream"):
        inflated(claimed, DEFAULT_LIMITS)


def test_a_file_that_says_it_is_endless_is_cut_short() -> None:
    header = bytearray(archive(member("f"))[:512])
    header[124:136] = b"\x80" + (1 << 62).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ImageRefused, match="cut short"):
        entries_of(bytes(header) + bytes(4096))


def test_headers_that_extend_each_other_without_end_are_counted_by_the_sum() -> None:
    """Each is within its own limit, and none is an entry."""
    one = archive(member("f", pax_headers={"comment": "x" * 500_000}))
    header = one[: 512 + int(one[124:135], 8) // 512 * 512 + 512]
    blob = Endless(itertools.repeat(header))

    with pytest.raises(ImageRefused, match="inflate to more than"):
        list(LayerReader(blob, Budget(Limits(uncompressed=8 << 20))))  # type: ignore[arg-type]


def test_names_of_all_layers_are_entries_of_one_image() -> None:
    budget = Budget(Limits(entries=1000))
    whole = archive(*[member(f"d/{number}", flag=tarfile.FIFOTYPE) for number in range(334)])

    for _ in range(2):
        list(LayerReader(io.BytesIO(gzip.compress(whole)), budget))
    with pytest.raises(ImageRefused, match="more than 1000 entries"):
        list(LayerReader(io.BytesIO(gzip.compress(whole)), budget))
