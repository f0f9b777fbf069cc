"""Every function of PKCS#11 as the p11-kit RPC carries it, versions 0 to 2: one row each, and nothing else.

A row says how the call travels (pkcs11-rpc.md, section 8), what its arguments are, who may make it, and why.
The codec, the filter and the forwarder are driven by these rows; docs and tests read them too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Access(enum.Enum):
    """What a call needs of the HSM that it goes to (architecture.md, section 5)."""

    OPEN = "no HSM at all"
    PLAIN = "an HSM that is bound"
    SENSITIVE = "an HSM that is associated"


class Role(enum.Enum):
    """What an argument is. In the signature `u` can be any of the numbers, the others fix the rest."""

    SESSION = "session"
    SLOT = "slot"
    NUMBER = "number"
    KEY = "key"
    OBJECT = "object"
    WRAPPING_KEY = "wrapping key"
    UNWRAPPING_KEY = "unwrapping key"
    OPTIONAL_KEY = "key or 0"
    MECHANISM = "mechanism"
    TEMPLATE = "template"
    QUERY = "attributes wanted"
    DATA = "bytes"
    ROOM = "room for bytes"
    ULONG_ROOM = "room for numbers"
    BYTE = "byte"
    LABEL = "label of a token"
    MESSAGE_PARAMETER = "parameter of a message"
    WANTED = "whether a result is wanted"


@dataclass(frozen=True, slots=True)
class Call:
    """One function. `request` and `reply` are its signatures; `roles` has one entry per element of `request`.

    `accelerator`: whether a bound `accel` HSM, which is never associated, serves the call although it is sensitive.
    `since`: the first version of the protocol whose clients know the call. What a client sends is answered whatever was
    negotiated: clients from 0.25.0 on have the calls of version 1 in their table even where 0 was.
    """

    id: int
    name: str
    request: str
    reply: str
    access: Access
    reason: str
    roles: tuple[Role, ...] = ()
    accelerator: bool = False
    since: int = 0


_O, _P, _S = Access.OPEN, Access.PLAIN, Access.SENSITIVE
_s, _slot, _n, _k, _o = Role.SESSION, Role.SLOT, Role.NUMBER, Role.KEY, Role.OBJECT
_m, _t, _q, _d, _r, _ur = Role.MECHANISM, Role.TEMPLATE, Role.QUERY, Role.DATA, Role.ROOM, Role.ULONG_ROOM
_p = Role.MESSAGE_PARAMETER

_FINDS = "tells which keys there are"
_MAKES = "makes or takes in a key"
_DUAL = "uses a key, in two operations at once"
_ACCELERATES = "uses a key; an accelerator serves it with clear keys of the session"
_PIN = "changes who may use the guest's keys"
_MESSAGES = "uses a key, message by message; an accelerator serves it with clear keys of the session"
_STATE = "carries the inside of an operation, which may hold key material"

CALLS: Final[tuple[Call, ...]] = (
    Call(1, "C_Initialize", "ayyay", "", _O, "opens the connection", (_d, Role.BYTE, _d)),
    Call(2, "C_Finalize", "", "", _O, "ends the connection"),
    Call(3, "C_GetInfo", "", "vsusv", _O, "tells about the broker"),
    Call(4, "C_GetSlotList", "yfu", "au", _O, "tells which HSMs are attached", (Role.BYTE, _ur)),
    Call(5, "C_GetSlotInfo", "u", "ssuvv", _O, "tells about an attached HSM", (_slot,)),
    Call(6, "C_GetTokenInfo", "u", "ssssuuuuuuuuuuuvvs", _P, "tells about a bound HSM", (_slot,)),
    Call(7, "C_GetMechanismList", "ufu", "au", _P, "tells what a bound HSM can do", (_slot, _ur)),
    Call(8, "C_GetMechanismInfo", "uu", "uuu", _P, "tells what a bound HSM can do", (_slot, _n)),
    Call(9, "C_InitToken", "uayz", "", _S, "destroys all keys of the partition", (_slot, _d, Role.LABEL)),
    Call(10, "C_OpenSession", "uu", "u", _P, "opens no key", (_slot, _n)),
    Call(11, "C_CloseSession", "u", "", _P, "only gives up", (_s,)),
    Call(12, "C_CloseAllSessions", "u", "", _P, "only gives up", (_slot,)),
    Call(13, "C_GetSessionInfo", "u", "uuuu", _P, "tells about the session alone", (_s,)),
    Call(14, "C_InitPIN", "uay", "", _S, _PIN, (_s, _d)),
    Call(15, "C_SetPIN", "uayay", "", _S, _PIN, (_s, _d, _d)),
    Call(16, "C_GetOperationState", "ufy", "ay", _S, _STATE, (_s, _r)),
    Call(17, "C_SetOperationState", "uayuu", "", _S, _STATE, (_s, _d, Role.OPTIONAL_KEY, Role.OPTIONAL_KEY)),
    Call(18, "C_Login", "uuay", "", _S, "opens the guest's private keys", (_s, _n, _d), True),
    Call(19, "C_Logout", "u", "", _P, "only gives up", (_s,)),
    Call(20, "C_CreateObject", "uaA", "u", _S, _MAKES, (_s, _t), True),
    Call(21, "C_CopyObject", "uuaA", "u", _S, "makes another of a key", (_s, _o, _t)),
    Call(22, "C_DestroyObject", "uu", "", _S, "destroys a key", (_s, _o), True),
    Call(23, "C_GetObjectSize", "uu", "u", _S, _FINDS, (_s, _o), True),
    Call(24, "C_GetAttributeValue", "uufA", "aAu", _S, "reads what can be read of a key", (_s, _o, _q), True),
    Call(25, "C_SetAttributeValue", "uuaA", "", _S, "changes what a key may do", (_s, _o, _t), True),
    Call(26, "C_FindObjectsInit", "uaA", "", _S, _FINDS, (_s, _t), True),
    Call(27, "C_FindObjects", "ufu", "au", _S, _FINDS, (_s, _ur), True),
    Call(28, "C_FindObjectsFinal", "u", "", _S, _FINDS, (_s,), True),
    Call(29, "C_EncryptInit", "uMu", "", _S, _ACCELERATES, (_s, _m, _k), True),
    Call(30, "C_Encrypt", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(31, "C_EncryptUpdate", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(32, "C_EncryptFinal", "ufy", "ay", _S, _ACCELERATES, (_s, _r), True),
    Call(33, "C_DecryptInit", "uMu", "", _S, _ACCELERATES, (_s, _m, _k), True),
    Call(34, "C_Decrypt", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(35, "C_DecryptUpdate", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(36, "C_DecryptFinal", "ufy", "ay", _S, _ACCELERATES, (_s, _r), True),
    Call(37, "C_DigestInit", "uM", "", _P, "digests without a key", (_s, _m)),
    Call(38, "C_Digest", "uayfy", "ay", _P, "digests without a key", (_s, _d, _r)),
    Call(39, "C_DigestUpdate", "uay", "", _P, "digests without a key", (_s, _d)),
    Call(40, "C_DigestKey", "uu", "", _S, "digests a key", (_s, _k), True),
    Call(41, "C_DigestFinal", "ufy", "ay", _P, "digests without a key", (_s, _r)),
    Call(42, "C_SignInit", "uMu", "", _S, _ACCELERATES, (_s, _m, _k), True),
    Call(43, "C_Sign", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(44, "C_SignUpdate", "uay", "", _S, _ACCELERATES, (_s, _d), True),
    Call(45, "C_SignFinal", "ufy", "ay", _S, _ACCELERATES, (_s, _r), True),
    Call(46, "C_SignRecoverInit", "uMu", "", _S, _ACCELERATES, (_s, _m, _k), True),
    Call(47, "C_SignRecover", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(48, "C_VerifyInit", "uMu", "", _S, _ACCELERATES, (_s, _m, _k), True),
    Call(49, "C_Verify", "uayay", "", _S, _ACCELERATES, (_s, _d, _d), True),
    Call(50, "C_VerifyUpdate", "uay", "", _S, _ACCELERATES, (_s, _d), True),
    Call(51, "C_VerifyFinal", "uay", "", _S, _ACCELERATES, (_s, _d), True),
    Call(52, "C_VerifyRecoverInit", "uMu", "", _S, _ACCELERATES, (_s, _m, _k), True),
    Call(53, "C_VerifyRecover", "uayfy", "ay", _S, _ACCELERATES, (_s, _d, _r), True),
    Call(54, "C_DigestEncryptUpdate", "uayfy", "ay", _S, _DUAL, (_s, _d, _r)),
    Call(55, "C_DecryptDigestUpdate", "uayfy", "ay", _S, _DUAL, (_s, _d, _r)),
    Call(56, "C_SignEncryptUpdate", "uayfy", "ay", _S, _DUAL, (_s, _d, _r)),
    Call(57, "C_DecryptVerifyUpdate", "uayfy", "ay", _S, _DUAL, (_s, _d, _r)),
    Call(58, "C_GenerateKey", "uMaA", "u", _S, _MAKES, (_s, _m, _t)),
    Call(59, "C_GenerateKeyPair", "uMaAaA", "uu", _S, _MAKES, (_s, _m, _t, _t)),
    Call(60, "C_WrapKey", "uMuufy", "ay", _S, "lets a key out, wrapped", (_s, _m, Role.WRAPPING_KEY, _k, _r)),
    Call(61, "C_UnwrapKey", "uMuayaA", "u", _S, _MAKES, (_s, _m, Role.UNWRAPPING_KEY, _d, _t)),
    Call(62, "C_DeriveKey", "uMuaA", "u", _S, _MAKES, (_s, _m, _k, _t)),
    Call(63, "C_SeedRandom", "uay", "", _P, "touches no key", (_s, _d)),
    Call(64, "C_GenerateRandom", "ufy", "ay", _P, "touches no key", (_s, _r)),
    Call(65, "C_WaitForSlotEvent", "u", "u", _O, "tells which HSMs come and go", (_n,)),
    Call(66, "C_LoginUser", "uuayay", "", _S, "opens the guest's private keys", (_s, _n, _d, _d), True, 1),
    Call(67, "C_SessionCancel", "uu", "", _P, "only gives up", (_s, _n), since=1),
    Call(68, "C_MessageEncryptInit", "uMu", "", _S, _MESSAGES, (_s, _m, _k), True, 1),
    Call(69, "C_EncryptMessage", "uayayayfy", "ay", _S, _MESSAGES, (_s, _p, _d, _d, _r), True, 1),
    Call(70, "C_EncryptMessageBegin", "uayay", "", _S, _MESSAGES, (_s, _p, _d), True, 1),
    Call(71, "C_EncryptMessageNext", "uayayfyu", "ay", _S, _MESSAGES, (_s, _p, _d, _r, _n), True, 1),
    Call(72, "C_MessageEncryptFinal", "u", "", _S, _MESSAGES, (_s,), True, 1),
    Call(73, "C_MessageDecryptInit", "uMu", "", _S, _MESSAGES, (_s, _m, _k), True, 1),
    Call(74, "C_DecryptMessage", "uayayayfy", "ay", _S, _MESSAGES, (_s, _p, _d, _d, _r), True, 1),
    Call(75, "C_DecryptMessageBegin", "uayay", "", _S, _MESSAGES, (_s, _p, _d), True, 1),
    Call(76, "C_DecryptMessageNext", "uayayfyu", "ay", _S, _MESSAGES, (_s, _p, _d, _r, _n), True, 1),
    Call(77, "C_MessageDecryptFinal", "u", "", _S, _MESSAGES, (_s,), True, 1),
    Call(78, "C_MessageSignInit", "uMu", "", _S, _MESSAGES, (_s, _m, _k), True, 1),
    Call(79, "C_SignMessage", "uayayfy", "ay", _S, _MESSAGES, (_s, _p, _d, _r), True, 1),
    Call(80, "C_SignMessageBegin", "uay", "", _S, _MESSAGES, (_s, _p), True, 1),
    Call(81, "C_SignMessageNext", "uayayyfy", "ay", _S, _MESSAGES, (_s, _p, _d, Role.WANTED, _r), True, 1),
    Call(82, "C_MessageSignFinal", "u", "", _S, _MESSAGES, (_s,), True, 1),
    Call(83, "C_MessageVerifyInit", "uMu", "", _S, _MESSAGES, (_s, _m, _k), True, 1),
    Call(84, "C_VerifyMessage", "uayayay", "", _S, _MESSAGES, (_s, _p, _d, _d), True, 1),
    Call(85, "C_VerifyMessageBegin", "uay", "", _S, _MESSAGES, (_s, _p), True, 1),
    Call(86, "C_VerifyMessageNext", "uayayay", "", _S, _MESSAGES, (_s, _p, _d, _d), True, 1),
    Call(87, "C_MessageVerifyFinal", "u", "", _S, _MESSAGES, (_s,), True, 1),
    Call(
        88,
        "C_InitToken2",
        "uays",
        "",
        _S,
        "destroys all keys of the partition",
        (_slot, _d, Role.LABEL),
        since=1,
    ),
    Call(89, "C_DeriveKey2", "uMuaA", "uPu", _S, _MAKES, (_s, _m, _k, _t), since=2),
)

BY_ID: Final[dict[int, Call]] = {call.id: call for call in CALLS}
BY_NAME: Final[dict[str, Call]] = {call.name: call for call in CALLS}

# Functions of the standard that never travel: the client answers them by itself (pkcs11-rpc.md, section 6).
ANSWERED_BY_THE_CLIENT: Final = frozenset(
    {
        "C_GetFunctionList",
        "C_GetFunctionStatus",
        "C_CancelFunction",
        "C_GetInterfaceList",
        "C_GetInterface",
    }
)
