"""What an add-secret request must pass, in the order in which it is asked (formats, B.2).

CHECKS is the order and the return codes; each check is one small function that raises. A check sees the request
only as far as the checks before it have made sure of: `Attempt` reads and decrypts when it is first asked to.
Nothing here changes the store.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.secrets.errors import UvError
from keyvisor_firmware.secrets.key_operations import require_key
from keyvisor_firmware.secrets.return_codes import ReturnCode
from keyvisor_firmware.secrets.state_encoding import MAX_ENTRIES
from keyvisor_firmware.secrets.store_state import StoreState
from keyvisor_guest.wire.asrcb import Contents, open_request
from keyvisor_guest.wire.asrcb_checks import (
    check_flags,
    check_reserved,
    check_secret_length,
    check_slot_count,
    check_version,
)
from keyvisor_guest.wire.asrcb_layout import (
    ANY_INSTANCE,
    ControlBlock,
    Head,
    check_lengths,
    check_transport,
    read_block,
    read_head,
)
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import WireError
from keyvisor_guest.wire.se_header import Scf
from keyvisor_guest.wire.secret_ids import ID_LENGTH, derive_extension_secret
from keyvisor_guest.wire.secret_kinds import KINDS, KindRow, SecretKind

__all__ = [
    "CHECKS",
    "Attempt",
    "Check",
    "Circumstances",
    "run_checks",
]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a request is held against, and what does not change while the guest runs (but for a running dump).

    `cck` is the image's customer communication key, None where there is none; `scf` are its secret control flags.
    """

    identity: BootIdentity
    cuid: bytes
    host_keys: Sequence[ec.EllipticCurvePrivateKey] = field(repr=False)
    may_add: bool
    dump_running: Callable[[], bool]
    max_association_secrets: int
    max_retrievable_secrets: int
    max_requests: int
    cck: bytes | None = field(default=None, repr=False)
    scf: int = 0


class Attempt:
    """One request on its way through the checks."""

    def __init__(self, request: bytes, circumstances: Circumstances, state: StoreState) -> None:
        self.request = request
        self.circumstances = circumstances
        self.state = state

    @cached_property
    def head(self) -> Head:
        """The first 30h bytes. Raises Malformed."""
        return read_head(self.request)

    @cached_property
    def block(self) -> ControlBlock:
        """The whole request. Raises Malformed."""
        return read_block(self.request)

    @cached_property
    def contents(self) -> Contents:
        """What was encrypted. Raises CannotDecrypt."""
        return open_request(self.block, self.circumstances.host_keys)

    @property
    def row(self) -> KindRow:
        """The kind of secret; for checks behind the one of its type."""
        return KINDS[self.block.public.secret.kind]


class _Refused(Exception):
    """A check of the store's own says no; the table knows the code."""


@dataclass(frozen=True, slots=True)
class Check:
    """One step: `run` raises, and then the request is refused with `rc`."""

    rc: ReturnCode
    run: Callable[[Attempt], object]


def run_checks(attempt: Attempt) -> None:
    """Raises UvError with the code of the first check that says no."""
    for check in CHECKS:
        try:
            check.run(attempt)
        except (WireError, _Refused) as error:
            raise UvError(check.rc, str(error)) from error


def _allowed(attempt: Attempt) -> None:
    if not attempt.circumstances.may_add:
        raise _Refused


def _not_locked(attempt: Attempt) -> None:
    if attempt.state.locked:
        raise _Refused


def _no_dump(attempt: Attempt) -> None:
    if attempt.circumstances.dump_running():
        raise _Refused


def _type_supported(attempt: Attempt) -> None:
    kind = attempt.block.public.secret.kind
    if kind not in KINDS:
        raise _Refused(f"type {kind:04x}")


def _for_this_image(attempt: Attempt) -> None:
    expected = attempt.circumstances.identity.encode()
    if not hmac.compare_digest(attempt.block.public.identity.encode(), expected):
        raise _Refused("it is for another boot image than this guest's")


def _for_this_instance(attempt: Attempt) -> None:
    cuid = attempt.block.public.cuid
    if cuid != ANY_INSTANCE and not hmac.compare_digest(cuid, attempt.circumstances.cuid):
        raise _Refused("it is for another instance than this guest's")


def _extension_matches(attempt: Attempt) -> None:
    """The image can demand the derived value, and then that is what counts: it changes when the CCK does."""
    given, fixed = attempt.contents.extension_secret, attempt.state.extension_secret
    if attempt.circumstances.scf & Scf.EXTENSION_FROM_CCK:
        if not hmac.compare_digest(given, _derived(attempt)):
            raise _Refused("its extension secret is not derived from the image's CCK, as the image demands")
    elif fixed is not None and not hmac.compare_digest(given, fixed):
        raise _Refused("its extension secret is not the one of the requests before")


def _derived(attempt: Attempt) -> bytes:
    cck = attempt.state.cck or attempt.circumstances.cck
    if cck is None:
        raise _Refused("the image demands a derived extension secret and has no CCK")
    return derive_extension_secret(cck, attempt.circumstances.identity.header_tag)


def _cck_update_allowed(attempt: Attempt) -> None:
    if attempt.row.kind != SecretKind.UPDATE_CCK:
        return
    if attempt.circumstances.cck is None:
        raise _Refused("this guest's image has no CCK to update")
    if not attempt.circumstances.scf & Scf.CCK_UPDATE_ALLOWED:
        raise _Refused("this guest's image does not allow an update of its CCK")
    if attempt.block.public.secret.id != bytes(ID_LENGTH):
        raise _Refused("the id of an update of the CCK is not zero")


def _is_a_key(attempt: Attempt) -> None:
    require_key(attempt.row.kind, attempt.contents.secret)


def _room_left(attempt: Attempt) -> None:
    circumstances, state = attempt.circumstances, attempt.state
    if len(state.request_tags) >= circumstances.max_requests:
        raise _Refused(f"{circumstances.max_requests} requests were taken")
    if not attempt.row.listed:
        return
    retrievable = sum(KINDS[entry.kind].retrievable for entry in state.entries)
    association = len(state.entries) - retrievable
    if attempt.row.retrievable and retrievable >= circumstances.max_retrievable_secrets:
        raise _Refused(f"it holds {retrievable} retrievable secrets")
    if not attempt.row.retrievable and association >= circumstances.max_association_secrets:
        raise _Refused(f"it holds {association} association secrets")
    if len(state.entries) >= MAX_ENTRIES:
        raise _Refused(f"it holds {MAX_ENTRIES} secrets, all that a list can tell of")


# Whoever authenticates stands before whoever acts on content: up to "decrypt" only plain lengths, numbers and
# states of our own are looked at. SIZE_WRONG stands twice, because what is shorter than a head has no version to
# look at. The checks with COULD_NOT_BE_ADDED are step 12 of B.2; that code is our choice for them, no other is
# public. That a key is one is no check of the format: without it a key that nobody can use would be taken.
CHECKS: Final = (
    Check(ReturnCode.NOT_ALLOWED, _allowed),
    Check(ReturnCode.LOCKED, _not_locked),
    Check(ReturnCode.DUMP_RUNNING, _no_dump),
    Check(ReturnCode.NOT_ACCESSIBLE, lambda attempt: check_transport(attempt.request)),
    Check(ReturnCode.SIZE_WRONG, lambda attempt: attempt.head),
    Check(ReturnCode.VERSION_UNSUPPORTED, lambda attempt: check_version(attempt.head)),
    Check(ReturnCode.HOST_KEYS_WRONG, lambda attempt: check_slot_count(attempt.head)),
    Check(ReturnCode.SIZE_WRONG, lambda attempt: check_lengths(attempt.head, len(attempt.request))),
    Check(ReturnCode.FLAG_UNKNOWN, lambda attempt: check_flags(attempt.block.public)),
    Check(ReturnCode.CANNOT_DECRYPT, lambda attempt: attempt.contents),
    Check(ReturnCode.TYPE_UNSUPPORTED, _type_supported),
    Check(ReturnCode.LENGTH_WRONG, lambda attempt: check_secret_length(attempt.block)),
    Check(ReturnCode.COULD_NOT_BE_ADDED, lambda attempt: check_reserved(attempt.block)),
    Check(ReturnCode.COULD_NOT_BE_ADDED, _for_this_image),
    Check(ReturnCode.COULD_NOT_BE_ADDED, _for_this_instance),
    Check(ReturnCode.COULD_NOT_BE_ADDED, _extension_matches),
    Check(ReturnCode.COULD_NOT_BE_ADDED, _cck_update_allowed),
    Check(ReturnCode.COULD_NOT_BE_ADDED, _is_a_key),
    Check(ReturnCode.STORE_FULL, _room_left),
)
