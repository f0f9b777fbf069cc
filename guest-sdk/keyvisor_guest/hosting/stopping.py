"""Stopping a guest: its CPUs and the guest are destroyed, then its storage is given back, in this order.

Works on what any host started, also on what it left half made. Storage that the firmware did not let go of stays
allocated on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvisor_guest.errors import NotRunning, SdkError
from keyvisor_guest.hosting.giving_back import with_note
from keyvisor_guest.hosting.labels import labels_of_guest, same_try
from keyvisor_guest.wire import messages

if TYPE_CHECKING:
    from keyvisor_guest.host import Host

__all__ = ["named", "stop"]


def named(host: Host, name: str) -> messages.Guest:
    """The guest `name`. Raises NotRunning where there is none."""
    for guest in host.guests():
        if guest.name == name:
            return guest
    raise NotRunning(f"no guest `{name}`: `keyvisor host list` shows those there are")


def stop(host: Host, name: str) -> None:
    """Destroy the guest `name` and give back its storage; where there is none, what a host reserved for one and left.

    Raises NotRunning for neither; Refused, with nothing given back, where the firmware refuses to destroy.
    """
    labels = labels_of_guest(
        host.storage(), name
    )  # while the name is taken: a later start's are not among them
    try:
        guest = named(host, name)
    except NotRunning:
        if not labels:
            raise
    else:
        _destroy(host, guest)
        labels = same_try(labels_of_guest(host.storage(), name), labels)
    for label in labels:
        host.memory.free(label)


def _destroy(host: Host, guest: messages.Guest) -> None:
    try:
        for cpu in guest.cpu_handles:
            host.destroy_cpu(cpu)
        host.destroy_guest(guest.handle)
    except SdkError as refusal:
        note = f"nothing that was given to guest `{guest.name}` was taken back: its storage stays allocated"
        raise with_note(refusal, note) from refusal
