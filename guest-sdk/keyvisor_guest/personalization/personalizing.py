"""Personalization, step by step: sort the requests, hand over the user's, lock, furnish (US20240176634A1; patents, 3.2).

Two gates stand one behind the other: the guest's (is it from my user?) and the firmware's (is it for this image and this
instance, and intact?). What the first one drops the second never sees. The store is locked only when all that had to come
was taken: until then more may be handed in, and nothing is opened.
"""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keyvisor_guest.errors import PersonalizationFailed, Refused
from keyvisor_guest.personalization.description import Description
from keyvisor_guest.personalization.placing import Placement, place
from keyvisor_guest.personalization.sorting import Named, Verdict, missing_tags, sort_out
from keyvisor_guest.wire.asrcb_layout import TAG_LENGTH

if TYPE_CHECKING:
    from keyvisor_guest.guest import Guest

__all__ = ["Fate", "Outcome", "Personalized", "personalize"]


class Fate(enum.StrEnum):
    """What became of one request."""

    TAKEN = "taken"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: its name, what became of it, and why where it was not taken."""

    name: str
    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Personalized:
    """What was done: each request in the order in which it came, the files that were placed, the command's exit code."""

    outcomes: tuple[Outcome, ...]
    placed: tuple[Path, ...] = ()
    exit_code: int | None = None


def personalize(
    guest: Guest,
    requests: Sequence[Named],
    user_key: bytes,
    *,
    contents: Iterable[bytes] = (),
    description: Description | None = None,
    root: Path | None = None,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Personalized:
    """Make the guest its user's. `user_key`: the user's certificate or public key, PEM or DER.

    `contents`: tags (16 bytes) of requests that must come. `description`: how to furnish the guest afterwards,
    below `root`; its command gets `environment`, or this process's. Raises PersonalizationFailed, with what became
    of each request, where the firmware refused one of the user's or one did not come: then the store is not
    locked. What Guest raises passes through.
    """
    outcomes = _hand_over(guest, requests, user_key, tuple(contents))
    for one in outcomes:
        say(f"{one.name} is {one.fate}{one.reason and f': {one.reason}'}")
    say("locking the secret store")
    guest.secrets.lock()
    if description is None:
        return Personalized(outcomes)
    personalized = _furnish(guest, description, root or Path.cwd(), outcomes, say)
    if not description.command:
        return personalized
    say(f"running {description.command[0]}")
    done = subprocess.run(description.command, cwd=root, env=environment, check=False)
    return replace(personalized, exit_code=done.returncode)


def _hand_over(
    guest: Guest, requests: Sequence[Named], user_key: bytes, contents: tuple[bytes, ...]
) -> tuple[Outcome, ...]:
    verdicts = sort_out(requests, user_key)
    outcomes = tuple(_outcome(guest, verdict) for verdict in verdicts)
    taken = {
        _signed_part(request.data)
        for request, outcome in zip(requests, outcomes, strict=True)
        if outcome.fate is Fate.TAKEN
    }
    problems = [
        f"`{outcome.name}` is refused: {outcome.reason}"
        for request, outcome in zip(requests, outcomes, strict=True)
        if outcome.fate is Fate.REFUSED and _signed_part(request.data) not in taken
    ]
    problems += [
        f"the request with the tag {tag.hex()} did not come: ask whoever brings the requests"
        for tag in missing_tags(verdicts, contents)
    ]
    if not taken:
        problems += [f"`{one.name}` is dropped: {one.reason}" for one in outcomes if one.fate is Fate.DROPPED]
        problems.append("none of the requests was taken")
    if problems:
        raise PersonalizationFailed(outcomes, problems)
    return outcomes


def _outcome(guest: Guest, verdict: Verdict) -> Outcome:
    if verdict.candidate is None:
        return Outcome(verdict.name, Fate.DROPPED, verdict.reason)
    try:
        guest.secrets.add(verdict.candidate.data)
    except Refused as refused:
        return Outcome(verdict.name, Fate.REFUSED, refused.message)
    return Outcome(verdict.name, Fate.TAKEN)


def _signed_part(request: bytes) -> bytes:
    """All but the tag, which no signature covers: a copy with another tag takes nothing away from the one that was taken."""
    return request[:-TAG_LENGTH]


def _furnish(
    guest: Guest,
    description: Description,
    root: Path,
    outcomes: tuple[Outcome, ...],
    say: Callable[[str], None],
) -> Personalized:
    placements = [
        Placement(file.path, file.mode, guest.secrets.retrieve(file.secret).plaintext())
        for file in description.files
    ]
    placements += [
        Placement(key.path, key.mode, guest.secrets.retrieve(key.secret).pem()) for key in description.keys
    ]
    placed = place(root, placements)
    for path in placed:
        say(f"placed {path}")
    if description.apply:
        say("applying the policy")
        guest.apply()
    return Personalized(outcomes, placed)
