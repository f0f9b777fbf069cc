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

from keyvisor_guest.errors import PersonalizationFailed, Refused, SdkError
from keyvisor_guest.personalization.description import Description
from keyvisor_guest.personalization.placing import Placement, place
from keyvisor_guest.personalization.sorting import Named, Verdict, missing_tags, sort_out
from keyvisor_guest.wire.asrcb_layout import TAG_LENGTH, USER_DATA_AT, USER_DATA_LENGTH

if TYPE_CHECKING:
    from keyvisor_guest.guest import Guest

__all__ = ["Fate", "Outcome", "Personalized", "personalize"]


class Fate(enum.StrEnum):
    """What became of one request."""

    TAKEN = "taken"
    HELD = "held back"
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
    locked, and where `contents` tells what did not come the firmware has seen none. SdkError where the store is
    locked already. What else Guest raises passes through.
    """
    if guest.secrets.locked:
        raise SdkError(
            "the secret store is locked already: only a guest that is started again takes requests"
        )
    outcomes = _hand_over(guest, requests, user_key, tuple(contents))
    _require_secrets(guest, description or Description(), outcomes)
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
    _require_all(verdicts, contents)
    outcomes = tuple(_outcome(guest, verdict) for verdict in verdicts)
    taken = {
        _asked_for(request.data)
        for request, outcome in zip(requests, outcomes, strict=True)
        if outcome.fate is Fate.TAKEN
    }
    problems = [
        f"`{outcome.name}` is refused: {outcome.reason}"
        for request, outcome in zip(requests, outcomes, strict=True)
        if outcome.fate is Fate.REFUSED and _asked_for(request.data) not in taken
    ]
    if not taken:
        problems += [f"`{one.name}` is dropped: {one.reason}" for one in outcomes if one.fate is Fate.DROPPED]
        problems.append("none of the requests was taken")
    if problems:
        raise PersonalizationFailed(outcomes, problems)
    return outcomes


def _require_all(verdicts: Sequence[Verdict], contents: tuple[bytes, ...]) -> None:
    """Before the firmware sees any: what it took once would be there twice when all come."""
    if missing := missing_tags(verdicts, contents):
        raise PersonalizationFailed(
            [
                Outcome(one.name, Fate.HELD if one.candidate is not None else Fate.DROPPED, one.reason)
                for one in verdicts
            ],
            [
                f"the request with the tag {tag.hex()} did not come: ask whoever brings the requests"
                for tag in missing
            ],
        )


def _require_secrets(guest: Guest, description: Description, outcomes: tuple[Outcome, ...]) -> None:
    """Before the lock: behind it nothing can be added any more."""
    wanted = [*(one.secret for one in description.files), *(one.secret for one in description.keys)]
    if missing := guest.secrets.missing(wanted):
        raise PersonalizationFailed(
            outcomes,
            [
                f"the secret `{name}` did not come, which the description places: ask its owner"
                for name in missing
            ],
        )


def _outcome(guest: Guest, verdict: Verdict) -> Outcome:
    if verdict.candidate is None:
        return Outcome(verdict.name, Fate.DROPPED, verdict.reason)
    try:
        guest.secrets.add(verdict.candidate.data)
    except Refused as refused:
        return Outcome(verdict.name, Fate.REFUSED, refused.message)
    return Outcome(verdict.name, Fate.TAKEN)


def _asked_for(request: bytes) -> bytes:
    """What a request asks for: all but its tag and its user data.

    The tag is not signed, and of one ECDSA signature anybody makes another: such a copy takes nothing away from the
    request that was taken.
    """
    return request[:USER_DATA_AT] + request[USER_DATA_AT + USER_DATA_LENGTH : -TAG_LENGTH]


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
