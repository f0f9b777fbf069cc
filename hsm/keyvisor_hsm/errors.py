"""What can go wrong below the broker.

HsmError
├── ModuleUnusable      the PKCS#11 module cannot be loaded or lacks what every module has
├── ModuleRefused       the module answered a CK_RV other than CKR_OK (carries it)
├── OperatorTokenError  the operator token cannot be opened or made
├── SealBroken          a sealed value was changed, or belongs to another place
└── PartitionUnusable   a key partition cannot be opened or made
"""

from __future__ import annotations


class HsmError(Exception):
    """Base of everything this package raises on purpose."""


class ModuleUnusable(HsmError):
    """The PKCS#11 module cannot be loaded or lacks what every module has."""


class ModuleRefused(HsmError):
    """The module answered `rv`, a CK_RV other than CKR_OK, to `call`."""

    def __init__(self, call: str, rv: int) -> None:
        super().__init__(f"{call} answered {rv:#x}")
        self.call = call
        self.rv = rv


class OperatorTokenError(HsmError):
    """The operator token cannot be opened or made."""


class SealBroken(HsmError):
    """A sealed value was changed, or belongs to another place."""


class PartitionUnusable(HsmError):
    """A key partition cannot be opened or made."""
