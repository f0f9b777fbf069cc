"""The labels under which a host reserves storage: which guest's, of which try to start it, and for what.

A guest's name says for whom. It does not say who reserved it: two hosts may start one name at once, and a host must not
give back what the other one reserved. So each try has a token of its own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyvisor_guest.wire.storage_messages import Ledger

__all__ = ["label_of", "labels_of_guest", "same_try", "zone_label"]


def label_of(name: str, token: str, purpose: str = "") -> str:
    """The label of one try to start the guest `name`, or of what it needs for one purpose."""
    return f"guest {name} {token} {purpose}".rstrip()


def zone_label(token: str) -> str:
    """The label of one try to initialise the firmware."""
    return f"firmware {token}"


def labels_of_guest(ledger: Ledger, name: str) -> list[str]:
    """The labels of the guest `name` under which storage is reserved that is not secure, of whatever try."""
    mine = f"guest {name}"
    holders = (held.holder for held in ledger.held if held.use == "host")
    return [holder for holder in holders if holder == mine or holder.startswith(f"{mine} ")]


def same_try(labels: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of `labels` that are of a try that one of `known` is of."""
    tries = {_try(label) for label in known}
    return [label for label in labels if _try(label) in tries]


def _try(label: str) -> str:
    return " ".join(label.split(" ")[:3])
