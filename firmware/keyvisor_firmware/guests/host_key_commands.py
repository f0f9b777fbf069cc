"""The commands on host keys: the host's to hand out their documents, the operator's to list, rotate and revoke them."""

from __future__ import annotations

from keyvisor_firmware.audit import Audit
from keyvisor_firmware.commands import Commands
from keyvisor_firmware.guests.host_key import Documents, HostKeys, IssuedDocument


class HostKeyCommands:
    """Each alone, in a transaction, and recorded where it changes something, as all commands are."""

    def __init__(self, commands: Commands, host_keys: HostKeys, audit: Audit) -> None:
        self._commands = commands
        self._host_keys = host_keys
        self._audit = audit

    def documents(self) -> Documents:
        """The documents of the host keys, and who vouches for them."""
        with self._commands.reading() as records:
            return self._host_keys.documents(records)

    def issued(self) -> tuple[IssuedDocument, ...]:
        """Every host-key document that was issued, oldest first."""
        with self._commands.reading() as records:
            return self._host_keys.issued(records)

    def rotate(self) -> None:
        """Make a new current host key; the present one becomes the backup, and the backup is gone.

        What was made for the backup does not open any more, in guests that run too.
        """
        with self._commands.alone():
            with self._commands.command("rotate host key", None) as work:
                ring = self._host_keys.rotated(work.records)
            self._host_keys.become(ring)

    def revoke(self, serial: str) -> None:
        """Put a host-key document (its serial number, hex) on the revocation list. Raises NotFound, Conflict."""
        with self._commands.command("revoke host key", None, serial=serial) as work:
            self._host_keys.revoke(work.records, serial, self._audit.now())
