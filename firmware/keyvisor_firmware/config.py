"""The daemon's configuration: which cards there are, which PKCS#11 module stands in for them, and the limits.

`configs/keyvisor.yaml` is the reference; without a file the same values hold. Knows no state directory and makes
nothing: it reads, checks and says everything that is wrong at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from keyvisor_firmware.broker import limits as broker
from keyvisor_firmware.broker.state_page import MAX_HSMS
from keyvisor_firmware.errors import ConfigInvalid
from keyvisor_guest.wire.names import GUEST_NAME
from keyvisor_hsm.cards import SERIAL_LENGTH, Card, Domain, Generation, Inventory, Mode
from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.strict_yaml import (
    Boolean,
    Document,
    Integer,
    StrictModel,
    Verbatim,
    examine,
    from_text,
    one_of,
    read_document,
    read_file,
)

MAX_CARDS: Final = 256
MAX_DOMAINS: Final = 256
MAX_CPUS: Final = 4096
MIN_STORAGE: Final = 4 << 30  # the firmware's own begins at 2 GiB (formats, D.2)
MAX_STORAGE: Final = 8 << 40

_UNITS: Final = {"K": 10, "M": 20, "G": 30, "T": 40}

_MODULE_PLACES: Final = (
    "usr/lib/softhsm",
    "usr/lib/*/softhsm",
    "usr/lib64/pkcs11",
    "usr/lib64/softhsm",
    "usr/lib/pkcs11",
    "usr/local/lib/softhsm",
)
_MODULE_FILE: Final = "libsofthsm2.so"

DEFAULT_CARDS: Final = (
    Card(
        0x03,
        Generation.CEX8,
        Mode.EP11,
        "93AADFK719460083",
        (8, 0),
        6,
        frozenset({"fips2021"}),
        (Domain(0x11, "payments-mk"), Domain(0x12, "ledger-mk")),
    ),
    Card(
        0x05,
        Generation.CEX8,
        Mode.EP11,
        "93AADFK719460099",
        (8, 0),
        6,
        frozenset({"fips2021"}),
        (Domain(0x11, "payments-mk"), Domain(0x12, "archive-mk")),
    ),
    Card(
        0x07,
        Generation.CEX7,
        Mode.ACCEL,
        "93AADFK719460117",
        (7, 1),
        0,
        frozenset(),
        (Domain(0x00), Domain(0x01)),
    ),
    Card(0x09, Generation.CEX7, Mode.CCA, "93AADFK719460131", (7, 1), 0, frozenset(), (Domain(0x11),)),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the daemon takes on. `audit_entries` is how many of the newest the operator's door shows."""

    guests: int = 64
    hsms_per_guest: int = 256
    association_secrets: int = 512
    retrievable_secrets: int = 512
    audit_entries: int = 10_000


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """The host-absolute storage of the machine, `size` in bytes, and what the firmware keeps count of in it.

    `max_cpus` of one guest; `ranges` of the zone-security table, of all guests together.
    """

    size: int = 1 << 40
    max_cpus: int = 248
    ranges: int = 131_072


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration. `module` is None where SoftHSM is to be looked for.

    `broker_limits` hold for the applications of every guest that `guest_broker_limits` does not name.
    """

    module: Path | None = None
    cards: tuple[Card, ...] = DEFAULT_CARDS
    gate_idle_seconds: int = 60
    limits: Limits = Limits()
    storage: StorageLimits = StorageLimits()
    broker_limits: broker.Limits = broker.DEFAULTS
    guest_broker_limits: Mapping[str, broker.Limits] = field(default_factory=dict)

    @property
    def inventory(self) -> Inventory:
        """The cards, looked up by APQN."""
        return Inventory(self.cards)

    def module_path(self, root: Path = Path("/")) -> Path:
        """The PKCS#11 module: the one that is named, else SoftHSM below `root`. Raises ConfigInvalid."""
        if self.module is not None:
            if not self.module.is_file():
                raise ConfigInvalid(
                    [f"no PKCS#11 module `{self.module}`: let `module` name one, or be `auto`"]
                )
            return self.module
        for place in _MODULE_PLACES:
            if found := sorted(root.glob(f"{place}/{_MODULE_FILE}")):
                return found[0]
        raise ConfigInvalid(
            [f"no {_MODULE_FILE} on this machine: install `softhsm2`, or let `module` name a module"]
        )


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigInvalid with every finding, each `file:line:column: message`."""
    try:
        return parse(read_file(path), str(path))
    except DocumentError as error:
        raise ConfigInvalid([str(finding) for finding in error.findings]) from None


def parse(text: str | bytes, source: str) -> Config:
    """The configuration that `text` says; `source` is its name in findings. Raises ConfigInvalid."""
    try:
        document = read_document(text, source)
        model, findings = examine(document, _File)
    except DocumentError as error:
        raise ConfigInvalid([str(finding) for finding in error.findings]) from None
    found = [*findings, *(_contradictions(document, model) if model is not None else ())]
    if model is None or found:
        raise ConfigInvalid([str(finding) for finding in found])
    return model.config()


# --- the file


def _module(text: str) -> Path | None:
    if text == "auto":
        return None
    if not Path(text).is_absolute():
        raise ValueError(f"expected `auto` or an absolute path, found `{text}`")
    return Path(text)


def _hex(digits: int) -> object:
    def read(text: str) -> int:
        if re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is None or int(text, 16) > 0xFF:
            raise ValueError(
                f"expected {digits} hex digits in lower case, at most {'ff':0>{digits}}, found `{text}`"
            )
        return int(text, 16)

    return from_text(read)


def _serial(text: str) -> str:
    if len(text) != SERIAL_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"expected {SERIAL_LENGTH} characters without blanks, found `{text}`")
    return text


def _version(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", text)
    if match is None:
        raise ValueError(f"expected major.minor, as in `8.0`, found `{text}`")
    return int(match[1]), int(match[2])


def _name(text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text) is None:
        raise ValueError(f"expected 1 to 63 of a-z, 0-9 and -, the first one no -, found `{text}`")
    return text


def _size(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,11})([KMGT])", text)
    if match is None:
        raise ValueError(f"expected a size as `64G` or `1T`, the unit one of K, M, G, T, found `{text}`")
    size = int(match[1]) << _UNITS[match[2]]
    if not MIN_STORAGE <= size <= MAX_STORAGE or size % (1 << 20):
        raise ValueError(f"expected 4G to 8T in whole MiB, found `{text}`")
    return size


class _Domain(StrictModel):
    number: Annotated[int, _hex(4)]
    master_key: Annotated[str, from_text(_name)] | None = None
    online: Boolean = True


class _Card(StrictModel):
    number: Annotated[int, _hex(2)]
    generation: Annotated[str, one_of(*Generation.__members__)]
    mode: Annotated[str, one_of(*Mode)]
    serial: Annotated[str, from_text(_serial)]
    firmware: Annotated[tuple[int, int], from_text(_version)] = (0, 0)
    api: Annotated[Integer, Field(le=0xFFFF)] = 0
    compliance: Annotated[list[Verbatim], Field(max_length=64)] = Field(default_factory=list)
    domains: Annotated[list[_Domain], Field(min_length=1, max_length=MAX_DOMAINS)]

    def card(self) -> Card:
        return Card(
            number=self.number,
            generation=Generation[self.generation],
            mode=Mode(self.mode),
            serial=self.serial,
            firmware=self.firmware,
            api=self.api,
            compliance=frozenset(self.compliance),
            domains=tuple(Domain(d.number, d.master_key, d.online) for d in self.domains),
        )


class _Gate(StrictModel):
    idle_seconds: Annotated[Integer, Field(ge=1, le=86_400)] = Config().gate_idle_seconds


class _Storage(StrictModel):
    size: Annotated[int, from_text(_size)] = StorageLimits().size
    max_cpus: Annotated[Integer, Field(ge=1, le=MAX_CPUS)] = StorageLimits().max_cpus
    ranges: Annotated[Integer, Field(ge=64, le=1 << 20)] = StorageLimits().ranges


class _Limits(StrictModel):
    guests: Annotated[Integer, Field(ge=1, le=1024)] = Limits().guests
    hsms_per_guest: Annotated[Integer, Field(ge=1, le=MAX_HSMS)] = Limits().hsms_per_guest
    association_secrets: Annotated[Integer, Field(ge=1, le=0xFFFF)] = Limits().association_secrets
    retrievable_secrets: Annotated[Integer, Field(ge=1, le=0xFFFF)] = Limits().retrievable_secrets
    audit_entries: Annotated[Integer, Field(ge=1, le=100_000)] = Limits().audit_entries


def _number(least: int, most: int) -> object:
    return Field(ge=least, le=most)


class _GuestBrokerLimits(StrictModel):
    frame_options: Annotated[Integer, _number(64, 1 << 20)] = broker.DEFAULTS.frame_options
    frame_body: Annotated[Integer, _number(1 << 10, 1 << 28)] = broker.DEFAULTS.frame_body
    frame_seconds: Annotated[Integer, _number(1, 3600)] = int(broker.DEFAULTS.frame_seconds)
    attributes: Annotated[Integer, _number(1, 1 << 16)] = broker.DEFAULTS.attributes
    nesting: Annotated[Integer, _number(0, 16)] = broker.DEFAULTS.nesting
    mechanisms: Annotated[Integer, _number(1, 1 << 16)] = broker.DEFAULTS.mechanisms
    output: Annotated[Integer, _number(1 << 10, 1 << 28)] = broker.DEFAULTS.output
    attribute_output: Annotated[Integer, _number(1 << 10, 1 << 24)] = broker.DEFAULTS.attribute_output
    found_objects: Annotated[Integer, _number(1, 1 << 16)] = broker.DEFAULTS.found_objects
    connections: Annotated[Integer, _number(1, 1 << 16)] = broker.DEFAULTS.connections
    sessions: Annotated[Integer, _number(1, 1 << 16)] = broker.DEFAULTS.sessions
    objects: Annotated[Integer, _number(1, 1 << 24)] = broker.DEFAULTS.objects
    partition_objects: Annotated[Integer, _number(1, 1 << 24)] = broker.DEFAULTS.partition_objects
    operations_in_flight: Annotated[Integer, _number(1, 64)] = broker.DEFAULTS.operations_in_flight


class _BrokerLimits(_GuestBrokerLimits):
    guests: dict[str, _GuestBrokerLimits] = Field(default_factory=dict)

    def for_all(self) -> broker.Limits:
        return broker.Limits(**self.model_dump(exclude={"guests"}))

    def for_guests(self) -> Mapping[str, broker.Limits]:
        """What a guest's entry leaves out is as for all."""
        own = {name: guest.model_dump(exclude_unset=True) for name, guest in self.guests.items()}
        return {name: dataclasses.replace(self.for_all(), **said) for name, said in own.items()}


class _File(StrictModel):
    version: Annotated[str, one_of("1")]
    module: Annotated[Path | None, from_text(_module)] = None
    cards: Annotated[list[_Card], Field(max_length=MAX_CARDS)] | None = None
    gate: _Gate = _Gate()
    limits: _Limits = _Limits()
    storage: _Storage = _Storage()
    broker_limits: _BrokerLimits = _BrokerLimits()

    def config(self) -> Config:
        return Config(
            module=self.module,
            cards=DEFAULT_CARDS if self.cards is None else tuple(card.card() for card in self.cards),
            gate_idle_seconds=self.gate.idle_seconds,
            limits=Limits(**self.limits.model_dump()),
            storage=StorageLimits(**self.storage.model_dump()),
            broker_limits=self.broker_limits.for_all(),
            guest_broker_limits=self.broker_limits.for_guests(),
        )


# --- what no single field shows


def _contradictions(document: Document, file: _File) -> Iterator[Finding]:
    cards: set[int] = set()
    for at, card in enumerate(file.cards or ()):
        if card.number in cards:
            yield document.finding(("cards", at, "number"), f"card `{card.number:02x}` is there twice")
        cards.add(card.number)
        yield from _card_contradictions(document, at, card)
    for name in file.broker_limits.guests:
        if re.fullmatch(GUEST_NAME, name) is None:
            yield document.finding(("broker_limits", "guests", name), f"`{name}` is no guest's name")


def _card_contradictions(document: Document, at: int, card: _Card) -> Iterator[Finding]:
    domains: set[int] = set()
    master_keys: set[str] = set()
    for index, domain in enumerate(card.domains):
        place = ("cards", at, "domains", index)
        if domain.number in domains:
            yield document.finding((*place, "number"), f"domain `{domain.number:04x}` is on this card twice")
        domains.add(domain.number)
        if domain.master_key is None:
            continue
        if card.mode == Mode.ACCEL:
            yield document.finding((*place, "master_key"), "an accelerator has no master key: leave it out")
        if domain.master_key in master_keys:
            # "Master keys must be unique per domain inside one adapter" (formats, F.5).
            message = (
                f"the master key `{domain.master_key}` is on this card twice: a spare is on another card"
            )
            yield document.finding((*place, "master_key"), message)
        master_keys.add(domain.master_key)
