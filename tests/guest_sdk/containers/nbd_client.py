"""A small NBD client of the tests' own: what the protocol says, and what it forbids as well."""

from __future__ import annotations

import socket
import struct

REQUEST_MAGIC = 0x25609513
OPTION_REPLY = 0x3E889045565A9
GO, LIST, ABORT, EXPORT_NAME, INFO, STRUCTURED, LIST_META, SET_META = 7, 3, 2, 1, 6, 8, 9, 10
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, STATUS = range(8)


class Client:
    """One connection. `structured` once it was asked for."""

    def __init__(self, path, flags=3):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.structured = False
        self.greeting = self.take(18)
        self.socket.sendall(struct.pack(">I", flags))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def take(self, length):
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def ended(self):
        """Whether the server has closed; nothing more has come."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def send_option(self, option, data=b"", length=None):
        self.socket.sendall(
            b"IHAVEOPT" + struct.pack(">II", option, len(data) if length is None else length) + data
        )

    def option_reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == OPTION_REPLY
        return option, kind, self.take(length)

    def option(self, option, data=b""):
        """All replies to an option: (kind, data), up to the last one."""
        self.send_option(option, data)
        replies = []
        while True:
            told, kind, content = self.option_reply()
            assert told == option
            replies.append((kind, content))
            if kind == 1 or kind >> 31:
                if option == STRUCTURED and kind == 1:
                    self.structured = True
                return replies

    def go(self, name=b""):
        return self.option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))

    def ask(self, command, offset=0, length=0, cookie=7, flags=0, payload=b""):
        self.socket.sendall(
            struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length) + payload
        )

    def answer(self, length):
        """(error, cookie, data); of a structured reply what is in its one chunk."""
        (magic,) = struct.unpack(">I", self.take(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.take(12))
            return error, cookie, b"" if error else self.take(length)
        assert magic == 0x668E33EF
        flags, kind, cookie, size = struct.unpack(">HHQI", self.take(16))
        payload = self.take(size)
        assert flags == 1
        if kind >> 15:
            error, text = struct.unpack_from(">IH", payload)
            assert text == len(payload) - 6
            return error, cookie, b""
        return 0, cookie, payload

    def read(self, offset, length, cookie=7):
        """(error, data)"""
        self.ask(READ, offset, length, cookie)
        error, told, data = self.answer(length)
        assert told == cookie
        if self.structured and not error:
            assert struct.unpack_from(">Q", data)[0] == offset
            data = data[8:]
        return error, data
