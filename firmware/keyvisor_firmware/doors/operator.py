"""The operator's door: a method per row of OPERATOR_ROUTES. The only one that shows every HSM's MKVP and holder, and
that changes host keys.
"""

from __future__ import annotations

from keyvisor_firmware.doors import answers
from keyvisor_firmware.firmware import Firmware
from keyvisor_guest.wire import messages


class OperatorHandlers:
    """What the operator can ask for."""

    def __init__(self, firmware: Firmware) -> None:
        self._firmware = firmware

    def list_hsms(self) -> messages.HeldHsmList:
        return messages.HeldHsmList(hsms=[answers.held_hsm(view) for view in self._firmware.held_hsms()])

    def audit(self) -> messages.AuditLog:
        return messages.AuditLog(entries=[answers.audit_entry(event) for event in self._firmware.audit_log()])

    def audit_key(self) -> messages.AuditKey:
        return answers.audit_key(self._firmware.audit.public_key, self._firmware.audit.head())

    def issued_host_keys(self) -> messages.IssuedHostKeys:
        keys = self._firmware.host_keys
        return answers.issued_host_keys(keys.issued(), keys.documents().root)

    def rotate_host_key(self) -> messages.IssuedHostKeys:
        self._firmware.host_keys.rotate()
        return self.issued_host_keys()

    def revoke_host_key(self, body: messages.RevokeHostKey) -> messages.IssuedHostKeys:
        self._firmware.host_keys.revoke(body.serial)
        return self.issued_host_keys()
