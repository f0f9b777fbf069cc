"""What a container runs, from its verified config: program, environment, user, directory.

The rules are those of the OCI image specification 1.0 (`config.md`) and, where it leaves something open, Docker's. Users and
groups by name are the image's own. Pure: the config and the volume come in, a `Process` comes out.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keyvisor_guest.containers.errors import Unservable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.names import shown
from keyvisor_guest.containers.oci.documents import load_object
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = ["DEFAULT_PATH", "Process", "process_of"]

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LARGEST_ID: Final = 2**31 - 1
_LONGEST_FILE: Final = 1 << 20  # bytes of /etc/passwd or /etc/group
_MOST_WORDS: Final = 4096
_NAME: Final = re.compile(r"[^=\0]+")


@dataclass(frozen=True, slots=True)
class Process:
    """A process before it is there. `environment` in the order of the config, each name once; `directory` is absolute."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    uid: int
    gid: int
    directory: str


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int
    home: str


def process_of(config: bytes, volume: VolumeReader, arguments: Sequence[str] = ()) -> Process:
    """What the config says; `arguments` stand instead of its `Cmd`. Raises Unservable, ImageRefused, VolumeUnusable."""
    members = load_object(config, "the image's config").get("config")
    said: Mapping[str, Any] = members if isinstance(members, dict) else {}
    words = (*_words(said, "Entrypoint"), *(arguments or _words(said, "Cmd")))
    if not words or not words[0]:
        raise Unservable("the image does not say what to run in it: name a program behind `--`")
    _check("a command", words)
    user = _user(_text(said, "User"), volume)
    return Process(
        arguments=tuple(words),
        environment=tuple(_environment(_words(said, "Env"), user).items()),
        uid=user.uid,
        gid=user.gid,
        directory=_directory(_text(said, "WorkingDir")),
    )


def _words(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = said.get(name)
    if found is None:
        return ()
    if (
        not isinstance(found, list)
        or len(found) > _MOST_WORDS
        or not all(isinstance(one, str) for one in found)
    ):
        raise Unservable(f"the config's `{name}` is no list of words: build the image again")
    _check(f"the config's `{name}`", found)
    return tuple(found)


def _text(said: Mapping[str, Any], name: str) -> str:
    found = said.get(name)
    if found is not None and not isinstance(found, str):
        raise Unservable(f"the config's `{name}` is no text: build the image again")
    _check(f"the config's `{name}`", (found or "",))
    return found or ""


def _check(what: str, words: Sequence[str]) -> None:
    for one in words:
        try:
            passed = one.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            passed = b"\0"
        if b"\0" in passed:
            raise Unservable(f"{what} has a sign in it that no program can be given")


def _environment(entries: Sequence[str], user: _User) -> dict[str, str]:
    """The config's, the last of a name counts; PATH and HOME where it has none."""
    found = {"PATH": DEFAULT_PATH, "HOME": user.home}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise Unservable(
                f"{quoted(entry)} in the config's `Env` is no `NAME=VALUE`: build the image again"
            )
        found[name] = value
    return found


def _directory(text: str) -> str:
    if ".." in text.split("/"):
        raise Unservable(f"the config's `WorkingDir` {quoted(text)} has `..` in it: build the image again")
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


# --- users


def _user(text: str, volume: VolumeReader) -> _User:
    """`USER[:GROUP]`, each a name or a number. A name that is all digits is a name, where the image has it."""
    name, colon, group = text.partition(":")
    if colon and not group:
        raise Unservable(f"the config's `User` {quoted(text)} names no group behind its colon")
    wanted = name or "0"
    number = _number(wanted)
    entries = list(_entries(volume, b"passwd", 7))
    for entry in (
        *(one for one in entries if one[0] == wanted),
        *(one for one in entries if number is not None and _number(one[2]) == number),
    ):
        uid, gid = _number(entry[2]), _number(entry[3])
        if uid is None or gid is None:
            raise Unservable(f"{quoted(wanted)} has no numbers in the image's /etc/passwd: build it again")
        home = entry[5] if entry[5].startswith("/") else "/"
        return _User(uid, _group(group, volume) if group else gid, home)
    if number is None:
        raise Unservable(
            f"the config's `User` {quoted(name)} is not in the image's /etc/passwd: build the image with that user"
        )
    return _User(number, _group(group, volume) if group else 0, "/")


def _group(text: str, volume: VolumeReader) -> int:
    for entry in _entries(volume, b"group", 4):
        if entry[0] == text and (gid := _number(entry[2])) is not None:
            return gid
    number = _number(text)
    if number is None:
        raise Unservable(
            f"the group {quoted(text)} is not in the image's /etc/group: build the image with that group"
        )
    return number


def _number(text: str) -> int | None:
    if not re.fullmatch("[0-9]{1,10}", text, re.ASCII) or int(text) > _LARGEST_ID:
        return None
    return int(text)


def _entries(volume: VolumeReader, name: bytes, fields: int) -> Iterator[list[str]]:
    """The lines of a file in /etc that have so many fields; of no file none."""
    path = (b"etc", name)
    try:
        node = volume.find(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(node.inode.mode):
        raise Unservable(f"the image's {shown(path)} is no file: build the image again")
    if node.inode.size > _LONGEST_FILE:
        raise Unservable(f"the image's {shown(path)} has more than {_LONGEST_FILE} bytes")
    for line in volume.read(node).decode("utf-8", "surrogateescape").splitlines():
        found = line.split(":")
        if len(found) >= fields and not line.startswith("#"):
            yield found
