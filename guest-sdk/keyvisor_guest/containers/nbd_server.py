"""Serves an open image over NBD, on a Unix socket that only its owner reaches: blocks in clear, as they are asked for.

A block that is not as its owner built it is EIO to whoever reads it, never bytes. A thread per connection, up to
MAX_CONNECTIONS. Knows of images that they are read at a place, and where they hold nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from keyvisor_guest.containers.errors import ContainerError, ImageRefused, Refusal, Unservable
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.nbd_protocol import GREETING, Export, NbdError, Request
from keyvisor_guest.containers.nbd_session import End, Event, Look, Read, Say, Session
from keyvisor_guest.containers.reader import ImageReader

__all__ = ["MAX_CONNECTIONS", "NbdServer", "Served", "served_image"]

MAX_CONNECTIONS: Final = 16
_RECEIVED: Final = 64 << 10
_TOLD_EXTENTS: Final = 1024  # in one answer: a client asks for the rest
_TOLD_BLOCKS: Final = (1 << 30) // BLOCK  # and their lengths have 32 bits
_PATIENCE: Final = 30.0  # seconds, for a client that has not begun to read
_LONGEST_PATH: Final = 107  # of a Unix socket, in bytes


class Served(Protocol):
    """What is served."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Verified bytes, or an error of secure containers."""
        ...

    def zeros(self, first: int, count: int) -> Iterable[tuple[int, bool]]:
        """Runs of blocks from `first` on, and whether each is zeros."""
        ...


class _ServedImage:
    def __init__(self, reader: ImageReader) -> None:
        self.size = reader.size
        self._reader = reader

    def read_at(self, offset: int, length: int) -> bytes:
        return self._reader.read_at(offset, length)

    def zeros(self, first: int, count: int) -> Iterator[tuple[int, bool]]:
        return ((piece.count, piece.layer is None) for piece in self._reader.order.pieces(first, count))


def served_image(reader: ImageReader) -> Served:
    """An open image, as this serves it."""
    return _ServedImage(reader)


class NbdServer:
    """Serves from `with` to its end. `on_refused` is told of each read that was refused: the connections' threads call it.

    Raises Unservable on entering where the directory of the socket is open to others, or something is there already.
    """

    def __init__(
        self,
        image: Served,
        path: Path,
        *,
        name: str = "",
        on_refused: Callable[[ContainerError], None] = lambda _error: None,
    ) -> None:
        self._image = image
        self._path = path
        self._export = Export(image.size, name, BLOCK)
        self._on_refused = on_refused
        self._listening: socket.socket | None = None
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._accepting: threading.Thread | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        self._listening = _listen(self._path)
        self._accepting = threading.Thread(target=self._accept, args=(self._listening,), name="nbd")
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every connection, take the socket away, wait for the threads."""
        with self._lock:
            self._stopped = True
            listening, self._listening = self._listening, None
            connections, threads = list(self._connections), list(self._threads)
        if listening is None:
            return
        for one in (listening, *connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if self._accepting is not None:
            self._accepting.join()
        listening.close()
        self._path.unlink(missing_ok=True)
        for thread in threads:
            thread.join()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # shut down
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="nbd client")
            with self._lock:
                taken = not self._stopped and len(self._connections) < MAX_CONNECTIONS
                if taken:
                    self._connections.add(connection)
                    self._threads.add(thread)
            if taken:
                thread.start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                self._converse(connection, Session(self._export))
        finally:
            with self._lock:
                self._connections.discard(connection)
                self._threads.discard(threading.current_thread())

    def _converse(self, connection: socket.socket, session: Session) -> None:
        connection.settimeout(_PATIENCE)
        connection.sendall(GREETING)
        while data := connection.recv(_RECEIVED):
            for event in session.receive(data):
                answer = self._answer(session, event)
                if answer is None:
                    return
                connection.sendall(answer)
            if session.reads:
                connection.settimeout(None)

    def _answer(self, session: Session, event: Event) -> bytes | None:
        match event:
            case Say(data):
                return data
            case Read(request):
                return self._read(session, request)
            case Look(request, one):
                return session.looked(request, self._extents(request, 1 if one else _TOLD_EXTENTS))
            case End():
                return None

    def _read(self, session: Session, request: Request) -> bytes:
        try:
            data = self._image.read_at(request.offset, request.length)
        except ContainerError as error:
            self._on_refused(error)
            closed = isinstance(error, ImageRefused) and error.code is Refusal.CLOSED
            return session.failed(request, NbdError.SHUTDOWN if closed else NbdError.IO)
        return session.answered(request, data)

    def _extents(self, request: Request, most: int) -> Iterator[tuple[int, bool]]:
        """From the request's offset to its end or before it; a run of blocks never begins outside of what was asked for."""
        first, skipped = divmod(request.offset, BLOCK)
        count = min(-(-(skipped + request.length) // BLOCK), _TOLD_BLOCKS)
        left = request.length
        for blocks, zero in islice(self._image.zeros(first, count), most):
            length = min(blocks * BLOCK - skipped, left)
            yield length, zero
            skipped, left = 0, left - length


def _listen(path: Path) -> socket.socket:
    directory = path.absolute().parent
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Unservable(
            f"`{directory}` is open to others: make a directory of your own for the socket, as `mkdir -m 700 DIR` does"
        )
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise Unservable(f"`{path}` is too long for a socket: at most {_LONGEST_PATH} bytes")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(MAX_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise Unservable(
            f"`{path}` cannot be listened on ({(error.strerror or str(error)).lower()}): name a new path"
        ) from error
    return listening
