"""A machine of little storage with a firmware that crashes, starts again and fails on demand; and a host that gives by hand.

`Kernel` does call by call what a host's kernel does, so that a test can stop anywhere in between.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import OperationalError

from keyvisor_firmware.association.hsms import Hsms
from keyvisor_firmware.audit import AUDIT_KEY, Audit
from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.config import Config, Limits, StorageLimits
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.host_key import host_keys
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.guests.secret_stores import SecretStores
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_guest.errors import Refused
from keyvisor_guest.hosting.image_loading import LoadedImage, load
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_hsm.errors import HsmError
from keyvisor_hsm.master_keys import OperatorToken

from ...images import an_image
from ...in_process_host import InProcessHost
from ..machine import NOON, Log
from ..simulator import Gates

TWO_GIB = 2 << 30
MEMORY = 2 * MIB

SMALL = StorageLimits(size=TWO_GIB + 16 * MIB, max_cpus=4, ranges=256)
FEW = Limits(guests=4, association_secrets=3, retrievable_secrets=2)


class Killed(BaseException):
    """The daemon is gone: nothing that comes later happens, not even the answer."""


class FailingDatabase(Database):
    """A database whose commits fail when a test says so: `due` is asked at the end of every transaction.

    After one that kills there are no more: whoever is dead undoes nothing.
    """

    due: Callable[[], BaseException | None]
    dead: bool = False

    def hurry(self) -> None:
        """Do not wait for the disk: what dies here is the daemon, and never the machine."""
        with self._engine.connect() as connection:
            connection.connection.cursor().execute("PRAGMA synchronous=OFF").close()

    @contextmanager
    def transaction(self) -> Iterator[Records]:
        if self.dead:
            raise Killed
        with super().transaction() as records:
            yield records
            if (error := self.due()) is not None:
                self.dead = isinstance(error, Killed)
                raise error


def disk_full() -> OperationalError:
    """What a commit raises that the disk has no room for."""
    return OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))


@dataclass
class FailingSealer:
    """The operator token, but for those times when sealing fails: `broken` says so."""

    token: OperatorToken
    broken: bool = False

    def seal(self, secret: bytes, context: bytes) -> bytes:
        if self.broken:
            raise HsmError("the operator token is gone")
        return self.token.seal(secret, context)

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        return self.token.unseal(sealed, context)


class World:
    """The firmware on one database file, and its host."""

    def __init__(
        self, path: Path, token: OperatorToken, limits: Limits = FEW, storage: StorageLimits = SMALL
    ) -> None:
        self.path = path
        self.limits = limits
        self.storage_limits = storage
        self.sealer = FailingSealer(token)
        self.log = Log()
        self._token = token
        self._failures: list[BaseException | None] = []  # of the next commits, the first one first
        self.up()

    def up(self) -> None:
        """Start the firmware on what the database says."""
        self._failures = []
        self.gates = Gates()
        self.database = FailingDatabase.open(self.path)
        self.database.due = self._due
        self.database.hurry()
        with self.database.transaction() as records:
            self.host_keys = host_keys(records, self._token, lambda: NOON)
        self.holdings = self.rebuilt(load=False)
        self.firmware = Firmware(
            database=self.database,
            hsms=Hsms(Config().inventory, self._token),
            gates=self.gates,
            host_keys=self.host_keys,
            secret_stores=SecretStores(self.holdings, self.sealer, self.host_keys, os.urandom),
            holdings=self.holdings,
            audit=Audit(lambda: NOON, self.log, self._token.signing_key(AUDIT_KEY)),
            randomness=os.urandom,
            limits=self.limits,
        )
        self.firmware.restore()
        self.host = InProcessHost(self.firmware)
        self.kernel = Kernel(self.host)

    def again(self, limits: Limits | None = None, storage: StorageLimits | None = None) -> None:
        """What a crash and a new start leave: the database, and nothing else."""
        self.database.close()
        self.limits = limits or self.limits
        self.storage_limits = storage or self.storage_limits
        self.up()

    def rebuilt(self, *, load: bool = True) -> Holdings:
        """The tables as a new start would make them of the database as it is now."""
        made = Holdings(self.limits, self.storage_limits, self.sealer)
        if load:
            with self.database.transaction() as records:
                made.load(records)
        return made

    # --- failures

    def fail(self, *commits: BaseException | None) -> None:
        """Let the next commits fail like that, one after the other; None for one that succeeds."""
        self._failures = list(commits)

    def _due(self) -> BaseException | None:
        return self._failures.pop(0) if self._failures else None

    # --- what a test looks at

    def image(self, name: str = "payments", **parts: object) -> LoadedImage:
        """A small image for this firmware: another one every time."""
        return load(self.image_file(name, **parts))

    def image_file(self, name: str = "payments", **parts: object) -> bytes:
        """Its file."""
        return an_image(self.host_keys.ring.current.private, name, **parts).data

    def booted(self, name: str = "payments", memory: int = MEMORY, cpus: Sequence[int] = (0,)) -> Given:
        """A guest that runs from an image of its own."""
        given = self.kernel.create(name, memory)
        for number in cpus:
            self.kernel.cpu(given, number)
        self.kernel.boot(given, self.image(name))
        return given

    def configuration(self, given: Given) -> Configuration:
        """What the firmware knows of a guest."""
        return self.holdings.guests[given.handle]

    def instance(self, given: Given) -> InstanceId:
        """Which start of the guest this is."""
        return self.configuration(given).row.instance

    def read(self, given: Given, address: int, length: int = PAGE) -> bytes:
        """What the guest reads."""
        return self.firmware.paging.read(self.instance(given), Span(address, length))

    def write(self, given: Given, address: int, data: bytes) -> None:
        """The guest writes."""
        self.firmware.paging.write(self.instance(given), address, data)

    def add_secret(
        self, given: Given, name: str, value: bytes = b"\x5e" * 32, kind: SecretKind = SecretKind.ASSOCIATION
    ) -> None:
        """The guest's owner adds a secret."""
        self.add_secret_to(self.instance(given), name, value, kind)

    def add_secret_to(
        self,
        instance: InstanceId,
        name: str,
        value: bytes = b"\x5e" * 32,
        kind: SecretKind = SecretKind.ASSOCIATION,
    ) -> None:
        """The same, for a guest that is known by its instance."""
        identity = self.firmware.identity(instance).identity
        fresh = FreshKeys(ec.generate_private_key(ec.SECP521R1()), os.urandom(32), os.urandom(12))
        key = self.host_keys.ring.current.private.public_key()
        request = build(Draft(kind, identity, id_from_name(name), value), fresh, [key])
        self.firmware.add_secret(instance, request)

    def secrets(self, given: Given) -> int:
        """How many the guest has."""
        return len(self.firmware.list_secrets(self.instance(given))[0])

    def stored(self, span: Span) -> dict[int, bytes]:
        """The pages of a piece of storage that are not zeros, whoever may see them."""
        with self.database.transaction() as records:
            return records.pages(span.start, span.end)

    def ground(self, spans: Sequence[Span]) -> list[dict[int, bytes]]:
        """The contents of several pieces."""
        return [self.stored(span) for span in spans]

    def disk(self) -> bytes:
        """Every byte of the database's files, but for what is only waiting to be overwritten in its log."""
        with contextlib.closing(sqlite3.connect(self.path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return b"".join(file.read_bytes() for file in sorted(self.path.parent.glob(f"{self.path.name}*")))

    def events(self) -> tuple[Event, ...]:
        """The audit log."""
        return self.firmware.audit_log()

    def picture(self) -> object:
        """All of storage and all tables: what a refused call must leave alone."""
        with self.database.transaction() as records:
            return (
                records.guests(),
                records.zone(),
                records.frames(),
                records.mappings(),
                records.pages(0, self.storage_limits.size),
                tables(self.holdings),
            )

    def require_agreement(self) -> None:
        """The tables in memory are those that the database makes, and the sum of what is secure is right."""
        zone = self.holdings.host.zone
        assert tables(self.holdings) == tables(self.rebuilt())
        assert zone.secure_length == sum(one.length for one in zone) == self.host.storage().secure


def tables(holdings: Holdings) -> object:
    """All that the firmware holds in memory of storage, as values that can be compared."""
    host = holdings.host
    return (
        holdings.zone,
        holdings.header,
        tuple(host.zone),
        host.zone.secure_length,
        tuple(host.frames),
        tuple((asce, tuple(host.spaces.intervals(asce))) for asce in host.spaces.spaces()),
        dict(sorted(holdings.guests.items())),
        len(holdings.slots),
    )


@dataclass
class Given:
    """What a host gave for a guest. `pages` are where the guest's own storage is, from address 0 on."""

    name: str
    handle: int
    asce: int
    sca: int
    base: Span
    variable: tuple[Span, ...]
    memory: int
    pages: list[Span] = field(default_factory=list)
    cpus: dict[int, tuple[int, Span]] = field(default_factory=dict)  # by number: handle, storage

    @property
    def virtual(self) -> int:
        """Where its variable area begins in its address space."""
        return self.memory

    def absolute(self, address: int) -> int:
        """Where the host mapped an address of the guest."""
        for span in self.pages:
            if address < span.length:
                return span.start + address
            address -= span.length
        raise ValueError("no page of this guest")

    @property
    def spans(self) -> list[Span]:
        """All that was donated or mapped for it."""
        return [self.base, *self.variable, *(span for _, span in self.cpus.values()), *self.pages]


@dataclass(frozen=True)
class Offer:
    """What is reserved and mapped for a guest that is not created yet."""

    name: str
    asce: int
    sca: int
    base: Span
    variable: tuple[Span, ...]
    memory: int


class Kernel:
    """A host that gives by hand. Its allocations are labelled by what they are for."""

    def __init__(self, host: InProcessHost) -> None:
        self.host = host
        self._count = 0

    def init(self) -> Span:
        """Donate the zone's base storage, unless that was done."""
        query = self.host.query_storage()
        zone = Span(TWO_GIB, query.zone_base)
        if not self.host.storage().initialised:
            self.host.init(zone.start, zone.length)
        return zone

    def frame(self, length: int = PAGE, alignment: int = PAGE, label: str = "test") -> Span:
        """Reserve storage."""
        return Span(self.host.memory.allocate(label, length, alignment), length)

    def prepare(self, name: str = "payments", memory: int = MEMORY, pieces: int = 3) -> Offer:
        """Reserve and map what a guest needs, its variable area in scattered pieces."""
        self.init()
        query = self.host.query_storage()
        label = f"guest {name}"
        asce = self.frame(label=label).start
        base = self.frame(query.guest_base, 1 << 14, label)
        variable = query.guest_virtual(memory)
        spans = []
        part = variable // pieces // PAGE * PAGE
        for number in range(pieces):
            length = part if number + 1 < pieces else variable - part * (pieces - 1)
            spans.append(self.frame(length, label=label))
            self.frame(label=label)  # so that the next one does not adjoin
        spans.reverse()  # not in the order of their addresses
        self.map(asce, memory, spans)
        return Offer(name, asce, self.frame(label=label).start, base, tuple(spans), memory)

    def donate(self, offer: Offer, **other: int) -> Given:
        """Create the guest; `other` values are offered instead."""
        handle = self.host.create_guest(
            offer.name,
            **{
                "base": offer.base.start,
                "base_length": offer.base.length,
                "virtual": offer.memory,
                "virtual_length": sum(span.length for span in offer.variable),
                "storage_length": offer.memory,
                "asce": offer.asce,
                "sca": offer.sca,
                **other,
            },
        )
        return Given(offer.name, handle, offer.asce, offer.sca, offer.base, offer.variable, offer.memory)

    def create(self, name: str = "payments", memory: int = MEMORY) -> Given:
        """A guest that is created, and no more."""
        return self.donate(self.prepare(name, memory))

    def cpu(self, given: Given, number: int = 0) -> int:
        """A CPU for it; the CPU's handle."""
        length = self.host.query_storage().cpu
        span = self.frame(length, label=f"guest {given.name}")
        handle = self.host.create_cpu(given.handle, number, storage=span.start, storage_length=length)
        given.cpus[number] = handle, span
        return handle

    def boot(self, given: Given, image: LoadedImage) -> None:
        """Give it storage, load the image, and let it run."""
        self.load(given, image)
        self.host.verify(given.handle)
        self.host.run(given.handle)

    def load(self, given: Given, image: LoadedImage) -> None:
        """As far as unpacked."""
        self.back(given)
        self.header(given, image)
        for component in image.components:
            place = component.placement
            self.host.memory.write(given.absolute(place.address), component.pages)
            self.host.unpack(
                given.handle, place.address, len(component.pages), tweak=place.tweak_prefix, offset=0
            )

    def header(self, given: Given, image: LoadedImage) -> None:
        """Hand over the header."""
        at = self.frame(label=f"guest {given.name}").start
        self.host.memory.write(at, image.header)
        self.host.set_parameters(given.handle, at, len(image.header))

    def back(self, given: Given) -> None:
        """Reserve the guest's own storage, and map it, in two pieces that do not adjoin."""
        label = f"guest {given.name}"
        first = self.frame(0x17000 + PAGE, label=label)
        self.frame(label=label)
        given.pages = [first, self.frame(given.memory - first.length, label=label)]
        self.map(given.asce, 0, given.pages)

    def map(self, asce: int, virtual: int, spans: Sequence[Span]) -> None:
        """Map pieces one behind the other."""
        for span in spans:
            self.host.memory.map(asce, virtual, span.start, span.length)
            virtual += span.length

    def remap(self, given: Given, virtual: int, absolute: int, length: int = PAGE) -> None:
        """Let pages in the guest's address space be others."""
        self.host.memory.map(given.asce, virtual, absolute, length)

    def destroy(self, given: Given) -> None:
        """Destroy CPUs and guest, and give their storage back."""
        for number, (handle, _) in sorted(given.cpus.items()):
            self.host.destroy_cpu(handle)
            del given.cpus[number]
        self.host.destroy_guest(given.handle)
        self.host.memory.free(f"guest {given.name}")


@contextmanager
def refused(kind: str, code: int) -> Iterator[pytest.ExceptionInfo[Refused]]:
    """What is done within is refused with this code."""
    with pytest.raises(Refused) as info:
        yield info
    assert (info.value.kind, info.value.code) == (kind, code), str(info.value)
    assert len(str(info.value).splitlines()) == 1
    assert info.value.handle is None or code & 0x8000


def shifted(span: Span, by: int) -> Span:
    """The same length, elsewhere."""
    return replace(span, start=span.start + by)
