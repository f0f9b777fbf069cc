"""Every sensitive call in every state that an HSM and a multi-part operation can be in (part2_T1, part2_T8).

The module is a recorder that answers CKR_OK to everything and has every function, so whatever the filter let through
would be seen, and would be told to the application.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Access, Call, Role
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKM, CKR

from .encoder import Mechanism
from .in_process import SLOT_ID, Application, Bench, recording
from .sample_calls import arguments

ASSOCIATED, BOUND, UNBOUND = HsmState.ASSOCIATED, HsmState.BOUND, HsmState.UNBOUND
SENSITIVE: Final = [call for call in CALLS if call.access is Access.SENSITIVE]

# What the broker gives up of its own accord, once the HSM is gone: nothing of it takes a key or tells anything.
GIVES_UP: Final = {"C_CloseSession"}
# Answered by the broker, or under another name of the module's.
NEVER_FORWARDED: Final = {"C_Login", "C_LoginUser", "C_InitPIN", "C_SetPIN", "C_InitToken", "C_InitToken2"}
FORWARDED_AS: Final = {"C_DeriveKey2": "C_DeriveKey"}
# What can be inside the module, and on which HSM.
INSIDE: Final = [
    pytest.param(call, mode, id=f"{mode}: {call.name}")
    for mode in ("ep11", "accel")
    for call in SENSITIVE
    if call.name not in NEVER_FORWARDED and (mode == "ep11" or call.accelerator)
]


def begun(name: str, application: Application, session: int, key: int) -> None:
    """Begin `name`: a search, a digest, or an operation with a key."""
    match name:
        case "FindObjects":
            application.call("C_FindObjectsInit", session, [])
        case "Digest":
            application.call("C_DigestInit", session, Mechanism(CKM.SHA256))
        case _:
            application.call(f"C_{name}Init", session, Mechanism(CKM.AES_ECB), key)


# One more step of what was begun, by its name.
STEPS: Final[dict[str, tuple[str, tuple[Any, ...]]]] = {
    "FindObjects": ("C_FindObjects", (1,)),
    "Digest": ("C_DigestUpdate", (b"part",)),
    "Encrypt": ("C_EncryptUpdate", (b"part", 64)),
    "Decrypt": ("C_DecryptUpdate", (b"part", 64)),
    "Sign": ("C_SignUpdate", (b"part",)),
    "Verify": ("C_VerifyUpdate", (b"part",)),
}
OPERATIONS: Final = (*STEPS, "SignRecover", "VerifyRecover", "MessageEncrypt")


@dataclass
class Scene:
    """An application with an open session and a key, on an HSM of one mode."""

    bench: Bench
    application: Application
    session: int = 0
    key: int = 0

    @property
    def highest(self) -> HsmState:
        """The most that an HSM of this mode can be for a guest."""
        return ASSOCIATED if self.bench.mode == "ep11" else BOUND

    def grant(self) -> None:
        self.bench.grant(self.highest)

    def enter(self) -> None:
        """A session that is open in the module, and a key."""
        self.grant()
        self.session = self.application.session(login=True)
        self.key = self.application.call("C_CreateObject", self.session, [])

    def values(self, call: Call) -> tuple[Any, ...]:
        return arguments(call, self.session, SLOT_ID, handle=self.key)


def _never_bound(scene: Scene) -> None:
    scene.session = scene.key = 1


def _bound(scene: Scene) -> None:
    scene.bench.grant(BOUND)
    scene.session = scene.application.session()
    scene.application.call("C_GenerateRandom", scene.session, 8)  # the session is open in the module
    scene.key = scene.session


def _unbound_since(scene: Scene) -> None:
    scene.enter()
    scene.bench.revoke()


def _under_way(operation: str, steps: int, end: Callable[[Scene], None]) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        scene.enter()
        begun(operation, scene.application, scene.session, scene.key)
        if steps:
            name, values = STEPS[operation]
            scene.application.call(name, scene.session, *values)
        end(scene)

    return prepare


def _unbound(scene: Scene) -> None:
    scene.bench.revoke()


def _bound_again(scene: Scene) -> None:
    scene.bench.grant(UNBOUND)
    scene.grant()


def _bound_only(scene: Scene) -> None:
    scene.bench.grant(UNBOUND)
    scene.bench.grant(BOUND)


ENDS: Final = {
    "unbound": _unbound,
    "bound again to the same keys": _bound_again,
    "bound again, no keys": _bound_only,
}

STATES: Final[dict[str, Callable[[Scene], None]]] = {
    "never bound": _never_bound,
    "bound": _bound,
    "unbound since": _unbound_since,
    **{
        f"{operation} {'in the middle' if steps else 'begun'}, then {name}": _under_way(operation, steps, end)
        for operation in OPERATIONS
        for steps in ((0, 1) if operation in STEPS else (0,))
        for name, end in ENDS.items()
    },
}


def expected(call: Call, state: str, mode: str) -> CKR:
    """The code that is documented for a call in a state: architecture.md, "the filter"."""
    on_slot = Role.SLOT in call.roles
    is_bound = state == "bound" or (on_slot and "bound again" in state)
    if is_bound and mode != "ep11":
        return CKR.FUNCTION_NOT_SUPPORTED
    if state == "bound" or (on_slot and state.endswith("no keys")):
        return CKR.USER_NOT_LOGGED_IN
    if on_slot and is_bound:
        return CKR.SESSION_EXISTS  # initialising is allowed; the old session that is still there forbids it
    return CKR.TOKEN_NOT_PRESENT if on_slot else CKR.SESSION_HANDLE_INVALID


def cases() -> list[Any]:
    """All of them, but what a bound accelerator serves, which has no other keys to be bound to."""
    return [
        pytest.param(call, state, mode, id=f"{mode}, {state}: {call.name}")
        for mode in ("ep11", "accel")
        for state in STATES
        for call in SENSITIVE
        if mode == "ep11" or not (state.endswith("no keys") or (state == "bound" and call.accelerator))
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a token's PINs would be; none is ever set here."""
    return tmp_path_factory.mktemp("partition")


def scene_of(mode: str, directory: Path, path: HotLoop | None) -> Scene:
    bench = Bench(recording(directory), mode, path)
    return Scene(bench, bench.connect())


@pytest.mark.parametrize(("call", "state", "mode"), cases())
def test_part2_T1_T8_no_sensitive_call_is_let_through(
    call: Call, state: str, mode: str, directory: Path, path: HotLoop | None
) -> None:
    scene = scene_of(mode, directory, path)
    STATES[state](scene)
    scene.bench.calls.made.clear()
    assert scene.application.rv(call.name, *scene.values(call)) == expected(call, state, mode)
    assert set(scene.bench.calls.made) <= GIVES_UP
    again = scene.application.rv(call.name, *scene.values(call))  # asking twice opens nothing either
    assert again in {expected(call, state, mode), CKR.SESSION_HANDLE_INVALID}
    assert set(scene.bench.calls.made) <= GIVES_UP


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("call", "mode"), INSIDE)
def test_part2_T8_no_reply_leaves_once_the_hsm_was_taken_away_inside_the_module(
    call: Call, mode: str, end: str, directory: Path, path: HotLoop | None
) -> None:
    scene = scene_of(mode, directory, path)
    scene.enter()
    inside = FORWARDED_AS.get(call.name, call.name)
    scene.bench.calls.made.clear()
    scene.bench.calls.after[inside] = lambda: ENDS[end](scene)
    assert scene.application.rv(call.name, *scene.values(call)) == CKR.DEVICE_REMOVED
    assert inside in scene.bench.calls.made
    name, refused = scene.bench.refused[-1]
    assert (name, refused.apqn) == (call.name, "03.0011")
    scene.bench.calls.after.clear()
    scene.bench.calls.made.clear()
    assert scene.application.rv(call.name, *scene.values(call)) == CKR.SESSION_HANDLE_INVALID
    assert set(scene.bench.calls.made) <= GIVES_UP


@pytest.mark.parametrize(("call", "mode"), INSIDE)
def test_what_is_allowed_does_reach_the_module(
    call: Call, mode: str, directory: Path, path: HotLoop | None
) -> None:
    """Else the recorder would see nothing in the matrix either."""
    scene = scene_of(mode, directory, path)
    scene.enter()
    scene.bench.calls.made.clear()
    assert scene.application.rv(call.name, *scene.values(call)) == CKR.OK
    assert FORWARDED_AS.get(call.name, call.name) in scene.bench.calls.made


def test_the_matrix_knows_every_operation_that_begins() -> None:
    begins = {name[2:-4] for name in BY_NAME if name.endswith("Init")}
    alike = {"MessageDecrypt", "MessageSign", "MessageVerify"}  # these go as MessageEncrypt does
    assert begins - alike == set(OPERATIONS)
