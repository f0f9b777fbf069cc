"""The host's side: start and stop guests, give them HSMs. Knows nothing of what a guest keeps or may do."""

from __future__ import annotations

import base64
from pathlib import Path

from keyvisor_guest.errors import SdkError
from keyvisor_guest.http import Door
from keyvisor_guest.names import apqn_text, guest_name
from keyvisor_guest.state_directory import host_socket, state_directory
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.messages import HOST_ROUTES, MAX_IMAGE, Done

__all__ = ["Host"]


class Host:
    """The host's door. Every method raises Refused, NotRunning, DoorClosed or DoorBroken (errors module).

    `state` is the state directory; left out, it is KEYVISOR_STATE or the default.
    """

    def __init__(self, *, state: Path | None = None) -> None:
        path = host_socket(state_directory(state))
        self._door = Door(
            path, HOST_ROUTES, nobody=f"no door `{path}`: start the firmware with `keyvisor up`"
        )

    def guests(self) -> list[messages.Guest]:
        """The guests that run."""
        return self._door.call("list_guests", messages.GuestList).guests

    def start(self, name: str, image: bytes) -> messages.Guest:
        """Start a guest from an image that its owner built for this host's key.

        Raises SdkError for more than 64 MiB, NameInvalid; Refused with the code of what is wrong with the image.
        """
        if len(image) > MAX_IMAGE:
            raise SdkError(
                f"an image of {len(image)} bytes is longer than the {MAX_IMAGE} that the firmware takes"
            )
        body = messages.StartGuest(image=base64.b64encode(image))
        return self._door.call("start_guest", messages.Guest, body, name=guest_name(name))

    def stop(self, name: str) -> None:
        """Stop a guest; its secrets go with it."""
        self._door.call("stop_guest", Done, name=guest_name(name))

    def attach(self, name: str, apqn: str) -> None:
        """Give the HSM `apqn`, as in `03.0011`, to a guest."""
        self._door.call("attach", Done, name=guest_name(name), apqn=apqn_text(apqn))

    def detach(self, name: str, apqn: str) -> None:
        """Take the HSM `apqn` away from a guest; what was associated there ends."""
        self._door.call("detach", Done, name=guest_name(name), apqn=apqn_text(apqn))

    def hsms(self) -> list[messages.Hsm]:
        """The HSMs of this machine."""
        return self._door.call("list_hsms", messages.HsmList).hsms

    def host_key_document(self) -> bytes:
        """The host key's certificate, PEM: what an owner encrypts for."""
        return self._door.call("host_key", messages.HostKeyDocument).pem.encode()

    def host_keys(self) -> messages.HostKeyDocuments:
        """Host-key documents, current and backup, and what an owner verifies them by.

        They come from the host: an owner compares the root CA's fingerprint with what the operator says.
        """
        return self._door.call("host_keys", messages.HostKeyDocuments)
