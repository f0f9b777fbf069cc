"""The stock PKCS#11 client, p11-kit-client.so: where it is, and how it is led to one guest's door.

It reads its address once, when a process asks it for its function list (pkcs11-rpc, section 10), so a process
that has loaded it stays with that guest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

from keyvisor_guest.errors import ClientUnusable

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library

__all__ = ["ADDRESS_VARIABLE", "MODULE_VARIABLE", "address", "find", "load"]

ADDRESS_VARIABLE = "P11_KIT_SERVER_ADDRESS"
MODULE_VARIABLE = "KEYVISOR_PKCS11_MODULE"

_FILE = "p11-kit-client.so"
_PLACES = ("usr/lib/*/pkcs11", "usr/lib64/pkcs11", "usr/lib/pkcs11", "usr/local/lib/pkcs11")


def find(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Path:
    """The client's library: what KEYVISOR_PKCS11_MODULE names, else the first in the places of the distributions.

    Of several architectures this machine's own comes first. Raises ClientUnusable where there is none.
    """
    given = environ.get(MODULE_VARIABLE)
    if given:
        if not Path(given).is_file():
            raise ClientUnusable(f"no file `{given}`: unset {MODULE_VARIABLE} or let it name {_FILE}")
        return Path(given)
    found = [file for place in _PLACES for file in sorted(root.glob(f"{place}/{_FILE}"))]
    if not found:
        raise ClientUnusable(f"no {_FILE} on this machine: install the package `p11-kit-modules`")
    return min(found, key=lambda file: not file.parent.parent.name.startswith(os.uname().machine))


def address(socket: Path) -> str:
    """The address of a PKCS#11 door, as the client reads it. `socket` is absolute: the client takes no other."""
    return f"unix:path={quote_from_bytes(os.fsencode(socket))}"


_loading = threading.Lock()
_led_to: dict[str, str] = {}  # which address each library of this process was loaded for


def load(socket: Path) -> Library:
    """The client as python-pkcs11 has it, initialised and led to `socket`. The same library for every call.

    The environment is as it was when this returns. Raises ClientUnusable if this process has loaded the client
    for another address; a `pkcs11.PKCS11Error` if nobody answers there.
    """
    import pkcs11  # 50 ms that only those pay who come here

    library, wanted = str(find()), address(socket)
    with _loading:
        if library not in pkcs11._loaded:  # the one place that says what `pkcs11.lib` will not load again
            _led_to.pop(library, None)
            return _load_for(library, wanted)
        # Loaded past us, it followed the environment: `keyvisor guest exec` runs programs that do so.
        loaded_for = _led_to.get(library) or os.environ.get(ADDRESS_VARIABLE)
        if loaded_for != wanted:
            raise ClientUnusable(
                f"this process has loaded `{library}` for `{loaded_for}`, which is not `{wanted}`: "
                "use one process per guest, as in `keyvisor guest exec`"
            )
        return pkcs11.lib(library)


def _load_for(library: str, wanted: str) -> Library:
    import pkcs11

    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = wanted
    try:
        loaded = pkcs11.lib(library)
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before
    _led_to[library] = wanted
    return loaded
