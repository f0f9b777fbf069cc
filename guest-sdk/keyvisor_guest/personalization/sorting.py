"""The guest's own gate: which of the requests that came are its user's, before the firmware sees any (patents, 3.2, 15).

Whoever brings requests to a guest (the host) is not trusted: it may bring others' requests, the same one twice, or too
few. Pure: bytes and the user's key in, a verdict for each request out. It cannot read what is encrypted, and need not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvisor_guest.wire import user_data
from keyvisor_guest.wire.asrcb import parse
from keyvisor_guest.wire.errors import WireError

__all__ = ["Candidate", "Named", "Verdict", "missing_tags", "sort_out"]


class Named(NamedTuple):
    """One request as it came: a name for people (of its file, say) and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that is the user's. `tag` (16 bytes) tells it apart, `user_data` is what the user signed besides."""

    name: str
    data: bytes = field(repr=False)
    tag: bytes
    user_data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one request: it is the user's, or `reason` says why it is dropped."""

    name: str
    candidate: Candidate | None
    reason: str = ""


def sort_out(requests: Sequence[Named], user_key: bytes) -> tuple[Verdict, ...]:
    """A verdict for each request, in their order: the user's are those whose signature over user data `user_key` verifies.

    `user_key` is a certificate or public key, PEM or DER. Of requests that are the same to the byte the first
    counts. Never raises for what a request holds.
    """
    seen: dict[bytes, str] = {}
    verdicts = []
    for name, data in requests:
        if data in seen:
            verdicts.append(Verdict(name, None, f"it is `{seen[data]}` once more"))
            continue
        seen[data] = name
        try:
            signed = user_data.verify(data, user_key)
            verdicts.append(Verdict(name, Candidate(name, data, parse(data).tag, signed)))
        except WireError as error:
            verdicts.append(Verdict(name, None, str(error)))
    return tuple(verdicts)


def missing_tags(verdicts: Iterable[Verdict], contents: Iterable[bytes]) -> tuple[bytes, ...]:
    """The tags of a table of contents that no request has: somebody withheld those (patents, 3.4, 44)."""
    there = {verdict.candidate.tag for verdict in verdicts if verdict.candidate is not None}
    return tuple(tag for tag in contents if tag not in there)
