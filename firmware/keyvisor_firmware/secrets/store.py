"""One guest's secret store: the only way in is `add`; out comes what each kind allows, and a key never in clear.

Pure but for the `commit` it is given. Knows no socket, no database and no HSM.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.secrets.checks import Attempt, Circumstances, run_checks
from keyvisor_firmware.secrets.errors import KeyCode, KeyRefused, NoSuchSecret, UvError
from keyvisor_firmware.secrets.key_operations import perform
from keyvisor_firmware.secrets.key_uses import KeyUse
from keyvisor_firmware.secrets.protected_keys import WRAPPING_KEY_LENGTH, unwrap, wrap
from keyvisor_firmware.secrets.return_codes import RetrieveCode, ReturnCode
from keyvisor_firmware.secrets.state_encoding import MAX_ENTRIES, MAX_REQUESTS
from keyvisor_firmware.secrets.store_state import SecretIndex, StoredSecret, StoreState
from keyvisor_guest.wire.asrcb_layout import CUID_LENGTH, FLAG_BITS, Flag
from keyvisor_guest.wire.attestation import secret_store_hash
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.p521 import require_p521
from keyvisor_guest.wire.se_header import Scf
from keyvisor_guest.wire.secret_ids import CCK_LENGTH, SecretId
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind
from keyvisor_guest.wire.secret_list import ListEntry, Page, encode_page

__all__ = ["Entry", "Retrieved", "SecretStore"]

DEFAULT_MAX_ASSOCIATION_SECRETS: Final = 512
DEFAULT_MAX_RETRIEVABLE_SECRETS: Final = 512
DEFAULT_MAX_REQUESTS: Final = 8192
MAX_RETRIEVED: Final = 8192  # bytes; the largest buffer of the device (formats, C.2)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a list shows of a secret: never its value. `length` is what a retrieval would hand back (formats, C.3)."""

    index: SecretIndex
    kind: SecretKind
    id: SecretId
    length: int


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A secret as its guest may have it: in clear for a plaintext secret, else a protected key."""

    index: SecretIndex
    kind: SecretKind
    id: SecretId
    value: bytes = field(repr=False)


class SecretStore:
    """The secrets of one start of one guest.

    Rules (formats, B.3, C.4 and C.5):

    * A request is taken whole or not at all: whatever raises, `commit` included, has changed nothing.
    * The first accepted request fixes the extension secret, a refused one never does. 32 zero bytes are a value.
      Where the image demands it (`scf`), the value is the one derived from the CCK, from the first request on; a
      request that replaces the CCK replaces this value too, if an image has both flags (tools make no such image).
    * A request replaces the CCK only where the image allows it, and a guest without one never gets one.
    * Equal ids are accepted, and so is the same request again: it becomes one more entry, which the list and the
      secret-store hash show. Only the lock, the extension secret and a new start of the guest end that.
    * disable-dump and the lock are one-way. The lock ends additions only.
    * An association secret is never retrieved; `association_secret` is for the firmware's own association. A
      plaintext secret is retrieved in clear, a key as a protected key only: good for this store and no other.

    `commit` is called with the new state before it becomes visible: write it there (`encode_state`, sealed), or
    raise. Not safe for several threads at once: the daemon calls it from one.
    """

    def __init__(
        self,
        *,
        identity: BootIdentity,
        cuid: bytes,
        host_keys: Sequence[ec.EllipticCurvePrivateKey],
        state: StoreState | None = None,
        commit: Callable[[StoreState], None] = lambda _state: None,
        may_add: bool = True,
        dump_running: Callable[[], bool] = lambda: False,
        max_association_secrets: int = DEFAULT_MAX_ASSOCIATION_SECRETS,
        max_retrievable_secrets: int = DEFAULT_MAX_RETRIEVABLE_SECRETS,
        max_requests: int = DEFAULT_MAX_REQUESTS,
        cck: bytes | None = None,
        scf: int = 0,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`cuid` is 16 bytes. Raises ValueError for a bad value, HostKeyUnusable for another curve.

        `max_requests` bounds what is remembered of requests that leave no entry (null requests). `cck` (32 bytes)
        and `scf` (u64) are the boot image's own; `randomness(n)` gives n random bytes.
        """
        if len(cuid) != CUID_LENGTH:
            raise ValueError(f"a CUID has {CUID_LENGTH} bytes, not {len(cuid)}")
        if cck is not None and len(cck) != CCK_LENGTH:
            raise ValueError(f"a CCK has {CCK_LENGTH} bytes, not {len(cck)}")
        if cck is None and scf & Scf.EXTENSION_FROM_CCK:
            raise ValueError("an extension secret that is derived from the CCK, and there is no CCK")
        limits = (max_association_secrets, max_retrievable_secrets)
        if not all(0 <= limit <= MAX_ENTRIES for limit in limits) or not 0 <= max_requests <= MAX_REQUESTS:
            raise ValueError(f"a store takes up to {MAX_ENTRIES} secrets and {MAX_REQUESTS} requests")
        for key in host_keys:
            require_p521(key)
        self._circumstances = Circumstances(
            identity=identity,
            cuid=cuid,
            host_keys=tuple(host_keys),
            may_add=may_add,
            dump_running=dump_running,
            max_association_secrets=max_association_secrets,
            max_retrievable_secrets=max_retrievable_secrets,
            max_requests=max_requests,
            cck=cck,
            scf=scf,
        )
        self._randomness = randomness
        self._state = StoreState() if state is None else state
        self._commit = commit

    @property
    def state(self) -> StoreState:
        """All that the store remembers, secrets included."""
        return self._state

    @property
    def locked(self) -> bool:
        """True after `lock`."""
        return self._state.locked

    @property
    def dump_disabled(self) -> bool:
        """True after a request with the flag disable-dump: nothing may help to read a dump of this guest."""
        return self._state.dump_disabled

    def add(self, request: bytes) -> None:
        """Take one add-secret request control block. Raises UvError: then nothing has changed."""
        attempt = Attempt(request, self._circumstances, self._state)
        run_checks(attempt)
        self._become(_state_after(attempt, self._randomness))

    def list(self) -> tuple[Entry, ...]:
        """The entries in the order of their indexes, from 0."""
        return tuple(
            Entry(SecretIndex(index), entry.kind, entry.id, len(entry.value) + KINDS[entry.kind].listed_extra)
            for index, entry in enumerate(self._state.entries)
        )

    def list_page(self, start: int = 0) -> Page:
        """The list's page of 4096 bytes from index `start` on, and its rc: 0001, or 0100 where more remain (formats, C.3)."""
        return encode_page(
            [ListEntry(each.index, each.kind, each.length, each.id) for each in self.list()], start
        )

    def lock(self) -> None:
        """End all additions until the guest is started again. Raises UvError (0102) the second time."""
        if self._state.locked:
            raise UvError(ReturnCode.LOCKED)
        self._become(replace(self._state, locked=True))

    def retrieve(self, index: int, room: int = MAX_RETRIEVED) -> Retrieved:
        """What the guest may have of a secret, in a buffer of `room` bytes (formats, C.5).

        A plaintext secret with its length in front and its padding behind, a key as a protected key. Raises UvError:
        010f store empty, 0110 no such index, 0111 never, 0109 more than there is room for.
        """
        if not self._state.entries:
            raise UvError(ReturnCode.STORE_EMPTY)
        if not 0 <= index < len(self._state.entries):
            raise UvError(ReturnCode.NO_SUCH_INDEX, f"index {index}")
        entry = self._state.entries[index]
        if not KINDS[entry.kind].retrievable:
            raise UvError(ReturnCode.NOT_RETRIEVABLE, f"index {index}")
        value = self._wrapped(entry) if KINDS[entry.kind].is_key else entry.value
        if len(value) > room:
            raise UvError(RetrieveCode.BUFFER_TOO_SMALL, f"{len(value)} bytes, and there is room for {room}")
        return Retrieved(SecretIndex(index), entry.kind, entry.id, value)

    def use(self, use: KeyUse) -> bytes:
        """Use a protected key that this store gave, whether or not locked. Raises KeyRefused."""
        row = KINDS[use.kind]
        if not row.is_key:
            raise KeyRefused(
                KeyCode.NOT_A_PROTECTED_KEY, f"a secret of type {row.title} is no key: use one that is"
            )
        return perform(use, unwrap(self._state.wrapping_key, row, use.blob))

    def _wrapped(self, entry: StoredSecret) -> bytes:
        if self._state.wrapping_key is None:
            raise RuntimeError("a store has a wrapping key from its first key on")
        return wrap(self._state.wrapping_key, entry.kind, entry.value)

    def find_association(self, secret_id: bytes) -> SecretIndex:
        """The lowest index of an association secret with this id (32 bytes). Raises NoSuchSecret."""
        for index, entry in enumerate(self._state.entries):
            if entry.kind == SecretKind.ASSOCIATION and hmac.compare_digest(entry.id, secret_id):
                return SecretIndex(index)
        raise NoSuchSecret(f"no association secret has the id {secret_id.hex()}: add it first")

    def association_secret(self, index: int) -> bytes:
        """The value (32 bytes) for the firmware's own association; no guest gets it. Raises NoSuchSecret."""
        return self._association(index).value

    def _association(self, index: int) -> StoredSecret:
        entries = self._state.entries
        if not 0 <= index < len(entries) or entries[index].kind != SecretKind.ASSOCIATION:
            raise NoSuchSecret(f"no association secret has the index {index}: add it first")
        return entries[index]

    def secret_store_hash(self) -> bytes:
        """SHA-512 over the tags of all accepted requests in order, then 01 if locked, else 00: 64 bytes (formats, C.6)."""
        return secret_store_hash(self._state.request_tags, locked=self._state.locked)

    def _become(self, state: StoreState) -> None:
        self._commit(state)
        self._state = state


def _state_after(attempt: Attempt, randomness: Callable[[int], bytes]) -> StoreState:
    """The state that follows an accepted request."""
    state, public, row = attempt.state, attempt.block.public, attempt.row
    wrapping_key = state.wrapping_key
    if row.is_key and wrapping_key is None:
        wrapping_key = randomness(WRAPPING_KEY_LENGTH)
    return StoreState(
        entries=(*state.entries, *_entries_of(attempt)),
        extension_secret=attempt.contents.extension_secret,
        locked=state.locked,
        dump_disabled=state.dump_disabled or bool(public.flags & FLAG_BITS[Flag.DISABLE_DUMP]),
        request_tags=(*state.request_tags, attempt.block.tag),
        cck=attempt.contents.secret if row.kind == SecretKind.UPDATE_CCK else state.cck,
        wrapping_key=wrapping_key,
    )


def _entries_of(attempt: Attempt) -> tuple[StoredSecret, ...]:
    secret = attempt.block.public.secret
    if not attempt.row.listed or secret.id is None:
        return ()
    return (StoredSecret(SecretKind(secret.kind), secret.id, attempt.contents.secret),)
