"""What the storage query tells: the amounts, and the limits and features of this firmware (formats, D.1)."""

from __future__ import annotations

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.storage.amounts import amounts
from keyvisor_guest.wire.qui import StorageQuery
