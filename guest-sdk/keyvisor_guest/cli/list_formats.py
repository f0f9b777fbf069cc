"""How `keyvisor guest secret list` writes a list: as pvsecret does, for people, as YAML, or as the device gives it (formats, G).

Knows the door's list and no file.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvisor_guest.wire.messages import Secret, SecretList

__all__ = ["ListFormat", "written"]


class ListFormat(enum.StrEnum):
    """How a list is written."""

    HUMAN = "human"
    YAML = "yaml"
    BIN = "bin"


def written(found: SecretList, list_format: ListFormat) -> bytes:
    """The list in this format."""
    match list_format:
        case ListFormat.HUMAN:
            return _human(found).encode()
        case ListFormat.YAML:
            return _yaml(found.secrets).encode()
        case ListFormat.BIN:
            return _binary(found.secrets)


def _human(found: SecretList) -> str:
    lines = [f"Total number of secrets: {len(found.secrets)}", ""]
    for secret in found.secrets:
        lines += [f"{secret.index} {_kind_name(secret.type)}:", f"  0x{secret.id}"]
        if text := _id_text(bytes.fromhex(secret.id)):
            lines.append(f"  {text}")
    if found.locked:
        lines += ["", "The store is locked until the guest stops."]
    return "\n".join(lines).rstrip("\n") + "\n"


def _id_text(secret_id: bytes) -> str:
    """The id as text where it is one: a name that was used as the id."""
    name = secret_id.rstrip(b"\x00")
    text = name.decode("utf-8", errors="replace")
    return text if len(name) < len(secret_id) and text.isprintable() and "\ufffd" not in text else ""


def _kind_name(number: int) -> str:
    """The kind's name; its number where this SDK knows no name for it."""
    from keyvisor_guest.wire.retrieved_secrets import KIND_NAMES
    from keyvisor_guest.wire.secret_kinds import SecretKind

    if number == SecretKind.ASSOCIATION:
        return "Association"
    known = number in SecretKind.__members__.values()
    return KIND_NAMES.get(SecretKind(number), str(number)) if known else str(number)


def _yaml(secrets: Sequence[Secret]) -> str:
    lines = [f"total_num_secrets: {len(secrets)}", "secrets:" if secrets else "secrets: []"]
    for secret in secrets:
        lines += [
            f"- index: {secret.index}",
            f"  stype: {secret.type}",
            f"  len: {secret.length}",
            f"  id: '0x{secret.id}'",
        ]
    return "\n".join(lines) + "\n"


def _binary(secrets: Sequence[Secret]) -> bytes:
    from keyvisor_guest.wire.secret_ids import SecretId
    from keyvisor_guest.wire.secret_list import ListEntry, encode_list

    return encode_list(
        [ListEntry(each.index, each.type, each.length, SecretId(bytes.fromhex(each.id))) for each in secrets]
    )
