"""What can go wrong in the firmware daemon.

    FirmwareError
    ├── ConfigInvalid        the configuration cannot be used (one finding per line)
    ├── StateUnusable        the state directory cannot be used
    │   ├── StateInUse       another daemon has it
    │   ├── StateForeign     it was written by another version
    │   └── RecordBroken     what lies in storage is not what the firmware wrote there
    ├── RowTaken             a row is there already; the command that wanted it says what that means
    ├── PageNotAuthentic     an exported page is not the one that left last; likewise
    └── Refused              a command that was not done; nothing has changed
        ├── ApError          refused with an AP response code (formats, F.5)
        │   └── AssociationFailed  the key partition did not open just now
        ├── AttestationRefused  refused with a code of attestation (formats, C.6)
        ├── NotFound         no such guest, HSM or policy
        ├── Conflict         what is there already, or a limit that is reached, forbids it
        ├── StorageRefused   a donation or conversion that cannot be (formats, D; carries its code, and a handle to destroy)
        ├── AccessRefused    an access to storage that ends in a program interruption
        ├── ImageRefused     an image starts no guest (carries its code, and where its policy is wrong)
        └── Malformed        the request's content is not what it should be (carries all findings)

Add-secret refusals are the secret store's own (`keyvisor_firmware.secrets.UvError`). An error's text is one line,
lower case, with the way out; those of Refused go to whoever asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyvisor_firmware.association.responses import TEXTS, ApCode
from keyvisor_firmware.attestation.return_codes import MEANINGS, AttestCode
from keyvisor_firmware.guests.image_codes import IMAGE_MEANINGS, ImageCode
from keyvisor_firmware.storage.return_codes import (
    ACCESS_MEANINGS,
    NEEDS_DESTROY,
    AccessCode,
    StorageCode,
)
from keyvisor_firmware.storage.return_codes import (
    MEANINGS as STORAGE_MEANINGS,
)


class FirmwareError(Exception):
    """Base of everything that the daemon raises on purpose."""


class ConfigInvalid(FirmwareError):
    """The configuration cannot be used. `findings` are all reasons, each `file:line:column: message`."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__("\n".join(findings))
        self.findings = tuple(findings)


class StateUnusable(FirmwareError):
    """The state directory cannot be used."""


class StateInUse(StateUnusable):
    """Another daemon has the state directory."""


class StateForeign(StateUnusable):
    """The state directory was written by another version."""


class RecordBroken(StateUnusable):
    """What lies in storage is not what the firmware wrote there. The text holds no byte of it."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; restore the state directory as a whole, or choose another --state")


class PageNotAuthentic(FirmwareError):
    """An exported page was changed, is another page's or another guest's, or not the one that left last."""


class RowTaken(FirmwareError):
    """A row is there already: the HSM has a holder, the name has a guest."""


class Refused(FirmwareError):
    """A command that was not done; nothing has changed."""


class ApError(Refused):
    """Refused with an AP response code; `code` is for the wire, the text for a person: `message`, and what the code says."""

    def __init__(self, code: ApCode, message: str) -> None:
        super().__init__(f"{message} (AP response code {code:02x}, {TEXTS[code]})")
        self.code = code
        self.message = message


class AssociationFailed(ApError):
    """The key partition did not open just now; later commands repeat the code until the HSM is unbound."""

    def __init__(self, message: str) -> None:
        super().__init__(ApCode.ASSOCIATION_FAILED, message)


class ImageRefused(Refused):
    """An image starts no guest; `code` is for the wire, the text for a person. Nothing of it is encrypted in the image."""

    def __init__(self, code: ImageCode, reason: str = "", findings: Sequence[str] = ()) -> None:
        meaning = IMAGE_MEANINGS[code]
        found = f": {reason}" if reason else ""
        super().__init__(f"{meaning.text}{found}; {meaning.way_out} ({code:#06x})")
        self.code = code
        self.findings = tuple(findings)


class AttestationRefused(Refused):
    """No attestation; `code` is for the wire, the text for a person."""

    def __init__(self, code: AttestCode, reason: str = "") -> None:
        meaning = MEANINGS[code]
        found = f": {reason}" if reason else ""
        super().__init__(f"{meaning.text}{found}; {meaning.way_out} ({code:#06x})")
        self.code = code


class StorageRefused(Refused):
    """A storage call that was not done. `why` is its code, `code` the number for the wire, the text is for a person.

    With `handle`, what it names was created half and must be destroyed: the number has 8000h in it (formats, D.3).
    """

    def __init__(self, why: StorageCode, reason: str = "", handle: int | None = None) -> None:
        meaning = STORAGE_MEANINGS[why]
        self.why = why
        self.reason = reason
        self.handle = handle
        self.code = why.number if handle is None else why.number | NEEDS_DESTROY
        found = f": {reason}" if reason else ""
        destroy = "" if handle is None else f"destroy what was created half, by its handle {handle:#x}; then "
        super().__init__(f"{meaning.text}{found}; {destroy}{meaning.way_out} ({self.code:#06x})")

    def needing_destroy(self, handle: int) -> StorageRefused:
        """The same refusal, of a call that left something behind under `handle`."""
        return StorageRefused(self.why, self.reason, handle)


class AccessRefused(Refused):
    """An access that ended in the program interruption `code`, at the first `address` of it that is not allowed.

    The address is absolute for the host, the guest's for a guest. Nothing was read or written.
    """

    def __init__(self, code: AccessCode, address: int) -> None:
        meaning = ACCESS_MEANINGS[code]
        super().__init__(
            f"{meaning.text} at {address:#x}; {meaning.way_out} (program interruption {code:02x})"
        )
        self.code = code
        self.address = address


class NotFound(Refused):
    """No such guest, HSM or policy."""


class Conflict(Refused):
    """What is there already, or a limit that is reached, forbids it."""


class Malformed(Refused):
    """The request's content is not what it should be; `findings` are all reasons."""

    def __init__(self, message: str, findings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)
