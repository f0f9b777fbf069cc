"""Guests' records as hypothesis draws them, and the longest one there is."""

from __future__ import annotations

from hypothesis import strategies as st

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.storage.guest_record import (
    MAX_HELD,
    MAX_RUNS,
    GuestCpu,
    GuestRecord,
    HeldHsm,
    UnpackedRun,
)
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.se_header import MAX_HEADER
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn

MEMORY_KEY = b"m" * 32 + b"n" * 32
IDENTITY = BootIdentity(b"p" * 64, b"a" * 64, b"t" * 64, b"h" * 16)

u16 = st.integers(0, 2**16 - 1)
u64 = st.integers(0, 2**64 - 1)


def exactly(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


apqns = st.builds(Apqn, st.integers(0, 255), st.integers(0, 255))
runs = st.builds(UnpackedRun, u64, u64, exactly(8), u64)
cpus = st.builds(GuestCpu, u16, u64, u64)
held = st.builds(
    HeldHsm,
    apqns,
    st.sampled_from([state for state in State if state is not State.UNBOUND]),
    st.none() | u16,
    st.none() | exactly(32).map(SecretId),
)
records = st.builds(
    GuestRecord,
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True),
    instance=exactly(16).map(lambda raw: InstanceId(raw.hex())),
    cuid=exactly(16),
    memory_key=exactly(64).filter(lambda key: key[:32] != key[32:]),
    page_key=exactly(64),
    association_secrets=u16,
    retrievable_secrets=u16,
    started=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=39),
    identity=st.none() | st.builds(BootIdentity, exactly(64), exactly(64), exactly(64), exactly(16)),
    host_key_hash=exactly(32),
    opens_after_lock=st.booleans(),
    cck=st.none() | exactly(32),
    scf=u64,
    page_versions=u64,
    header=st.none() | st.binary(min_size=1, max_size=700),
    runs=st.lists(runs, max_size=4).map(tuple),
    cpus=st.lists(cpus, max_size=4, unique_by=lambda cpu: cpu.number).map(
        lambda found: tuple(sorted(found, key=lambda cpu: cpu.number))
    ),
    held=st.lists(held, max_size=4, unique_by=lambda hsm: hsm.apqn).map(
        lambda found: tuple(sorted(found, key=lambda hsm: hsm.apqn))
    ),
)


def longest_guest(cpu_count: int) -> GuestRecord:
    """A guest with everything that a guest can have."""
    secret = SecretId(b"i" * 32)
    return GuestRecord(
        name="n" * 31,
        instance=InstanceId("ab" * 16),
        cuid=b"c" * 16,
        memory_key=MEMORY_KEY,
        page_key=b"k" * 64,
        association_secrets=512,
        retrievable_secrets=512,
        started="2" * 39,
        identity=IDENTITY,
        host_key_hash=b"h" * 32,
        opens_after_lock=True,
        cck=b"c" * 32,
        scf=2**64 - 1,
        page_versions=2**64 - 1,
        header=b"h" * MAX_HEADER,
        runs=tuple(UnpackedRun(2**64 - 1, 2**64 - 1, b"t" * 8, 2**64 - 1) for _ in range(MAX_RUNS)),
        cpus=tuple(GuestCpu(number, 2**64 - 1, 2**64 - 1) for number in range(cpu_count)),
        held=tuple(
            HeldHsm(Apqn(at // 256, at % 256), State.ASSOCIATED, 0xFFFF, secret) for at in range(MAX_HELD)
        ),
    )
