"""The raw binding of a PKCS#11 module: its functions, those of 3.0 where it has them, called with plain integers.

Numbers are passed as they are, everything else as an address (see native.py). Every call releases the
interpreter's lock and returns the CK_RV. It knows no policy, no session and no token.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from keyvisor_hsm.cryptoki.flags import CKF_OS_LOCKING_OK
from keyvisor_hsm.cryptoki.native import ULONG, Memory
from keyvisor_hsm.cryptoki.return_values import CKR
from keyvisor_hsm.errors import ModuleRefused, ModuleUnusable

# CK_FUNCTION_LIST of PKCS#11 2.40: name and number of arguments, in the order of the structure.
FUNCTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("C_Initialize", 1),
    ("C_Finalize", 1),
    ("C_GetInfo", 1),
    ("C_GetFunctionList", 1),
    ("C_GetSlotList", 3),
    ("C_GetSlotInfo", 2),
    ("C_GetTokenInfo", 2),
    ("C_GetMechanismList", 3),
    ("C_GetMechanismInfo", 3),
    ("C_InitToken", 4),
    ("C_InitPIN", 3),
    ("C_SetPIN", 5),
    ("C_OpenSession", 5),
    ("C_CloseSession", 1),
    ("C_CloseAllSessions", 1),
    ("C_GetSessionInfo", 2),
    ("C_GetOperationState", 3),
    ("C_SetOperationState", 5),
    ("C_Login", 4),
    ("C_Logout", 1),
    ("C_CreateObject", 4),
    ("C_CopyObject", 5),
    ("C_DestroyObject", 2),
    ("C_GetObjectSize", 3),
    ("C_GetAttributeValue", 4),
    ("C_SetAttributeValue", 4),
    ("C_FindObjectsInit", 3),
    ("C_FindObjects", 4),
    ("C_FindObjectsFinal", 1),
    ("C_EncryptInit", 3),
    ("C_Encrypt", 5),
    ("C_EncryptUpdate", 5),
    ("C_EncryptFinal", 3),
    ("C_DecryptInit", 3),
    ("C_Decrypt", 5),
    ("C_DecryptUpdate", 5),
    ("C_DecryptFinal", 3),
    ("C_DigestInit", 2),
    ("C_Digest", 5),
    ("C_DigestUpdate", 3),
    ("C_DigestKey", 2),
    ("C_DigestFinal", 3),
    ("C_SignInit", 3),
    ("C_Sign", 5),
    ("C_SignUpdate", 3),
    ("C_SignFinal", 3),
    ("C_SignRecoverInit", 3),
    ("C_SignRecover", 5),
    ("C_VerifyInit", 3),
    ("C_Verify", 5),
    ("C_VerifyUpdate", 3),
    ("C_VerifyFinal", 3),
    ("C_VerifyRecoverInit", 3),
    ("C_VerifyRecover", 5),
    ("C_DigestEncryptUpdate", 5),
    ("C_DecryptDigestUpdate", 5),
    ("C_SignEncryptUpdate", 5),
    ("C_DecryptVerifyUpdate", 5),
    ("C_GenerateKey", 5),
    ("C_GenerateKeyPair", 8),
    ("C_WrapKey", 6),
    ("C_UnwrapKey", 8),
    ("C_DeriveKey", 6),
    ("C_SeedRandom", 3),
    ("C_GenerateRandom", 3),
    ("C_GetFunctionStatus", 1),
    ("C_CancelFunction", 1),
    ("C_WaitForSlotEvent", 3),
)

# What CK_FUNCTION_LIST_3_0 has behind the functions of 2.40.
FUNCTIONS_3_0: Final[tuple[tuple[str, int], ...]] = (
    ("C_GetInterfaceList", 2),
    ("C_GetInterface", 4),
    ("C_LoginUser", 6),
    ("C_SessionCancel", 2),
    ("C_MessageEncryptInit", 3),
    ("C_EncryptMessage", 9),
    ("C_EncryptMessageBegin", 5),
    ("C_EncryptMessageNext", 8),
    ("C_MessageEncryptFinal", 1),
    ("C_MessageDecryptInit", 3),
    ("C_DecryptMessage", 9),
    ("C_DecryptMessageBegin", 5),
    ("C_DecryptMessageNext", 8),
    ("C_MessageDecryptFinal", 1),
    ("C_MessageSignInit", 3),
    ("C_SignMessage", 7),
    ("C_SignMessageBegin", 3),
    ("C_SignMessageNext", 7),
    ("C_MessageSignFinal", 1),
    ("C_MessageVerifyInit", 3),
    ("C_VerifyMessage", 7),
    ("C_VerifyMessageBegin", 3),
    ("C_VerifyMessageNext", 7),
    ("C_MessageVerifyFinal", 1),
)

_INTERFACE_NAME = b"PKCS 11"
_VERSION_3_0 = b"\3\0"
_FIRST_POINTER = 8  # CK_VERSION is padded to the first pointer

# The module reads its configuration's path from the environment while it initialises, so only one may do so at a time.
_ENVIRONMENT = threading.Lock()


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Have these variables set for a while, and nobody else's meanwhile; afterwards all is as it was."""
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


Function = Callable[..., int]


class Module:
    """One instance of a PKCS#11 module. `call[name]` is the function; unknown names raise KeyError."""

    def __init__(self, path: Path, call: Mapping[str, Function], library: object) -> None:
        self.path = path
        self.call = call
        self._library = library  # keeps the functions mapped

    @classmethod
    def load(cls, path: Path, file: Path | None = None) -> Module:
        """Map the library at `path`, or its copy in `file`, and take its function list. Raises ModuleUnusable."""
        file = file or path
        try:
            library = ctypes.CDLL(str(file), mode=ctypes.RTLD_LOCAL)
            get_function_list = library.C_GetFunctionList
        except (OSError, AttributeError) as error:
            why = str(error).replace(str(file), path.name)
            raise ModuleUnusable(f"`{path}` is not a PKCS#11 module ({why}): let `module` name one") from None
        get_function_list.restype = ctypes.c_ulong
        pointer = ctypes.c_void_p()
        rv = get_function_list(ctypes.byref(pointer))
        if rv != CKR.OK or not pointer.value:
            raise ModuleUnusable(f"`{path}` gave no function list ({rv:#x})")
        newer = interface_3_0(library)
        if newer:
            return cls(path, bind(newer, FUNCTIONS + FUNCTIONS_3_0), library)
        return cls(path, bind(pointer.value, FUNCTIONS), library)

    @classmethod
    def load_private(cls, path: Path) -> Module:
        """Like `load`, but as an instance of its own, which shares no state with any other in this process.

        The loader tells libraries apart by file, so a copy is mapped, under a name never used before, and removed.
        What is mapped stays mapped, so an instance that was retired is taken before another copy is.
        """
        with contextlib.suppress(IndexError):
            return _RETIRED[path].pop()
        try:
            with tempfile.TemporaryDirectory(prefix="keyvisor-module-") as directory:
                copy = Path(directory) / path.name
                shutil.copyfile(path, copy)
                return cls.load(path, copy)
        except OSError as error:
            raise ModuleUnusable(f"`{path}` cannot be copied: {error.strerror}") from None

    def initialize(self, variables: Mapping[str, str]) -> None:
        """C_Initialize for threads, with these environment variables for its duration. Raises ModuleRefused."""
        arguments = Memory(48)
        arguments.write(32, ULONG.pack(CKF_OS_LOCKING_OK))
        with environment(variables):
            self.require("C_Initialize", arguments.address)

    def retire(self) -> None:
        """C_Finalize a private instance, which `load_private` may then hand out again. No call may be inside it."""
        if self.call["C_Finalize"](0) in (CKR.OK, CKR.CRYPTOKI_NOT_INITIALIZED):
            _RETIRED[self.path].append(self)

    def require(self, name: str, *arguments: int) -> None:
        """Call a function whose failure ends what was begun. Raises ModuleRefused unless it answers CKR_OK."""
        rv = self.call[name](*arguments)
        if rv != CKR.OK:
            raise ModuleRefused(name, rv)


# Finalised private instances, by library. Appending and popping are whole for every thread.
_RETIRED: defaultdict[Path, list[Module]] = defaultdict(list)

_PROTOTYPES = {
    n: ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_ulong] * n)
    for n in {n for _, n in FUNCTIONS + FUNCTIONS_3_0}
}


def interface_3_0(library: object) -> int:
    """The address of the library's CK_FUNCTION_LIST_3_0; 0 where it has none.

    A module of 3.1 or later may know its own version alone, and a list of any 3.x begins with that of 3.0: so its
    first interface is taken too, if the version in its list says 3.
    """
    get_interface = getattr(library, "C_GetInterface", None)
    if get_interface is None:
        return 0
    get_interface.restype = ctypes.c_ulong
    name, version = ctypes.create_string_buffer(_INTERFACE_NAME), ctypes.create_string_buffer(_VERSION_3_0)
    for wanted in (ctypes.addressof(version), None):
        interface = ctypes.c_void_p()
        rv = get_interface(name, ctypes.c_void_p(wanted), ctypes.byref(interface), ctypes.c_ulong(0))
        if rv == CKR.OK and interface.value:
            functions = ctypes.c_void_p.from_address(interface.value + 8).value  # behind pInterfaceName
            if functions and ctypes.c_ubyte.from_address(functions).value == _VERSION_3_0[0]:
                return functions
    return 0


def bind(function_list: int, names: tuple[tuple[str, int], ...]) -> dict[str, Function]:
    """The functions of the list at an address, which has those `names` in that order. NULL ones are left out."""
    addresses = (ctypes.c_void_p * len(names)).from_address(function_list + _FIRST_POINTER)
    return {
        name: _PROTOTYPES[count](address)
        for (name, count), address in zip(names, addresses, strict=True)
        if address
    }
