"""Key partitions: the keys that exist under one (master key, association secret), as one token of a private module instance.

The one place, with provisioning, that knows how SoftHSM is configured. Knows nothing of guests or of policy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keyvisor_hsm.cryptoki.flags import (
    CKF_RW_SESSION,
    CKF_SERIAL_SESSION,
    CKF_TOKEN_INITIALIZED,
    CKF_USER_PIN_INITIALIZED,
    CKU_CONTEXT_SPECIFIC,
    CKU_SO,
    CKU_USER,
)
from keyvisor_hsm.cryptoki.module import Module
from keyvisor_hsm.cryptoki.native import ULONG, Memory, Ulongs
from keyvisor_hsm.errors import HsmError, PartitionUnusable

_TOKEN_INFO_SIZE = 208
_TOKEN_FLAGS = 96
_LABEL = b"keyvisor partition".ljust(32)
_RW = CKF_RW_SESSION | CKF_SERIAL_SESSION
_MADE = "made"  # an empty file: the token was made whole once, so it must be there

_CONFIGURATION = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """What opens a partition: the name of its directory (hex, tells nothing) and its PINs, all derived in the operator token."""

    directory: str
    user_pin: bytes = field(repr=False)
    so_pin: bytes = field(repr=False)


class Partition:
    """An open key partition. Its anchor session keeps the token logged in for as long as it is open.

    `module` and `slot` are what its callers work with; they open sessions of their own.
    """

    def __init__(self, module: Module, slot: int, directory: Path, keys: PartitionKeys) -> None:
        self.module = module
        self.slot = slot
        self.directory = directory
        self._keys = keys

    @classmethod
    def open(cls, directory: Path, keys: PartitionKeys, library: Path) -> Partition:
        """Open the partition in `directory`, making it if it is new or half made. Raises PartitionUnusable.

        Blocks while another process does the same: SoftHSM rewrites the token's file at each login, and a
        process that initialises at that moment sees no token (pkcs11-rpc.md, 12.4).
        """
        try:
            with exclusive(directory):
                module = Module.load_private(library)
                try:
                    module.initialize({"SOFTHSM2_CONF": str(_configured(directory))})
                    slot = _provision(module, keys, directory / _MADE)
                    _login(module, open_session(module, slot), CKU_USER, keys.user_pin)
                except BaseException:
                    module.retire()
                    raise
        except (HsmError, OSError) as error:
            raise PartitionUnusable(f"a key partition does not open: {error}") from None
        return cls(module, slot, directory, keys)

    def authenticate(self, session: int) -> None:
        """Answer a key that wants a login before each use (CKA_ALWAYS_AUTHENTICATE), for what `session` has begun.

        Raises ModuleRefused. SoftHSM rewrites the token's file here as at a login.
        """
        with exclusive(self.directory):
            _login(self.module, session, CKU_CONTEXT_SPECIFIC, self._keys.user_pin)

    def secret_for(self, purpose: bytes) -> bytes:
        """32 bytes that only who opens this partition knows, others for each purpose."""
        return hmac.digest(self._keys.user_pin, b"keyvisor " + purpose, "sha256")

    def close(self) -> None:
        """End the instance. No call may be inside the module any more."""
        self.module.retire()


def open_session(module: Module, slot: int, flags: int = _RW) -> int:
    """C_OpenSession; the handle. Raises ModuleRefused."""
    handle = Ulongs(1)
    module.require("C_OpenSession", slot, flags, 0, 0, handle.address)
    return handle[0]


@contextlib.contextmanager
def exclusive(directory: Path, lock: str = "lock") -> Iterator[None]:
    """Keep every other process, and every other thread, from changing the partition in `directory`. Raises OSError.

    `lock`: the name of the lock, where something longer must not hold up who changes it.
    """
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory / lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _configured(directory: Path) -> Path:
    """The path of the instance's configuration, written anew: the state directory may have moved."""
    tokens = directory / "tokens"
    tokens.mkdir(mode=0o700, exist_ok=True)
    path = directory / "softhsm2.conf"
    path.write_text(_CONFIGURATION.format(tokens=tokens), encoding="utf-8")
    return path


def _provision(module: Module, keys: PartitionKeys, made: Path) -> int:
    """The slot of the partition's token, which is initialised where that was not done or not finished.

    A token that was whole once and is not found is never replaced: its keys would seem to be gone without a word.
    """
    slot = _token(module, keys)
    if slot is None and made.exists():
        raise PartitionUnusable(f"its token is damaged or gone; put `{made.parent.name}` back from a copy")
    slot = _new_token(module, keys) if slot is None else slot
    made.touch(mode=0o600)
    return slot


def _token(module: Module, keys: PartitionKeys) -> int | None:
    """The slot of the initialised token, its user PIN set if that was not done; None if there is no such token."""
    for slot in _slots(module):
        flags = _token_flags(module, slot)
        if flags & CKF_TOKEN_INITIALIZED:
            if not flags & CKF_USER_PIN_INITIALIZED:
                _initialise_pin(module, slot, keys)
            return slot
    return None


def _new_token(module: Module, keys: PartitionKeys) -> int:
    """Initialise the slot that SoftHSM keeps free, the last one; the token then has another slot."""
    _initialise_token(module, _slots(module)[-1], keys)
    slot = _token(module, keys)
    if slot is None:
        raise PartitionUnusable("the module lost the token that it had just made")
    return slot


def _slots(module: Module) -> tuple[int, ...]:
    count = Ulongs(1)
    module.require("C_GetSlotList", 1, 0, count.address)
    slots = Ulongs(count[0])
    module.require("C_GetSlotList", 1, slots.address, count.address)
    if not count[0]:
        raise PartitionUnusable("the module offers no slot")
    return slots.values(count[0])


def _token_flags(module: Module, slot: int) -> int:
    info = Memory(_TOKEN_INFO_SIZE)
    module.require("C_GetTokenInfo", slot, info.address)
    flags: int = ULONG.unpack(info.read(_TOKEN_FLAGS, 8))[0]
    return flags


def _initialise_token(module: Module, slot: int, keys: PartitionKeys) -> None:
    pin, label = _placed(keys.so_pin), _placed(_LABEL)
    module.require("C_InitToken", slot, pin.address, pin.size, label.address)


def _initialise_pin(module: Module, slot: int, keys: PartitionKeys) -> None:
    session = open_session(module, slot)
    _login(module, session, CKU_SO, keys.so_pin)
    pin = _placed(keys.user_pin)
    module.require("C_InitPIN", session, pin.address, pin.size)
    module.require("C_Logout", session)
    module.require("C_CloseSession", session)


def _login(module: Module, session: int, user: int, pin: bytes) -> None:
    placed = _placed(pin)
    try:
        module.require("C_Login", session, user, placed.address, placed.size)
    finally:
        placed.write(0, bytes(placed.size))


def _placed(data: bytes) -> Memory:
    memory = Memory(len(data))
    memory.write(0, data)
    return memory
