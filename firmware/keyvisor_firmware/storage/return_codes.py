"""Why the firmware takes no donation, gives none back, or moves no page; and why an access to storage ends in an interruption.

A number means one thing to one call and another to the next, so that a code is a pair: the call, and its number there
(formats, D.2 to D.5, and B.1 for those of every call). No public source has those from 0180 on: they are keyvisor's own.
A code says what was refused; the text adds the way out. Knows no storage.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from keyvisor_firmware.secrets.return_codes import Meaning

__all__ = ["ACCESS_MEANINGS", "MEANINGS", "NEEDS_DESTROY", "AccessCode", "Scope", "StorageCode"]

NEEDS_DESTROY: Final = (
    0x8000  # or-ed into a code: a handle was returned, and what it names must be destroyed (D.3)
)


class Scope(enum.StrEnum):
    """The calls whose numbers are their own."""

    EVERY = "every call"
    INIT = "init"
    CREATE_GUEST = "create-guest"
    CREATE_CPU = "create-cpu"
    DESTROY_GUEST = "destroy-guest"


class StorageCode(enum.Enum):
    """rc of a storage call, only those that refuse: whose number it is, and the number."""

    NOT_INITIALISED = Scope.EVERY, 0x0003
    GUEST_UNKNOWN = Scope.EVERY, 0x0020
    CPU_UNKNOWN = Scope.EVERY, 0x0021
    NOT_TRANSLATED = Scope.EVERY, 0x0031
    ADDRESS_UNUSABLE = Scope.EVERY, 0x0032
    WRONG_STATE = Scope.EVERY, 0x0180
    RANGES_EXHAUSTED = Scope.EVERY, 0x0181
    MAPPING_CHANGED = Scope.EVERY, 0x0182
    NOT_WRITTEN = Scope.EVERY, 0x0183
    SECURE_ALREADY = Scope.EVERY, 0x0184
    NOT_SECURE = Scope.EVERY, 0x0185
    NOT_AS_EXPORTED = Scope.EVERY, 0x0186

    INIT_DONE = Scope.INIT, 0x0101
    ZONE_LENGTH = Scope.INIT, 0x0103
    ZONE_ORIGIN = Scope.INIT, 0x0104
    ZONE_END = Scope.INIT, 0x0105
    ZONE_TOO_LOW = Scope.INIT, 0x0108

    STORAGE_ORIGIN = Scope.CREATE_GUEST, 0x0101
    STORAGE_END = Scope.CREATE_GUEST, 0x0102
    ASCE_IN_USE = Scope.CREATE_GUEST, 0x0104
    ASCE_INVALID = Scope.CREATE_GUEST, 0x0105
    BASE_UNUSABLE = Scope.CREATE_GUEST, 0x0108
    COVERS_LOWCORE = Scope.CREATE_GUEST, 0x0109
    SCA_ZERO = Scope.CREATE_GUEST, 0x010C
    SCA_UNUSABLE = Scope.CREATE_GUEST, 0x010D
    VIRTUAL_UNUSABLE = Scope.CREATE_GUEST, 0x0190
    TOO_MANY_GUESTS = Scope.CREATE_GUEST, 0x0191

    CPU_NUMBER = Scope.CREATE_CPU, 0x0103
    CPU_THERE = Scope.CREATE_CPU, 0x0104
    CPU_STORAGE = Scope.CREATE_CPU, 0x0105
    CPU_LOWCORE = Scope.CREATE_CPU, 0x0106

    CPUS_LEFT = Scope.DESTROY_GUEST, 0x0190

    @property
    def scope(self) -> Scope:
        """The call whose number it is."""
        return self.value[0]

    @property
    def number(self) -> int:
        """rc as it goes to the host."""
        return self.value[1]


class AccessCode(enum.IntEnum):
    """The program interruption that an access to storage ends in."""

    ADDRESSING = 0x05
    SECURE_STORAGE_ACCESS = 0x3D
    NON_SECURE_STORAGE_ACCESS = 0x3E
    SECURE_STORAGE_VIOLATION = 0x3F


_AS_QUERIED: Final = "offer what the storage query tells"
_OTHER_STORAGE: Final = "offer storage that is the host's own"
_MAP_BACK: Final = "map the pages back to where they were when they became secure"

MEANINGS: Final[Mapping[StorageCode, Meaning]] = MappingProxyType(
    {
        StorageCode.NOT_INITIALISED: Meaning(
            "the firmware is not initialised", "donate the zone's base storage with init first"
        ),
        StorageCode.GUEST_UNKNOWN: Meaning(
            "there is no guest with that handle", "use the handle that create-guest returned"
        ),
        StorageCode.CPU_UNKNOWN: Meaning(
            "there is no CPU with that handle", "use the handle that create-cpu returned"
        ),
        StorageCode.NOT_TRANSLATED: Meaning(
            "the guest's address space has no page there", "map storage there first"
        ),
        StorageCode.ADDRESS_UNUSABLE: Meaning(
            "the address cannot be used", "give whole pages of the guest's own storage"
        ),
        StorageCode.WRONG_STATE: Meaning(
            "the guest is not in a state for that", "see in the guest's state which call is next"
        ),
        StorageCode.RANGES_EXHAUSTED: Meaning(
            "the zone-security table has no room for more ranges",
            "use longer pieces of storage, destroy a guest, or configure more `ranges`",
        ),
        StorageCode.MAPPING_CHANGED: Meaning("the host changed the guest's mapping", _MAP_BACK),
        StorageCode.NOT_WRITTEN: Meaning(
            "the firmware could not write the storage; nothing is released",
            "keep the storage as it is, and call again",
        ),
        StorageCode.SECURE_ALREADY: Meaning("the storage is secure already", _OTHER_STORAGE),
        StorageCode.NOT_SECURE: Meaning(
            "the page is not in secure storage", "import it, or leave it as it is"
        ),
        StorageCode.NOT_AS_EXPORTED: Meaning(
            "the page is not what was exported last", "give back the bytes of its latest export, unchanged"
        ),
        StorageCode.INIT_DONE: Meaning("the firmware is initialised already", "go on with create-guest"),
        StorageCode.ZONE_LENGTH: Meaning("the length of the zone's base storage is wrong", _AS_QUERIED),
        StorageCode.ZONE_ORIGIN: Meaning(
            "the origin of the zone's base storage cannot be used",
            "offer storage of this machine, aligned to 1 MiB",
        ),
        StorageCode.ZONE_END: Meaning(
            "the zone's base storage does not end inside of storage", "offer storage of this machine"
        ),
        StorageCode.ZONE_TOO_LOW: Meaning(
            "the zone's base storage is below 2 GiB", "offer storage from 2 GiB on"
        ),
        StorageCode.STORAGE_ORIGIN: Meaning(
            "the origin of the guest's storage is above the highest address",
            "stay below the highest address that the storage query tells",
        ),
        StorageCode.STORAGE_END: Meaning(
            "the guest's storage cannot be as long as that",
            "ask for whole pages, at least one, below the highest address that the storage query tells",
        ),
        StorageCode.ASCE_IN_USE: Meaning(
            "another guest has that address space", "give each guest an address space of its own"
        ),
        StorageCode.ASCE_INVALID: Meaning(
            "the address space cannot be used",
            "name it by a page of storage, and map all of the variable area into it",
        ),
        StorageCode.BASE_UNUSABLE: Meaning(
            "the guest's base area cannot be used",
            "offer storage of the host's own as long as the storage query tells, aligned to 16 KiB",
        ),
        StorageCode.COVERS_LOWCORE: Meaning(
            "a donated area covers the lowcore", "offer storage from 2000h on"
        ),
        StorageCode.SCA_ZERO: Meaning("there is no SCA", "give the address of a page of the host's own"),
        StorageCode.SCA_UNUSABLE: Meaning(
            "the SCA cannot be used", "give the address of a page of the host's own, above the lowcore"
        ),
        StorageCode.VIRTUAL_UNUSABLE: Meaning(
            "the guest's variable area cannot be used",
            "offer whole pages of the host's own, each once, outside of the guest's storage,"
            " as many as the storage query tells",
        ),
        StorageCode.TOO_MANY_GUESTS: Meaning(
            "there are as many guests as there can be", "destroy one, or configure more `guests`"
        ),
        StorageCode.CPU_NUMBER: Meaning(
            "the CPU's number is too high", "stay at or below the highest CPU id that the storage query tells"
        ),
        StorageCode.CPU_THERE: Meaning("the guest has a CPU with that number", "take another number"),
        StorageCode.CPU_STORAGE: Meaning(
            "the CPU's storage cannot be used",
            "offer whole pages of the host's own, as many as the storage query tells",
        ),
        StorageCode.CPU_LOWCORE: Meaning(
            "the CPU's storage covers the lowcore", "offer storage from 2000h on"
        ),
        StorageCode.CPUS_LEFT: Meaning("the guest has CPUs", "destroy its CPUs first"),
    }
)

ACCESS_MEANINGS: Final[Mapping[AccessCode, Meaning]] = MappingProxyType(
    {
        AccessCode.ADDRESSING: Meaning("there is no storage", "stay inside of storage"),
        AccessCode.SECURE_STORAGE_ACCESS: Meaning(
            "the storage is secure", "the host gets it back by export, or when what it serves is destroyed"
        ),
        AccessCode.NON_SECURE_STORAGE_ACCESS: Meaning("the page is not secure", "the host has to import it"),
        AccessCode.SECURE_STORAGE_VIOLATION: Meaning(
            "the page is not this guest's at this address", "the host has to map the guest's own page there"
        ),
    }
)
