"""Both paths through the gate beside each other: arbitrary steps, mostly such as the hot loop answers, over and over.

Every step is one that a guest or its host can take. Whatever the paths do differently is an error (pair.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM

from ..firmware.broker.encoder import NULL, Mechanism, body, sized, u32, u64
from ..firmware.broker.hot.pair import Pair
from ..firmware.broker.in_process import Bench
from .grammar import LIMITS, request
from .source import Source

_ROOMS: Final = (64, 0, NULL, 4, LIMITS.output, LIMITS.output + 1)
_OPERATIONS: Final = ("Encrypt", "Decrypt", "Digest", "Sign", "Verify")
# One of each class, some that the fake module has not, one that travels as a template, which no memo is made of.
_ATTRIBUTES: Final = (CKA.LABEL, CKA.CLASS, CKA.SENSITIVE, CKA.VALUE_LEN, CKA.VALUE, CKA.START_DATE, CKA.ID)
_NESTED: Final = CKA.WRAP_TEMPLATE
_WAITS: Final = u32(65)  # C_WaitForSlotEvent


class Conversation:
    """A guest's two applications and its host, in the order that a fuzzer's bytes say."""

    def __init__(self, path: HotLoop, directory: Path, source: Source) -> None:
        self.source = source
        mode, encoding = source.choice(("ep11", "ep11", "accel")), source.choice(tuple(Encoding))
        self.pair = Pair(path, directory, mode=mode, limits=LIMITS, encoding=encoding)
        self.said: list[bytes] = []

    def run(self) -> None:
        self.begin()
        while self.source:
            if not self.live() and self.source.number(3):
                self.come_back()
            self.source.choice(STEPS)(self)

    def begin(self) -> None:
        """What makes most of what follows meaningful."""
        self.pair.grant(HsmState.ASSOCIATED)
        for which in (0, 1):
            self.pair.session(which=which)
            self.say(body("C_CreateObject", 1, [(CKA.PRIVATE, bool(which)), (CKA.LABEL, b"key")]), which)
            self.say(body("C_OpenSession", self.pair.python.bench.slot.id, 6), which)

    def say(self, content: bytes, which: int = 0) -> None:
        self.pair.exchange(content, which)

    def remember(self, content: bytes) -> None:
        self.said.append(content)
        self.say(content)

    # --- choosing

    def session(self) -> int:
        """Mostly the newest that works."""
        sessions = self.pair.python.applications[0].connection.handles.sessions
        return self.source.choice([*self.live()[-2:] * 4, *sessions, 2])

    def live(self) -> list[int]:
        """The first application's sessions whose HSM is still bound as it was."""
        side = self.pair.python
        sessions, grant = side.applications[0].connection.handles.sessions, side.bench.slot.grant
        return [handle for handle, one in sessions.items() if grant and one.binding == grant.binding]

    def key(self) -> int:
        """Mostly the newest."""
        objects = list(self.pair.python.applications[0].connection.handles.objects)
        return self.source.choice([*objects[-2:] * 4, *objects, 1])

    def data(self) -> bytes | None:
        return self.source.choice((bytes(16), None, b"", bytes(range(40)), bytes(LIMITS.frame_body - 100)))

    def mechanism(self) -> Mechanism:
        """Those with an IV have another each time."""
        iv = self.source.take(4).ljust(16, b"\x5c")
        type_, parameter = self.source.choice(
            (
                (CKM.AES_CBC, sized(iv)),
                (CKM.AES_CTR, u64(128) + sized(iv)),
                (CKM.AES_GCM, sized(iv[:12]) + u64(96) + sized(b"aad") + u64(128)),
                (CKM.AES_GCM, sized(iv) + u64(128) + sized(b"") + u64(128)),
                (CKM.AES_ECB, None),
                (CKM.SHA256, None),
                (CKM.RSA_PKCS, None),
            )
        )
        return self.pair.mechanism(int(type_), parameter)

    # --- what is said

    def anything(self) -> None:
        content = request(self.source)
        if not content.startswith(_WAITS):  # nobody would end it
            self.say(content)

    def initialise(self) -> None:
        operation = self.source.choice(_OPERATIONS)
        key = () if operation == "Digest" else (self.key(),)
        self.remember(body(f"C_{operation}Init", self.session(), self.mechanism(), *key))

    def work(self) -> None:
        operation = self.source.choice(_OPERATIONS)
        how = self.source.choice(("", "Update", "Final"))
        values: tuple[Any, ...] = () if how == "Final" else (self.data(),)
        if operation == "Verify":
            values = (b"signature",) if how == "Final" else (*values, b"signature")[: 1 if how else 2]
        elif not (how == "Update" and operation in ("Sign", "Digest")):
            values += (self.source.choice(_ROOMS),)
        self.say(body(f"C_{operation}{how}", self.session(), *values))

    def read(self) -> None:
        types = [self.source.choice(_ATTRIBUTES) for _ in range(self.source.number(6))]
        wanted: list[tuple[int, Any]] = [
            (int(one), self.source.choice((0, 1, 4, 8, 64, 9999))) for one in types
        ]
        if self.source.number(8) == 1:
            wanted.append((int(_NESTED), 0))
        self.remember(body("C_GetAttributeValue", self.session(), self.key(), wanted))

    def tell(self) -> None:
        self.remember(body("C_GetSessionInfo", self.session()))

    def draw(self) -> None:
        self.say(body("C_GenerateRandom", self.session(), self.source.choice((8, 0, 1, *_ROOMS))))

    def again(self) -> None:
        """The same bytes once more."""
        if self.said:
            self.say(self.source.choice(self.said[-6:]))

    def almost_again(self) -> None:
        """The same bytes, but for one, or with more or less behind."""
        if not self.said:
            return
        content = bytearray(self.source.choice(self.said[-6:]))
        match self.source.number(4):
            case 0:
                del content[-1 - self.source.number(8) :]
            case 1:
                content += self.source.take(1 + self.source.number(8))
            case _:
                content[-1 - self.source.number(min(256, len(content)))] ^= 1 << self.source.number(8)
        self.say(bytes(content))

    def other_application(self) -> None:
        """It uses numbers that the first one has too."""
        self.pair.exchange(self.source.choice(self.said[-6:]) if self.said else request(self.source), 1)

    # --- what changes

    def host(self) -> None:
        match self.source.number(5):
            case 0:
                self.pair.grant(HsmState.BOUND)
            case 1:
                self.pair.revoke()
            case 2:
                self.pair.associate_bound()
            case _:
                self.pair.grant(HsmState.ASSOCIATED)

    def come_back(self) -> None:
        """After an unbind: a session, a login, a key."""
        self.pair.grant(HsmState.ASSOCIATED)
        self.begin_again()

    def begin_again(self) -> None:
        self.pair.call("C_OpenSession", self.pair.python.bench.slot.id, 6)
        session = max(self.pair.python.applications[0].connection.handles.sessions, default=1)
        self.pair.call("C_Login", session, 1, None)
        self.pair.call("C_CreateObject", session, [(CKA.PRIVATE, bool(self.source.number(2)))])

    def change(self) -> None:
        session, key = self.session(), self.key()
        name, values = self.source.choice(
            (
                ("C_Logout", (session,)),
                ("C_Login", (session, 1, None)),
                ("C_CloseSession", (session,)),
                ("C_DestroyObject", (session, key)),
                ("C_SetAttributeValue", (session, key, [(CKA.LABEL, self.source.take(3))])),
            )
        )
        self.pair.call(name, *values)

    def inside(self) -> None:
        """The HSM is taken away, or associated, while the module works."""
        name = self.source.choice(
            ("C_Sign", "C_EncryptInit", "C_GetAttributeValue", "C_Digest", "C_DigestInit", "C_EncryptUpdate")
        )
        change: Callable[[Bench], None] = self.source.choice(
            (Bench.revoke, lambda bench: bench.grant(HsmState.BOUND), _associate)
        )
        self.pair.inside(name, change)
        for _ in range(self.source.number(6)):
            self.source.choice((Conversation.again, Conversation.initialise, Conversation.work))(self)
        self.pair.inside(name, None)


def _associate(bench: Bench) -> None:
    grant = bench.slot.grant
    if grant is not None:
        bench.grant(HsmState.ASSOCIATED, binding=grant.binding)


STEPS: Final[tuple[Callable[[Conversation], None], ...]] = (
    *(Conversation.initialise, Conversation.work) * 5,
    *(Conversation.again,) * 12,
    *(Conversation.read, Conversation.almost_again, Conversation.tell, Conversation.draw) * 2,
    *(Conversation.change, Conversation.come_back, Conversation.inside, Conversation.host),
    *(Conversation.anything, Conversation.other_application),
)
