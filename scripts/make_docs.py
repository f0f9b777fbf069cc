"""Writes the documents that are made from the code: docs/calls.md from the calls table, docs/doors.md from the routes.

A test fails when one of them is not what this would write.
"""

from __future__ import annotations

from pathlib import Path

from keyvisor_firmware.broker.answers import OWN
from keyvisor_firmware.broker.calls import ANSWERED_BY_THE_CLIENT, CALLS
from keyvisor_firmware.broker.chapters.login import not_forwarded
from keyvisor_guest.wire.messages import DOORS

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def calls() -> str:
    """docs/calls.md."""
    lines = [
        "# Every PKCS#11 call",
        "",
        "Made by `make docs` from `broker/calls.py`. *needs*: what the HSM must be for the guest before the call",
        "passes. *accelerator*: whether a bound accelerator, which is never associated, serves it with clear keys of",
        "the session. *answered by*: the module behind the HSM, the broker itself, or nobody yet",
        "(CKR_FUNCTION_NOT_SUPPORTED).",
        "",
        "| id | call | needs | accelerator | because it | answered by |",
        "|---|---|---|---|---|---|",
    ]
    for call in CALLS:
        own = OWN.get(call.name)
        by = "the module" if own is None else "nobody yet" if own is not_forwarded else "the broker"
        accelerator = "yes" if call.accelerator else ""
        lines.append(
            f"| {call.id} | {call.name} | {call.access.value} | {accelerator} | {call.reason} | {by} |"
        )
    never = ", ".join(sorted(ANSWERED_BY_THE_CLIENT))
    return "\n".join([*lines, "", f"Never on the wire, the client answers them itself: {never}.", ""])


def doors() -> str:
    """docs/doors.md."""
    lines = [
        "# The doors",
        "",
        "Made by `make docs` from `wire/messages.py`; each door serves its `/openapi.json`.",
        "",
    ]
    for name, routes in DOORS.items():
        lines += [f"## {name}", "", "| request | what | body | answer |", "|---|---|---|---|"]
        for route in routes:
            body = "" if route.body is None else route.body.__name__
            lines.append(
                f"| `{route.method} {route.path}` | {route.summary} | {body} | {route.answer.__name__} |"
            )
        lines.append("")
    return "\n".join(lines)


PAGES = {"calls.md": calls, "doors.md": doors}


def main() -> None:
    """Write all pages."""
    for name, make in PAGES.items():
        (_DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
