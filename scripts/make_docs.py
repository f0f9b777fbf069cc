"""Writes the documents that are made from the code: docs/calls.md and docs/mechanisms.md from the tables of the broker,
docs/doors.md from the routes, docs/return-codes.md from the codes of what a host does with storage and images.

A test fails when one of them is not what this would write.
"""

from __future__ import annotations

from pathlib import Path

from keyvisor_firmware.broker.answers import OWN, SAME_AS
from keyvisor_firmware.broker.attribute_table import ATTRIBUTES
from keyvisor_firmware.broker.calls import ANSWERED_BY_THE_CLIENT, CALLS
from keyvisor_firmware.broker.mechanism_table import carriage
from keyvisor_firmware.guests.image_codes import IMAGE_MEANINGS
from keyvisor_firmware.secrets.return_codes import Meaning
from keyvisor_firmware.storage.return_codes import ACCESS_MEANINGS, MEANINGS, NEEDS_DESTROY
from keyvisor_guest.wire.client_releases import RELEASES, carried_by
from keyvisor_guest.wire.messages import DOORS
from keyvisor_hsm.cryptoki import CKA, CKM

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def calls() -> str:
    """docs/calls.md."""
    lines = [
        "# Every PKCS#11 call",
        "",
        "Made by `make docs` from `broker/calls.py`. *needs*: what the HSM must be for the guest before the call",
        "passes. *accelerator*: whether a bound accelerator, which is never associated, serves it with clear keys of",
        "the session. *answered by*: the module behind the HSM, or the broker itself; a function that the module does",
        "not have is answered with CKR_FUNCTION_NOT_SUPPORTED. *version*: the first version of the RPC protocol whose",
        "clients know the call: 0 is 0.23 to 0.24, 1 is 0.25.0 to 0.25.5, 2 is 0.25.6 to 0.26.4.",
        "",
        "A message's parameter (69 to 71, 74 to 76, 79 to 81, 84 to 86) travels as the client's own structure, with",
        "pointers into the client's memory: only an empty one is taken, any other is CKR_MECHANISM_PARAM_INVALID.",
        "",
        "| id | call | version | needs | accelerator | because it | answered by |",
        "|---|---|---|---|---|---|---|",
    ]
    for call in CALLS:
        own = OWN.get(SAME_AS.get(call.name, call.name))
        by = "the module" if own is None else "the broker"
        accelerator = "yes" if call.accelerator else ""
        lines.append(
            f"| {call.id} | {call.name} | {call.since} | {call.access.value} | {accelerator} | {call.reason} | {by} |"
        )
    never = ", ".join(sorted(ANSWERED_BY_THE_CLIENT))
    return "\n".join([*lines, "", f"Never on the wire, the client answers them itself: {never}.", ""])


_RELEASE_NAMES = ("0.24.0 to 0.24.1", "0.25.0 to 0.25.5", "0.25.6 to 0.26.4")


def mechanisms() -> str:
    """docs/mechanisms.md."""
    lines = [
        "# Mechanisms and attributes",
        "",
        "Made by `make docs` from `wire/client_releases.py`, `broker/mechanism_table.py` and `broker/attribute_table.py`.",
        "",
        "The stock client `p11-kit-client.so` has a list of the mechanisms that it lets through. One that is not on it",
        "disappears from the client's C_GetMechanismList and is refused with CKR_MECHANISM_INVALID before anything is",
        "sent; no broker can widen the list, only a newer client can. *yes*: the releases of that column carry it.",
        "",
        "*how*: what the broker makes of the parameter. Structures are rebuilt from their fields, checked; a parameter",
        "that the broker does not read is answered with CKR_MECHANISM_PARAM_INVALID, or CKR_MECHANISM_INVALID where",
        "it cannot be told where it ends.",
        "",
        f"| mechanism | number | {' | '.join(_RELEASE_NAMES)} | how |",
        "|---|---|---|---|---|---|",
    ]
    for mechanism in sorted(CKM):
        carried = carried_by(mechanism)
        releases = " | ".join("yes" if release in carried else "" for release in RELEASES)
        kind, reason = carriage(mechanism)
        how = f"{kind.value}: {reason}" if reason else kind.value
        lines.append(f"| CKM_{mechanism.name} | {mechanism:#x} | {releases} | {how} |")
    lines += [
        "",
        "## Attributes",
        "",
        "| attribute | number | travels as | because it is |",
        "|---|---|---|---|",
    ]
    for attribute in sorted(CKA):
        value, why = ATTRIBUTES[attribute]
        lines.append(f"| CKA_{attribute.name} | {attribute:#x} | {value.value} | {why} |")
    return "\n".join([*lines, ""])


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


def return_codes() -> str:
    """docs/return-codes.md."""
    lines = [
        "# Return codes of donations, images and accesses",
        "",
        "Made by `make docs` from `storage/return_codes.py` and `guests/image_codes.py`. A number means one thing to one call",
        f"and another to the next. With {NEEDS_DESTROY:04x} or-ed into it (create-guest only), something was created half: the",
        "refusal names its handle, and destroy-guest is all that can be done with it.",
        "",
        "| call | code | what it says | the way out |",
        "|---|---|---|---|",
        *(_code(code.scope.value, code.number, meaning) for code, meaning in MEANINGS.items()),
        *(_code("set-parameters, unpack, verify", code, meaning) for code, meaning in IMAGE_MEANINGS.items()),
    ]
    lines += [
        "",
        "An access that is refused ends in a program interruption, for the host and for a guest alike.",
        "",
        "| interruption | what it says | the way out |",
        "|---|---|---|",
    ]
    lines += [
        f"| {code:02x} | {meaning.text} | {meaning.way_out} |" for code, meaning in ACCESS_MEANINGS.items()
    ]
    return "\n".join([*lines, ""])


def _code(call: str, number: int, meaning: Meaning) -> str:
    return f"| {call} | {number:04x} | {meaning.text} | {meaning.way_out} |"


PAGES = {"calls.md": calls, "mechanisms.md": mechanisms, "doors.md": doors, "return-codes.md": return_codes}


def main() -> None:
    """Write all pages."""
    for name, make in PAGES.items():
        (_DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
