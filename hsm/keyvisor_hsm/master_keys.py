"""The operator token: master keys that never leave it, and everything that is computed from them.

An AES-256 key per master key, not extractable, in a SoftHSM token reached through python-pkcs11. The token also
seals what the firmware keeps on disk, signs what it records, and remembers a few bytes that the disk must not go
back behind. Knows neither guests nor which card carries which key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, PublicKey, SecretKey
from pkcs11.exceptions import NoSuchKey, PKCS11Error
from pkcs11.mechanisms import GCMParams
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

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
_SIGNING_KEY = "signing key: "
_REMEMBERED = "remembered: "
_CURVE = "secp256r1"
_NONCE = 12
_TAG_BITS = 128
_DIGEST = 32  # bytes


class _Key(Protocol):
    """What python-pkcs11 makes, at run time, of a secret key with these uses; its own types cannot say it."""

    def encrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams) -> bytes: ...

    def decrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams) -> bytes: ...

    def sign(self, data: bytes, *, mechanism: Mechanism) -> bytes: ...


class _PrivateKey(Protocol):
    """Likewise of a private key."""

    def sign(self, data: bytes, *, mechanism: Mechanism) -> bytes: ...


class SigningKey:
    """A signing key of the token. `public_key` is its DER SubjectPublicKeyInfo."""

    def __init__(
        self, public_key: bytes, private: _PrivateKey, working: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.public_key = public_key
        self._private = private
        self._working = working

    def sign(self, digest: bytes) -> bytes:
        """ECDSA over P-256 of a 32-byte digest: r and s, 32 bytes each, big-endian. Raises OperatorTokenError."""
        if len(digest) != _DIGEST:
            raise ValueError(f"a digest has {_DIGEST} bytes")
        with self._working():
            return bytes(self._private.sign(digest, mechanism=Mechanism.ECDSA))


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

    def signing_key(self, name: str) -> SigningKey:
        """The signing key `name`, made on first use: ECDSA over P-256, never out of the token. Raises OperatorTokenError."""
        label = _SIGNING_KEY + name
        with self._working():
            try:
                private = self._private_key(label)
            except NoSuchKey:
                self._make_signing_key(label)
                private = self._private_key(label)
            public = self._session.get_key(object_class=ObjectClass.PUBLIC_KEY, label=label)
            if not isinstance(public, PublicKey):
                raise OperatorTokenError(f"`{label}` in the operator token has no public key")
            return SigningKey(bytes(encode_ec_public_key(public)), private, self._working)

    def remember(self, name: str, value: bytes) -> None:
        """Keep `value` in the token in place of what it remembers as `name`. Raises OperatorTokenError.

        The old value goes after the new one is there: a crash between the two leaves both, and `remembered` tells both.
        """
        label = _REMEMBERED + name
        with self._working():
            old = list(self._data(label))
            self._session.create_object(
                {
                    Attribute.CLASS: ObjectClass.DATA,
                    Attribute.LABEL: label,
                    Attribute.TOKEN: True,
                    Attribute.PRIVATE: True,
                    Attribute.VALUE: value,
                }
            )
            for one in old:
                one.destroy()

    def remembered(self, name: str) -> tuple[bytes, ...]:
        """What is remembered as `name`: nothing, one value, or after a crash the old and the new. Raises OperatorTokenError."""
        with self._working():
            return tuple(bytes(one[Attribute.VALUE]) for one in self._data(_REMEMBERED + name))

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

    def _data(self, label: str) -> Iterator[pkcs11.Object]:
        return self._session.get_objects({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label})

    def _private_key(self, label: str) -> _PrivateKey:
        key = self._session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=label)
        return cast(_PrivateKey, key)

    def _make_signing_key(self, label: str) -> None:
        never = (Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE, Attribute.EXTRACTABLE)
        domain = self._session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVE)}, local=True
        )
        domain.generate_keypair(
            store=True,
            label=label,
            private_template=dict.fromkeys(never, False) | {Attribute.SIGN: True, Attribute.SENSITIVE: True},
        )

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
