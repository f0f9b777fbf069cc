"""What stands in a layer's archive comes out as entries; what may not stand in one is refused, with the way out."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.tar_layers import Entry, Kind, LayerReader

from .archives import archive, entries_of, member


def one(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Entry:
    ((entry, _),) = entries_of(archive(*members, form=form))
    return entry


def with_checksum(header: bytes) -> bytes:
    """A header whose checksum is right again."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def changed(blob: bytes, offset: int, field: bytes) -> bytes:
    header = blob[:offset] + field + blob[offset + len(field) : 512]
    return with_checksum(header) + blob[512:]


class TestFields:
    def test_a_file(self) -> None:
        info, data = member("usr/bin/app", b"\x7fELF", mode=0o104755, uid=1000, gid=2000, mtime=1_700_000_000)
        ((entry, found),) = entries_of(archive((info, data)))
        assert (entry.path, entry.kind, found) == ((b"usr", b"bin", b"app"), Kind.FILE, b"\x7fELF")
        assert (entry.mode, entry.uid, entry.gid) == (0o4755, 1000, 2000)
        assert entry.mtime == 1_700_000_000_000_000_000

    @pytest.mark.parametrize(
        ("text", "nanoseconds"),
        [
            ("1.000000001", 1_000_000_001),
            ("-1.5", -1_500_000_000),
            ("4300000000.123456789123", 4_300_000_000_123_456_789),
        ],
    )
    def test_times_to_the_nanosecond(self, text: str, nanoseconds: int) -> None:
        assert one(member("f", pax_headers={"mtime": text})).mtime == nanoseconds

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_long_names_and_large_numbers(self, form: int) -> None:
        name = "/".join(["d" * 60] * 5)
        entry = one(
            member(name, flag=tarfile.SYMTYPE, linkname="t" * 300, uid=2**31, gid=2**32 - 2, mtime=2**33),
            form=form,
        )
        assert (len(entry.path), entry.link, entry.uid, entry.gid) == (5, b"t" * 300, 2**31, 2**32 - 2)
        assert entry.mtime == 2**33 * 1_000_000_000

    def test_a_name_in_two_parts_of_the_header(self) -> None:
        name = "/".join(["e" * 70] * 3)
        assert one(member(name), form=tarfile.USTAR_FORMAT).path == (b"e" * 70,) * 3

    def test_names_are_bytes(self) -> None:
        name = b"a\xff\n \xc3\xbc'\"\\"
        assert one(member(name.decode("utf-8", "surrogateescape")), form=tarfile.GNU_FORMAT).path == (name,)

    @pytest.mark.parametrize("name", ["./a/b", "/a//b", "a/./b/", "//a/b/."])
    def test_names_are_meant_from_the_root(self, name: str) -> None:
        assert one(member(name, flag=tarfile.DIRTYPE)).path == (b"a", b"b")

    @pytest.mark.parametrize("name", [".", "./", "/"])
    def test_the_root(self, name: str) -> None:
        assert one(member(name, flag=tarfile.DIRTYPE)).path == ()

    def test_links_devices_and_fifos(self) -> None:
        blob = archive(
            member("h", flag=tarfile.LNKTYPE, linkname="./a/b"),
            member("s", flag=tarfile.SYMTYPE, linkname="../x"),
            member("c", flag=tarfile.CHRTYPE, devmajor=259, devminor=70000),
            member("b", flag=tarfile.BLKTYPE, devmajor=8, devminor=1),
            member("p", flag=tarfile.FIFOTYPE),
        )
        found = {entry.path[0]: entry for entry, _ in entries_of(blob)}
        assert found[b"h"].target == (b"a", b"b")
        assert (found[b"s"].link, found[b"s"].mode) == (b"../x", 0o777)
        assert [(found[name].kind, found[name].device) for name in (b"c", b"b", b"p")] == [
            (Kind.CHARACTER_DEVICE, (259, 70000)),
            (Kind.BLOCK_DEVICE, (8, 1)),
            (Kind.FIFO, (0, 0)),
        ]

    def test_extended_attributes_of_linux_only(self) -> None:
        records = {
            "SCHILY.xattr.user.ü": "1",
            "SCHILY.xattr.security.capability": "\x01\x00",
            "SCHILY.xattr.user.empty": "",
            "SCHILY.xattr.com.apple.provenance": "x",
            "LIBARCHIVE.creationtime": "1",
        }
        entry = one(member("f", pax_headers=records))
        assert entry.xattrs == ((b"security.capability", b"\x01\x00"), ("user.ü".encode(), b"1"))

    def test_a_comment_for_all_entries(self) -> None:
        whole = io.BytesIO()
        with tarfile.open(
            fileobj=whole, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "git"}
        ) as tar:
            tar.addfile(*member("f"))
        assert [entry.path for entry, _ in entries_of(whole.getvalue())] == [(b"f",)]

    def test_data_that_nobody_asked_for_is_passed_over(self) -> None:
        blob = archive(member("a", b"x" * 300_000), member("b", b"last"))
        reader = LayerReader(io.BytesIO(blob), Budget())
        assert [entry.path for entry in reader] == [(b"a",), (b"b",)]

    def test_half_asked_for_too(self) -> None:
        blob = archive(member("a", b"x" * 600_001), member("b", b"last"))
        entries = iter(LayerReader(io.BytesIO(blob), Budget()))
        assert len(next(next(entries).data)) == 256 << 10
        assert b"".join(next(entries).data) == b"last"


class TestWhiteouts:
    def test_a_name(self) -> None:
        entry = one(member("a/.wh.gone"))
        assert (entry.path, entry.kind) == ((b"a", b"gone"), Kind.WHITEOUT)

    @pytest.mark.parametrize(("name", "path"), [("a/.wh..wh..opq", (b"a",)), (".wh..wh..opq", ())])
    def test_a_whole_directory(self, name: str, path: tuple[bytes, ...]) -> None:
        entry = one(member(name))
        assert (entry.path, entry.kind) == (path, Kind.OPAQUE)

    @pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..wh.plnk", ".wh.a/b"])
    def test_whiteouts_of_nothing(self, name: str) -> None:
        with pytest.raises(ImageRefused, match="build the image again"):
            one(member(name))

    def test_a_whiteout_is_no_directory(self) -> None:
        with pytest.raises(ImageRefused, match="is a directory"):
            one(member(".wh.a", flag=tarfile.DIRTYPE))


class TestRefusals:
    @pytest.mark.parametrize("name", ["..", "../etc/passwd", "a/../../b", "/..", "a/.."])
    @pytest.mark.parametrize("flag", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
    def test_names_that_lead_upwards(self, name: str, flag: bytes) -> None:
        with pytest.raises(ImageRefused, match=r"leads upwards with `\.\.`"):
            one(member(name, flag=flag, linkname="x"))

    def test_a_hard_link_that_leads_upwards(self) -> None:
        with pytest.raises(ImageRefused, match="leads upwards"):
            one(member("a", flag=tarfile.LNKTYPE, linkname="../../etc/shadow"))

    @pytest.mark.parametrize(
        ("info", "limits", "reason"),
        [
            (member("n" * 256), Limits(), "a part of more than 255 bytes"),
            (member("/".join("d" * 257)), Limits(), "deeper than 256"),
            (member("/".join(["d" * 200] * 30)), Limits(), "longer than 4095 bytes"),
            (
                member("f", pax_headers={"SCHILY.xattr.user.a": "x" * 101}),
                Limits(xattr=100),
                "more than 100 bytes",
            ),
            (member("f", pax_headers={"comment": "x" * 5000}), Limits(pax_header=5000), "extended header of"),
            (member("f"), Limits(entries=0), "more than 0 entries"),
        ],
    )
    def test_more_than_a_limit(self, info: Any, limits: Limits, reason: str) -> None:
        with pytest.raises(ImageRefused, match=reason) as refused:
            entries_of(archive(info), limits)
        assert refused.value.code is Refusal.LIMIT

    def test_a_header_that_promises_gigabytes_takes_none(self) -> None:
        blob = archive(member("f", pax_headers={"comment": "x"}))
        with pytest.raises(ImageRefused, match="extended header of 8589934591 bytes"):
            entries_of(changed(blob, 124, b"77777777777\0"))

    def test_entries_are_counted_over_all_layers(self) -> None:
        budget = Budget(Limits(entries=3))
        blob = archive(member("a"), member("b"))
        assert len(list(LayerReader(io.BytesIO(blob), budget))) == 2
        with pytest.raises(ImageRefused, match="more than 3 entries"):
            list(LayerReader(io.BytesIO(blob), budget))

    @pytest.mark.parametrize(
        ("records", "reason"),
        [
            ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "sparse file in GNU's form"),
            ({"SCHILY.acl.access": "user::rwx"}, "ACL as text"),
            ({"mtime": "1e9"}, "no decimal number"),
            ({"uid": "-1"}, "uid in a layer is no number"),
            ({"gid": "4294967295"}, "which no user or group can be"),
            ({"path": "a\0b"}, "has a NUL"),
        ],
    )
    def test_records(self, records: dict[str, str], reason: str) -> None:
        with pytest.raises(ImageRefused, match=reason):
            one(member("f", pax_headers=records))

    def test_a_header_for_all_entries_that_changes_them(self) -> None:
        whole = io.BytesIO()
        with tarfile.open(
            fileobj=whole, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "0"}
        ) as tar:
            tar.addfile(*member("f"))
        with pytest.raises(ImageRefused, match="one global header"):
            entries_of(whole.getvalue())

    @pytest.mark.parametrize("flag", [b"S", b"V", b"M", b"D", b"Z"])
    def test_types_that_no_layer_has(self, flag: bytes) -> None:
        with pytest.raises(ImageRefused, match="tar entry of type"):
            entries_of(changed(archive(member("f"), form=tarfile.GNU_FORMAT), 156, flag))

    @pytest.mark.parametrize("flag", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_data_of_what_has_none(self, flag: bytes) -> None:
        blob = archive(member("f", b"x" * 512, linkname="y"))
        with pytest.raises(ImageRefused, match="that has data"):
            entries_of(changed(blob, 156, flag))

    def test_a_symlink_to_nothing(self) -> None:
        with pytest.raises(ImageRefused, match="a target that is empty"):
            one(member("f", flag=tarfile.SYMTYPE))

    def test_the_root_as_a_file(self) -> None:
        with pytest.raises(ImageRefused, match="the root directory comes as a file"):
            one(member("."))

    def test_a_device_that_linux_does_not_know(self) -> None:
        with pytest.raises(ImageRefused, match="device number"):
            one(member("f", flag=tarfile.CHRTYPE, devmajor=4096))

    def test_a_negative_size(self) -> None:
        with pytest.raises(ImageRefused, match="negative size"):
            entries_of(changed(archive(member("f")), 124, b"\xff" * 12))

    @pytest.mark.parametrize("offset", [0, 100, 130, 148, 300])
    def test_a_flipped_byte_in_a_header(self, offset: int) -> None:
        blob = bytearray(archive(member("f")))
        blob[offset] ^= 4
        with pytest.raises(ImageRefused):
            entries_of(bytes(blob))

    @pytest.mark.parametrize("length", [0, 511, 512, 700, 1024])
    def test_an_archive_that_is_cut_short(self, length: int) -> None:
        with pytest.raises(ImageRefused, match="cut short"):
            entries_of(archive(member("f", b"x" * 100))[:length])

    def test_something_behind_the_end(self) -> None:
        blob = archive(member("f")) + archive(member("hidden"))
        with pytest.raises(ImageRefused, match="goes on behind the end"):
            entries_of(blob)

    def test_an_empty_layer_is_none_of_these(self) -> None:
        assert entries_of(archive()) == []


@given(st.binary(max_size=512), st.integers(0, 511))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_entries_or_refused(noise: bytes, offset: int) -> None:
    """A fuzz of one header, its checksum made right: entries, or ImageRefused, and nothing else."""
    blob = bytearray(archive(member("a/b", b"x" * 600), member("c", flag=tarfile.SYMTYPE, linkname="d")))
    blob[offset : min(offset + len(noise), 512)] = noise[: 512 - offset]
    try:
        found = entries_of(with_checksum(bytes(blob[:512])) + bytes(blob[512:]))
    except ImageRefused as error:
        found, said = [], str(error)
    else:
        said = ""
    assert said == "" or said.isprintable()
    assert all(b".." not in entry.path and b"/" not in b"".join(entry.path) for entry, _ in found)
