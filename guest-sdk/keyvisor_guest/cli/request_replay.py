"""`keyvisor policy prove --replay` for requests: asks a running firmware what one policy lets be asked and another refuses.

The firmware and the guest are those of `policy_replay`. A key that the request uses is made first, under the new policy's
associations without control points; then the same application asks twice, under the new policy and under the old one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.cli.policy_replay import GUEST, Rehearsal, on_a_firmware
from keyvisor_guest.errors import Refused
from keyvisor_guest.wire.messages import Refusal
from keyvisor_policy.control_points import Template
from keyvisor_policy.prove import Allowed
from keyvisor_policy.replaying import Replayed
from keyvisor_policy.request_prove import AllowedRequest

__all__ = ["replay_request"]

_SECONDS: Final = 120.0
_REQUESTS: Final = re.compile(r"^requests:.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def replay_request(new: str, old: str, example: AllowedRequest) -> Replayed:
    """Ask under both policies, whose texts these are. Raises SdkError where no firmware starts."""
    if example.rule is None or example.other is None:
        return Replayed("not replayed", "an HSM that is bound without a rule is asked for by no policy")
    return on_a_firmware(
        Allowed(example.rule, example.hsm), lambda rehearsal: _replayed(rehearsal, new, old, example)
    )


class _NotAsked(Exception):
    """This cannot be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """How a question ended, and the refusal of a control point, if one decided it."""

    ended: str
    refusal: Refusal | None

    def __str__(self) -> str:
        if self.refusal is None:
            return (
                "no control point refused it"
                if self.ended == "done"
                else f"only the HSM refused it ({self.ended})"
            )
        return f"{self.refusal.code}: {self.refusal.reason}"


def _replayed(rehearsal: Rehearsal, new: str, old: str, example: AllowedRequest) -> Replayed:
    try:
        if example.request.key:
            rehearsal.hold(_REQUESTS.sub("", new))
            made = _put(rehearsal, example, make=True)
            if made.ended != "done":
                return Replayed(
                    "not replayed", f"the HSM makes no such key: {made.ended}", None, rehearsal.changes
                )
        rehearsal.hold(new)
        under_new = _put(rehearsal, example)
        rehearsal.register(old)
        under_old = _put(rehearsal, example)
    except Refused as error:
        return Replayed("refused", str(error).replace("\n", "; "), None, rehearsal.changes)
    except _NotAsked as error:
        return Replayed("not replayed", str(error), None, rehearsal.changes)
    as_said = under_new.refusal is None and under_old.refusal is not None
    words = f"under the new policy {under_new}; under the old one {under_old}"
    code = None if under_old.refusal is None else under_old.refusal.code
    return Replayed("asked" if as_said else "refused", words, code, rehearsal.changes)


def _put(rehearsal: Rehearsal, example: AllowedRequest, *, make: bool = False) -> _Answer:
    """Have a process ask it. Raises _NotAsked."""
    before = len(rehearsal.refusals())
    asked = example.request
    question = {
        "make": make,
        "call": asked.call,
        "mechanism": asked.mechanism,
        "template": _plain(asked.template),
        "key": _plain(asked.key),
    }
    done = subprocess.run(
        [sys.executable, "-m", "keyvisor_guest.cli.request_asking", rehearsal.state, GUEST],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise _NotAsked(f"the application ended: {last[0]}")
    answer = json.loads(done.stdout)
    if "not_asked" in answer:
        raise _NotAsked(answer["not_asked"])
    new = rehearsal.refusals()[before:]
    return _Answer(answer["asked"], next((one for one in new if "control point" in one.reason), None))


def _plain(template: Template) -> dict[int, object]:
    return {
        number: {"hex": value.hex()} if isinstance(value, bytes) else value
        for number, value in template.items()
    }
