"""The tables. What must never be twice is a key or a unique constraint here, so that no code can forget it.

Portable SQL: nothing here is SQLite's own. What is secret is in columns called `sealed` and nowhere else.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Boolean, Column, ForeignKey, Integer, LargeBinary, MetaData, String, Table, Text

SCHEMA_VERSION: Final = 2

METADATA: Final = MetaData()


def _of_instance(*, primary: bool = True) -> Column[str]:
    """The guest's instance; what hangs on it goes when the guest stops."""
    key = ForeignKey("guests.instance", ondelete="CASCADE")
    return Column("instance", String(32), key, primary_key=primary, nullable=False)


SCHEMA: Final = Table("schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

GUESTS: Final = Table(
    "guests",
    METADATA,
    Column("instance", String(32), primary_key=True),
    Column("name", String(31), unique=True, nullable=False),
    Column("cuid", LargeBinary(16), unique=True, nullable=False),
    Column("identity", LargeBinary(208), nullable=False),
    Column("started", String(32), nullable=False),
    Column("host_key_hash", LargeBinary(32), nullable=False),
    Column("opens_after_lock", Boolean, nullable=False),
)

ATTACHMENTS: Final = Table(
    "attachments", METADATA, _of_instance(), Column("apqn", String(7), primary_key=True)
)

# One row per HSM that a guest holds. The primary key is the exclusivity: one HSM, one guest (patents, 2.6, 53).
BINDINGS: Final = Table(
    "bindings",
    METADATA,
    Column("apqn", String(7), primary_key=True),
    _of_instance(primary=False),
    Column("state", String(10), nullable=False),
    Column("secret_index", Integer),
    Column("secret_id", LargeBinary(32)),
)

SECRET_STORES: Final = Table(
    "secret_stores", METADATA, _of_instance(), Column("sealed", LargeBinary, nullable=False)
)

BOOT_SECRETS: Final = Table(
    "boot_secrets", METADATA, _of_instance(), Column("sealed", LargeBinary, nullable=False)
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

# Rows are only ever added: no code changes or deletes one, and none hangs on a guest.
AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),
    Column("guest", String(31)),
    Column("event", String(64), nullable=False),
    Column("detail", Text, nullable=False),
)
