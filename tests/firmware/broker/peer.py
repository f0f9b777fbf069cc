"""A small client of the PKCS#11 door: one call after the other over one connection, as raw as a test wants it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyvisor_hsm.cryptoki import CKA, CKM

from .encoder import HANDSHAKE, Attributes, CallFailed, Got, Mechanism, body, frame, read_reply

SECONDS = 60.0  # after which a test that waits for the broker fails
SERIAL, RW = 4, 6  # CKF_SERIAL_SESSION, and with CKF_RW_SESSION

CKO_SECRET_KEY, CKK_AES = 4, 0x1F
P256 = bytes.fromhex("06082a8648ce3d030107")  # DER of the curve's name


class Peer:
    """One connection of an application. `version` is the first byte that it sends: 2 writes mechanisms the new way."""

    def __init__(self, door: Path, version: int = 0) -> None:
        self.received = bytearray()  # everything that ever came back
        self._code = 0x0F
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(SECONDS)
        try:
            self.socket.connect(str(door))
            self.socket.sendall(bytes((version,)))
            self.version = self._take(1)[0]
            self.call("C_Initialize", HANDSHAKE, 0, b"\0")
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Go away without a word, as a process does that dies."""
        self.socket.close()

    # --- bytes

    def send(self, content: bytes) -> int:
        """Send one request; the code that its reply must carry."""
        self._code += 1
        self.socket.sendall(frame(self._code, content))
        return self._code

    def receive(self, code: int) -> bytes:
        """The body of the reply to `code`."""
        answered, options, length = struct.unpack(">III", self._take(12))
        assert (answered, options) == (code, 0)
        return self._take(length)

    def exchange(self, content: bytes) -> bytes:
        return self.receive(self.send(content))

    def ended(self) -> bool:
        """Whether the broker closes the connection, rather than to send anything."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            more = self.socket.recv(length - len(taken))
            if not more:
                raise ConnectionResetError("the broker closed the connection")
            taken += more
        self.received += taken
        return taken

    # --- calls

    def call(self, name: str, *values: Any) -> Any:
        """Make a call; what its reply says. Raises CallFailed."""
        return read_reply(name, self.exchange(body(name, *values)))

    def rv(self, name: str, *values: Any) -> int:
        """Make a call; its CK_RV."""
        try:
            self.call(name, *values)
        except CallFailed as failed:
            return failed.rv
        return 0

    def session(self, slot: int, *, login: bool = False, flags: int = RW) -> int:
        """Open a session; with `login` log in."""
        handle = self.call("C_OpenSession", slot, flags)
        if login:
            self.call("C_Login", handle, 1, None)
        assert isinstance(handle, int)
        return handle

    def find(self, session: int, *template: tuple[int, Any]) -> list[int]:
        """The handles of all objects that match."""
        self.call("C_FindObjectsInit", session, template)
        found: list[int] = self.call("C_FindObjects", session, 512)
        self.call("C_FindObjectsFinal", session)
        return found

    def attribute(self, session: int, handle: int, type_: int, room: int = 1024) -> Any:
        """The value of one attribute."""
        answers, rv = self.call("C_GetAttributeValue", session, handle, [(type_, room)])
        if rv:
            raise CallFailed(rv)
        got: Got = answers[0]
        return got.value

    def aes_key(self, session: int, *template: tuple[int, Any], label: bytes = b"k") -> int:
        """Generate an AES key."""
        attributes: Attributes = [
            (CKA.LABEL, label), (CKA.VALUE_LEN, 32), (CKA.ENCRYPT, True), (CKA.DECRYPT, True), *template
        ]  # fmt: skip
        handle: int = self.call("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), attributes)
        return handle

    def ec_key_pair(self, session: int, *, token: bool, label: bytes = b"e") -> tuple[int, int]:
        """Generate a P-256 key pair: the handles of the public and the private key."""
        public: Attributes = [
            (CKA.TOKEN, token),
            (CKA.LABEL, label),
            (CKA.EC_PARAMS, P256),
            (CKA.VERIFY, True),
        ]
        private: Attributes = [(CKA.TOKEN, token), (CKA.LABEL, label), (CKA.PRIVATE, True), (CKA.SIGN, True)]
        pair: tuple[int, int] = self.call(
            "C_GenerateKeyPair", session, Mechanism(CKM.EC_KEY_PAIR_GEN), public, private
        )
        return pair

    def clear_key(self, session: int, value: bytes, *template: tuple[int, Any]) -> int:
        """Make an AES key from its clear value: a public object of the session unless `template` says otherwise."""
        attributes: dict[int, Any] = {
            CKA.CLASS: CKO_SECRET_KEY, CKA.KEY_TYPE: CKK_AES, CKA.VALUE: value, CKA.TOKEN: False,
            CKA.PRIVATE: False, CKA.ENCRYPT: True, CKA.DECRYPT: True, CKA.SENSITIVE: False, CKA.EXTRACTABLE: True,
        }  # fmt: skip
        handle: int = self.call("C_CreateObject", session, list((attributes | dict(template)).items()))
        return handle

    def encrypt(self, session: int, key: int, data: bytes) -> bytes:
        """AES-ECB."""
        self.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
        sealed: bytes = self.call("C_Encrypt", session, data, 4096)
        return sealed

    def sign(self, session: int, key: int, digest: bytes = bytes(32)) -> bytes:
        """ECDSA of a digest."""
        self.call("C_SignInit", session, Mechanism(CKM.ECDSA), key)
        signature: bytes = self.call("C_Sign", session, digest, 512)
        return signature
