"""One guest's secret store: the only way in is `add`, and only the firmware itself gets an association secret out.

Pure but for the `commit` it is given. Knows no socket, no database and no HSM.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.secrets.checks import STORED_KINDS, Attempt, Circumstances, run_checks
from keyvisor_firmware.secrets.errors import NoSuchSecret, UvError
from keyvisor_firmware.secrets.return_codes import ReturnCode
from keyvisor_firmware.secrets.state_encoding import MAX_ENTRIES, MAX_REQUESTS
from keyvisor_firmware.secrets.store_state import SecretIndex, StoredSecret, StoreState
from keyvisor_guest.wire.asrcb_layout import CUID_LENGTH, FLAG_BITS, Flag
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.p521 import require_p521
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

__all__ = ["Entry", "SecretStore"]

DEFAULT_MAX_ASSOCIATION_SECRETS: Final = 512
DEFAULT_MAX_REQUESTS: Final = 8192


@dataclass(frozen=True, slots=True)
class Entry:
    """What a list shows of a secret: never its value. `length` is what a retrieval would hand back (formats, C.3)."""

    index: SecretIndex
    kind: SecretKind
    id: SecretId
    length: int


class SecretStore:
    """The secrets of one start of one guest.

    Rules (formats, B.3, C.4 and C.5):

    * A request is taken whole or not at all: whatever raises, `commit` included, has changed nothing.
    * The first accepted request fixes the extension secret, a refused one never does. 32 zero bytes are a value.
    * Equal ids are accepted, and so is the same request again: it becomes one more entry, which the list and the
      secret-store hash show. Only the lock, the extension secret and a new start of the guest end that.
    * disable-dump and the lock are one-way. The lock ends additions only.
    * An association secret is never retrieved; `association_secret` is for the firmware's own association.

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
        max_requests: int = DEFAULT_MAX_REQUESTS,
    ) -> None:
        """`cuid` is 16 bytes. Raises ValueError for a bad value, HostKeyUnusable for another curve.

        `max_requests` bounds what is remembered of requests that leave no entry (null requests).
        """
        if len(cuid) != CUID_LENGTH:
            raise ValueError(f"a CUID has {CUID_LENGTH} bytes, not {len(cuid)}")
        if not 0 <= max_association_secrets <= MAX_ENTRIES or not 0 <= max_requests <= MAX_REQUESTS:
            raise ValueError(f"a store takes up to {MAX_ENTRIES} secrets and {MAX_REQUESTS} requests")
        for key in host_keys:
            require_p521(key)
        self._circumstances = Circumstances(
            identity, cuid, tuple(host_keys), may_add, dump_running, max_association_secrets, max_requests
        )
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
        self._become(_state_after(attempt))

    def list(self) -> tuple[Entry, ...]:
        """The entries in the order of their indexes, from 0."""
        return tuple(
            Entry(SecretIndex(index), entry.kind, entry.id, len(entry.value) + KINDS[entry.kind].listed_extra)
            for index, entry in enumerate(self._state.entries)
        )

    def lock(self) -> None:
        """End all additions until the guest is started again. Raises UvError (0102) the second time."""
        if self._state.locked:
            raise UvError(ReturnCode.LOCKED)
        self._become(replace(self._state, locked=True))

    def retrieve(self, index: int) -> bytes:
        """What the guest may have of a secret. Raises UvError: 010f store empty, 0110 no such index, 0111 never.

        Association secrets are all that this store holds, so that every retrieval is refused.
        """
        if not self._state.entries:
            raise UvError(ReturnCode.STORE_EMPTY)
        if not 0 <= index < len(self._state.entries):
            raise UvError(ReturnCode.NO_SUCH_INDEX, f"index {index}")
        raise UvError(ReturnCode.NOT_RETRIEVABLE, f"index {index}")

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
        lock = b"\x01" if self._state.locked else b"\x00"
        return hashlib.sha512(b"".join(self._state.request_tags) + lock).digest()

    def _become(self, state: StoreState) -> None:
        self._commit(state)
        self._state = state


def _state_after(attempt: Attempt) -> StoreState:
    """The state that follows an accepted request."""
    state, public = attempt.state, attempt.block.public
    return StoreState(
        entries=(*state.entries, *_entries_of(attempt)),
        extension_secret=attempt.contents.extension_secret,
        locked=state.locked,
        dump_disabled=state.dump_disabled or bool(public.flags & FLAG_BITS[Flag.DISABLE_DUMP]),
        request_tags=(*state.request_tags, attempt.block.tag),
    )


def _entries_of(attempt: Attempt) -> tuple[StoredSecret, ...]:
    secret = attempt.block.public.secret
    if secret.kind not in STORED_KINDS or secret.id is None:
        return ()
    return (StoredSecret(SecretKind(secret.kind), secret.id, attempt.contents.secret),)
