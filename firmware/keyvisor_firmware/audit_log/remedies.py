"""From the code of a refusal to what would have to be true, and to the commands that bring it about.

A table, complete for every AP response code and for every CK_RV that the gate refuses with; a test holds it to that.
The refusal's own reason says what is wrong in the case; this says what to do, and in which order. Placeholders in
capitals are what only the reader knows. Knows no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.association.responses import ApCode


@dataclass(frozen=True, slots=True)
class Remedy:
    """What would have to be true, and the commands for it, with {guest}, {apqn}, {secret} and {policy} to be filled in."""

    true: str
    commands: tuple[str, ...]


_LOOK: Final = "keyvisor guest hsms --guest {guest}"
_APPLY: Final = "keyvisor guest apply --guest {guest} {policy}"
_BIND: Final = "keyvisor guest bind --guest {guest} {apqn}"
_ASSOCIATE: Final = "keyvisor guest associate --guest {guest} {apqn} --secret {secret}"
_UNBIND: Final = "keyvisor guest unbind --guest {guest} {apqn}"
_ATTACH: Final = "keyvisor host attach {guest} {apqn}"
_DETACH: Final = "keyvisor host detach HOLDER {apqn}"
_HOLDERS: Final = "keyvisor hsm list"
_ADD: Final = "keyvisor guest secret add --guest {guest} REQUEST"
_SECRETS: Final = "keyvisor guest secret list --guest {guest}"
_EXPLAIN: Final = "keyvisor policy explain {policy} --hsm {apqn} --inventory HSMS --secret {secret}"
_CHECK: Final = "keyvisor policy check {policy}"
_TOOL: Final = 'keyvisor guest exec --guest {guest} -- pkcs11-tool --module "$KEYVISOR_PKCS11_MODULE" '
_AGAIN: Final = (_UNBIND, _BIND, _ASSOCIATE)

BY_AP_CODE: Final[Mapping[ApCode, Remedy]] = {
    ApCode.NOT_AVAILABLE: Remedy("the host has attached the HSM to the guest", (_ATTACH,)),
    ApCode.DECONFIGURED: Remedy("the HSM is online: the operator's configuration says `online`", (_HOLDERS,)),
    ApCode.BOUND_TO_ANOTHER: Remedy("no other guest holds the HSM", (_HOLDERS, _DETACH, _BIND)),
    ApCode.CHANGE_IN_PROGRESS: Remedy("the change that is in progress has ended", (_LOOK,)),
    ApCode.NOT_BOUND: Remedy("the guest has bound the HSM", (_BIND,)),
    ApCode.BIND_ERROR: Remedy(
        "the HSM is not bound yet, is of a kind that guests bind (ep11 or accel), and its gate serves it",
        (_LOOK,),
    ),
    ApCode.NOT_OPEN_TO_ASSOCIATION: Remedy(
        "the HSM is an ep11 one with a valid master key, and is not associated yet", (_LOOK, _UNBIND)
    ),
    ApCode.QUEUE_NOT_EMPTY: Remedy("the HSM's queue is empty: its requests have been answered", (_LOOK,)),
    ApCode.BIND_LIMIT: Remedy("fewer HSMs are bound", (_LOOK, "keyvisor guest unbind --guest {guest} APQN")),
    ApCode.NO_SUCH_SECRET: Remedy("the guest's store holds the association secret", (_SECRETS, _ADD)),
    ApCode.SECRET_NOT_UNIQUE: Remedy("one secret of the guest's store has that id", (_SECRETS,)),
    ApCode.ASSOCIATION_FAILED: Remedy(
        "the key partition opens; the failed association is ended first", _AGAIN
    ),
    ApCode.PLAN_OUTDATED: Remedy("the HSMs are what the plan was made from: plan again", (_LOOK, _APPLY)),
    ApCode.NOT_OPEN_YET: Remedy(
        "the guest's secret store is locked", (_ADD, "keyvisor guest secret lock --guest {guest}")
    ),
    ApCode.NOT_PERMITTED: Remedy(
        "a rule of the guest's policy has this secret, and every field of it matches the HSM",
        (_EXPLAIN, _APPLY),
    ),
}

_POINT: Final = (_CHECK, _APPLY)

BY_CK_RV: Final[Mapping[str, Remedy]] = {
    "CKR_TOKEN_NOT_PRESENT": Remedy("the guest has bound the HSM", (_BIND,)),
    "CKR_SLOT_ID_INVALID": Remedy("the host has attached the HSM to the guest", (_ATTACH,)),
    "CKR_USER_NOT_LOGGED_IN": Remedy(
        "the HSM is associated with a secret of the guest's", (_APPLY, _ASSOCIATE)
    ),
    "CKR_DEVICE_REMOVED": Remedy(
        "the HSM stays as it is while the call is under way: bind and associate it, then open a new session",
        (_LOOK, _APPLY),
    ),
    "CKR_FUNCTION_NOT_SUPPORTED": Remedy(
        "the call goes to an ep11 HSM: an accelerator keeps and makes no keys", (_LOOK, _APPLY)
    ),
    "CKR_TOKEN_WRITE_PROTECTED": Remedy(
        "the object is a session object, or goes to an ep11 HSM: an accelerator keeps none", (_LOOK,)
    ),
    "CKR_FUNCTION_FAILED": Remedy(
        "the token holds nothing that must not be destroyed: another secret leads to an empty partition",
        (_ADD, _UNBIND, _BIND, _ASSOCIATE),
    ),
    "CKR_PIN_INCORRECT": Remedy(
        "the PIN is the token's own; where none is set, none is given", (_TOOL + "-L",)
    ),
    "CKR_USER_PIN_NOT_INITIALIZED": Remedy(
        "the token has a user PIN", (_TOOL + "--login --login-type so --init-pin",)
    ),
    "CKR_DEVICE_ERROR": Remedy(
        "the partition's directory is as the firmware left it: the operator puts it back from a copy",
        ("keyvisor doctor",),
    ),
    "CKR_MECHANISM_INVALID": Remedy("no control point of the guest's policy denies the mechanism", _POINT),
    "CKR_TEMPLATE_INCONSISTENT": Remedy("no control point of the guest's policy denies the template", _POINT),
    "CKR_TEMPLATE_INCOMPLETE": Remedy("the template says what is made: CKA_CLASS and CKA_KEY_TYPE", (_LOOK,)),
    "CKR_KEY_FUNCTION_NOT_PERMITTED": Remedy(
        "no control point of the guest's policy denies the use, and the key was made for it", _POINT
    ),
    "CKR_DEVICE_MEMORY": Remedy(
        "there is room in the partition for what was wrapped: another secret leads to an empty partition",
        (_ADD, _UNBIND, _BIND, _ASSOCIATE),
    ),
}

OTHERWISE: Final = Remedy("what the reason says", (_LOOK,))


def remedy(code: str | None) -> Remedy:
    """The row of a code as decisions have it: two hex digits, or a CK_RV's name."""
    if code is None:
        return OTHERWISE
    if code in BY_CK_RV:
        return BY_CK_RV[code]
    try:
        return BY_AP_CODE[ApCode(int(code, 16))]
    except ValueError:
        return OTHERWISE
