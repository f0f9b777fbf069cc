"""The client of `make bench`: one process that loads a PKCS#11 module and times single operations with the raw binding.

Reads lines `OPERATION SECONDS` on standard input and answers each with one line of JSON: operations per second and the
median and 99th percentile in microseconds. It logs in with the PIN in its third argument, or with none.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from keyvisor_hsm.cryptoki import CKA, CKM, Module
from keyvisor_hsm.cryptoki.flags import CKF_RW_SESSION, CKF_SERIAL_SESSION, CKU_USER
from keyvisor_hsm.cryptoki.native import ULONG, Attribute, Mechanism, Memory, Template, Ulongs

_P256 = bytes.fromhex("06082a8648ce3d030107")
_YES, _NO = b"\1", b"\0"


class Client:
    """A session with one key of each kind, and the operations on them."""

    def __init__(self, library: Path, label: bytes, pin: bytes) -> None:
        self._module = Module.load(library)
        self._module.initialize({})
        self._session = self._open(label)
        placed = _bytes(pin)
        self._module.require("C_Login", self._session, CKU_USER, placed.address if pin else 0, len(pin))
        self._aes = self._key(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: ULONG.pack(32), CKA.ENCRYPT: _YES})
        self._ec = self._pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: _P256})
        self._rsa = self._pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: ULONG.pack(2048)})
        self._output, self._length = Memory(1 << 21), Ulongs(1)
        self.operations: dict[str, Callable[[], None]] = {
            "C_GetSessionInfo": self._session_info,
            "C_GenerateRandom 32 B": self._random,
            "SHA-256 1 KiB": self._run("C_Digest", Mechanism(CKM.SHA256, None), None, 1024),
            "AES-ECB 4 KiB": self._run("C_Encrypt", Mechanism(CKM.AES_ECB, None), self._aes, 4096),
            "AES-ECB 1 MiB": self._run("C_Encrypt", Mechanism(CKM.AES_ECB, None), self._aes, 1 << 20),
            "ECDSA P-256": self._run("C_Sign", Mechanism(CKM.ECDSA, None), self._ec, 32),
            "RSA-2048": self._run("C_Sign", Mechanism(CKM.SHA256_RSA_PKCS, None), self._rsa, 32),
        }

    def _open(self, label: bytes) -> int:
        count = Ulongs(1)
        self._module.require("C_GetSlotList", 1, 0, count.address)
        slots = Ulongs(count[0])
        self._module.require("C_GetSlotList", 1, slots.address, count.address)
        for slot in slots.values(count[0]):
            info = Memory(208)
            self._module.require("C_GetTokenInfo", slot, info.address)
            if info.read(0, 32).rstrip() == label:
                session = Ulongs(1)
                flags = CKF_RW_SESSION | CKF_SERIAL_SESSION
                self._module.require("C_OpenSession", slot, flags, 0, 0, session.address)
                return session[0]
        raise SystemExit(f"no token `{label.decode()}`")

    def _key(self, type_: CKM, attributes: dict[CKA, bytes]) -> int:
        template = Template([Attribute(t, v) for t, v in (attributes | {CKA.TOKEN: _NO}).items()])
        mechanism, key = Mechanism(type_, None), Ulongs(1)
        self._module.require(
            "C_GenerateKey", self._session, mechanism.address, template.address, template.count, key.address
        )
        return key[0]

    def _pair(self, type_: CKM, public: dict[CKA, bytes]) -> int:
        ours = Template([Attribute(t, v) for t, v in public.items()])
        theirs = Template([Attribute(CKA.TOKEN, _NO), Attribute(CKA.SIGN, _YES)])
        mechanism, first, second = Mechanism(type_, None), Ulongs(1), Ulongs(1)
        arguments = (ours.address, ours.count, theirs.address, theirs.count, first.address, second.address)
        self._module.require("C_GenerateKeyPair", self._session, mechanism.address, *arguments)
        return second[0]

    def _session_info(self) -> None:
        self._module.require("C_GetSessionInfo", self._session, self._output.address)

    def _random(self) -> None:
        self._module.require("C_GenerateRandom", self._session, self._output.address, 32)

    def _run(self, name: str, mechanism: Mechanism, key: int | None, size: int) -> Callable[[], None]:
        """Init and operation: two calls."""
        data = _bytes(bytes(size))
        init = (self._session, mechanism.address) if key is None else (self._session, mechanism.address, key)
        kept = (data, mechanism)

        def run() -> None:
            self._module.require(name + "Init", *init)
            self._length.write(0, ULONG.pack(1 << 21))
            address, length = self._output.address, self._length.address
            self._module.require(name, self._session, kept[0].address, size, address, length)

        return run


def _bytes(data: bytes) -> Memory:
    memory = Memory(len(data))
    memory.write(0, data)
    return memory


def measure(operation: Callable[[], None], seconds: float) -> dict[str, float]:
    """Run for about `seconds`; at least three times."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begin = time.perf_counter_ns()
        operation()
        times.append((time.perf_counter_ns() - begin) / 1000)
    times.sort()
    return {
        "per_second": 1e6 * len(times) / sum(times),
        "p50": statistics.median(times),
        "p99": times[min(len(times) - 1, int(len(times) * 0.99))],
    }


def main() -> None:
    """`client.py MODULE LABEL [PIN]`"""
    pin = sys.argv[3].encode() if len(sys.argv) > 3 else b""
    client = Client(Path(sys.argv[1]), sys.argv[2].encode(), pin)
    print(json.dumps(list(client.operations)), flush=True)
    for line in sys.stdin:
        name, seconds = line.rsplit(maxsplit=1)
        print(json.dumps(measure(client.operations[name], float(seconds))), flush=True)


if __name__ == "__main__":
    main()
