"""The operator token: master keys that never leave it, and everything that is computed from them.

An AES-256 key per master key, not extractable, in a SoftHSM token reached through python-pkcs11. The token also
seals what the firmware keeps on disk. Knows neither guests nor which card carries which key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, SecretKey
from pkcs11.exceptions import NoSuchKey, PKCS11Error
from pkcs11.mechanisms import GCMParams

from keyvisor_hsm.cryptoki.module import environment
from keyvisor_hsm.errors import HsmError, OperatorTokenError, SealBroken
from keyvisor_hsm.partitions import Partition, PartitionKeys

MKVP_LENGTH = 16  # bytes

# Each use of a master key has a prefix of its own, none of them the beginning of another.
_MKVP = b"keyvisor master key verification pattern"
_DIRECTORY = b"keyvisor partition directory"
_USER_PIN = b"keyvisor partition user pin"
_SO_PIN = b"keyvisor partition so pin"

_MASTER_KEY = "master key: "
_SEAL_KEY = "seal"
_NONCE = 12
_TAG_BITS = 128


class _Key(Protocol):
    """What python-pkcs11 makes, at run time, of a secret key with these uses; its own types cannot say it."""

    def encrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams) -> bytes: ...

    def decrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams) -> bytes: ...

    def sign(self, data: bytes, *, mechanism: Mechanism) -> bytes: ...


class OperatorToken:
    """The operator's token in `directory`. Safe to use from several threads: one call at a time."""

    def __init__(self, session: pkcs11.Session) -> None:
        self._session = session
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path, module: Path) -> OperatorToken:
        """Open the token, made on first use, through the PKCS#11 module at `module`. Raises OperatorTokenError.

        Its PIN lies beside it in a file of mode 0600: what a real card's casing does, this file's protection
        has to do here (docs/decisions/0003).
        """
        try:
            keys = _own_keys(directory)
            Partition.open(directory, keys, module).close()
            return cls(_session(directory, module, keys))
        except (OSError, PKCS11Error, HsmError) as error:
            raise OperatorTokenError(
                f"the operator token in `{directory}` does not open: {str(error) or repr(error)}"
            ) from None

    def ensure_master_key(self, name: str) -> None:
        """Make the master key `name` unless it is there."""
        self._ensure(_MASTER_KEY + name, {Attribute.SIGN: True, Attribute.VERIFY: True})

    def mkvp(self, name: str) -> bytes:
        """The 16-byte verification pattern of the master key `name`, computed in the token. Raises OperatorTokenError."""
        return self._cmac(name, _MKVP)

    def partition_keys(self, master_key: str, association_secret: bytes) -> PartitionKeys:
        """What opens the partition of (master key, 32-byte association secret), derived in the token."""
        if len(association_secret) != 32:
            raise ValueError("an association secret has 32 bytes")
        return PartitionKeys(
            directory=self._cmac(master_key, _DIRECTORY + association_secret).hex(),
            user_pin=self._cmac(master_key, _USER_PIN + association_secret).hex().encode(),
            so_pin=self._cmac(master_key, _SO_PIN + association_secret).hex().encode(),
        )

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt under a key of the token. Opens only with the same `context`, the name of the place it is kept in."""
        nonce = os.urandom(_NONCE)
        with self._working():
            sealed = self._seal_key().encrypt(
                plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, context, _TAG_BITS)
            )
        return nonce + bytes(sealed)

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed for `context`. Raises SealBroken for anything else."""
        nonce, body = sealed[:_NONCE], sealed[_NONCE:]
        if len(body) < _TAG_BITS // 8:
            raise SealBroken("a sealed value is too short")
        with self._working():
            key = self._seal_key()
            try:
                opened = key.decrypt(
                    body, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, context, _TAG_BITS)
                )
            except PKCS11Error:
                raise SealBroken("a sealed value was changed, or belongs to another place") from None
        return bytes(opened)

    def close(self) -> None:
        """Log out and let the token go."""
        with self._lock, contextlib.suppress(PKCS11Error):
            self._session.close()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except PKCS11Error as error:
                raise OperatorTokenError(f"the operator token refused: {error!r}") from None

    def _cmac(self, name: str, message: bytes) -> bytes:
        with self._working():
            try:
                key = self._key(_MASTER_KEY + name)
            except NoSuchKey:
                raise OperatorTokenError(f"no master key `{name}` in the operator token") from None
            return bytes(key.sign(message, mechanism=Mechanism.AES_CMAC))

    def _seal_key(self) -> _Key:
        try:
            return self._key(_SEAL_KEY)
        except NoSuchKey:
            return self._make(_SEAL_KEY, {Attribute.ENCRYPT: True, Attribute.DECRYPT: True})

    def _ensure(self, label: str, uses: dict[Attribute, bool]) -> None:
        with self._working():
            try:
                self._key(label)
            except NoSuchKey:
                self._make(label, uses)

    def _key(self, label: str) -> _Key:
        key = self._session.get_key(label=label, key_type=KeyType.AES)
        if not isinstance(key, SecretKey):
            raise OperatorTokenError(f"`{label}` in the operator token is no secret key")
        return cast(_Key, key)

    def _make(self, label: str, uses: dict[Attribute, bool]) -> _Key:
        all_uses = (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.SIGN, Attribute.VERIFY)
        never = (Attribute.WRAP, Attribute.UNWRAP, Attribute.DERIVE, Attribute.EXTRACTABLE)
        template = dict.fromkeys((*all_uses, *never), False) | uses | {Attribute.SENSITIVE: True}
        key = self._session.generate_key(KeyType.AES, 256, label=label, store=True, template=template)
        return cast(_Key, key)


def _own_keys(directory: Path) -> PartitionKeys:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "pin"
    if not path.exists():
        # Written whole or not at all: a half-written PIN would lock the token out for good.
        draft = directory / "pin.draft"
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(16)}\n{secrets.token_hex(16)}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    try:
        user_pin, so_pin = path.read_bytes().decode("ascii").split()
    except ValueError:
        raise OperatorTokenError(f"`{path}` does not hold two PINs; put it back from a copy") from None
    return PartitionKeys(directory=directory.name, user_pin=user_pin.encode(), so_pin=so_pin.encode())


def _session(directory: Path, module: Path, keys: PartitionKeys) -> pkcs11.Session:
    """python-pkcs11's session on the token, through an instance that no other token of this process shares."""
    with tempfile.TemporaryDirectory(prefix="keyvisor-module-") as name:
        copy = Path(name) / module.name
        shutil.copyfile(module, copy)
        with environment({"SOFTHSM2_CONF": str(directory / "softhsm2.conf")}):
            library = pkcs11.lib(str(copy))
    token = next(token for slot in library.get_slots(token_present=True) if (token := slot.get_token()).label)
    return token.open(rw=True, user_pin=keys.user_pin.decode())
