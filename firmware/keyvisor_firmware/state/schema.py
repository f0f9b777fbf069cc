"""The tables. What must never be twice is a key or a unique constraint here, so that no code can forget it.

Portable SQL: nothing here is SQLite's own. What is secret is in columns called `sealed` and nowhere else; `pages` is the
machine's storage, in which what is secret stands sealed (the firmware's areas) or encrypted (guests' pages).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = 4

METADATA: Final = MetaData()


def _of_instance(*, primary: bool = True) -> Column[str]:
    """The guest's instance; what hangs on it goes when the guest stops."""
    key = ForeignKey("guests.instance", ondelete="CASCADE")
    return Column("instance", String(32), key, primary_key=primary, nullable=False)


SCHEMA: Final = Table("schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

# An address or a length of storage: 64 bits on every engine.
_ADDRESS: Final = BigInteger().with_variant(Integer, "sqlite")

# What makes a guest one of its name; all else that the firmware keeps of it is in the storage donated for it.
GUESTS: Final = Table(
    "guests",
    METADATA,
    Column("instance", String(32), primary_key=True),
    Column("name", String(31), unique=True, nullable=False),
    Column("handle", _ADDRESS, unique=True, nullable=False),
)

ATTACHMENTS: Final = Table(
    "attachments", METADATA, _of_instance(), Column("apqn", String(7), primary_key=True)
)

# One row per HSM that a guest holds. The primary key is the exclusivity: one HSM, one guest (patents, 2.6, 53). What it
# is to the guest stands in the guest's own storage.
HOLDERS: Final = Table(
    "holders", METADATA, Column("apqn", String(7), primary_key=True), _of_instance(primary=False)
)

# Where the zone's base storage is: one row, once the host has donated it.
ZONE: Final = Table(
    "zone",
    METADATA,
    Column("origin", _ADDRESS, primary_key=True, autoincrement=False),
    Column("length", _ADDRESS, nullable=False),
)

# Host-absolute storage, page by page; a page without a row is all zeros.
PAGES: Final = Table(
    "pages",
    METADATA,
    Column("address", _ADDRESS, primary_key=True, autoincrement=False),
    Column("content", LargeBinary(4096), nullable=False),
)

# The host's own: what its allocator gave away, and its address spaces. The firmware never takes them for true.
FRAMES: Final = Table(
    "frames",
    METADATA,
    Column("absolute", _ADDRESS, primary_key=True, autoincrement=False),
    Column("length", _ADDRESS, nullable=False),
    Column("label", String(64), nullable=False),
)

MAPPINGS: Final = Table(
    "mappings",
    METADATA,
    Column("asce", _ADDRESS, primary_key=True, autoincrement=False),
    Column("virtual", _ADDRESS, primary_key=True, autoincrement=False),
    Column("absolute", _ADDRESS, nullable=False),
    Column("length", _ADDRESS, nullable=False),
)

# `measured` is true for a policy that came inside the image: it stays as long as the guest runs.
POLICIES: Final = Table(
    "policies",
    METADATA,
    _of_instance(),
    Column("source", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("measured", Boolean, nullable=False),
)

# The private keys that there are: current and backup host key, and those of the test CA.
HOST_KEYS: Final = Table(
    "host_keys",
    METADATA,
    Column("name", String(16), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("certificate", Text, nullable=False),
)

# Every host-key document that was ever issued, by its serial number (hex); `revoked` is the time of it, if it was.
HOST_KEY_DOCUMENTS: Final = Table(
    "host_key_documents",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("serial", String(40), unique=True, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("revoked", String(32)),
)

# Rows are only ever added: no code changes or deletes one, and none hangs on a guest. Each is chained to the one before
# (audit_log/chain.py); `detail` and `decisions` are canonical JSON.
AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("number", _ADDRESS, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("guest", String(31)),
    Column("event", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("decisions", Text, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# A signature after the last record of every transaction, by that record's number. Only ever added, likewise.
AUDIT_SIGNATURES: Final = Table(
    "audit_signatures",
    METADATA,
    Column("number", _ADDRESS, primary_key=True, autoincrement=False),
    Column("signature", LargeBinary(64), nullable=False),
)

# The policies that decisions were made by, so that an explanation can show the line. A record names them by digest
# (SHA-256 of the text), so that nothing depends on these rows: of each guest the newest are kept.
AUDIT_POLICIES: Final = Table(
    "audit_policies",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("guest", String(31), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("source", Text, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("guest", "digest"),
)
