"""Functions that race inside the module wait for each other, and for nothing else."""

from __future__ import annotations

import threading

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, Role
from keyvisor_firmware.broker.one_at_a_time import RACING, OneAtATime
from keyvisor_hsm.cryptoki import FUNCTIONS


class Gate:
    """A function that does not return before it is let go."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, *_: int) -> int:
        self.entered.set()
        assert self.leave.wait(30)
        return 0


def inside_together(one: str, other: str) -> bool:
    """Whether both functions can be inside the module at once."""
    gates = Gate(), Gate()
    functions = OneAtATime({"first": gates[0], "second": gates[1], one: gates[0], other: gates[1]})
    first, second = (functions[one], functions[other]) if one != other else (functions[one], functions[one])
    threads = [threading.Thread(target=function, args=(1,)) for function in (first, second)]
    threads[0].start()
    gates[0].entered.wait(30)
    threads[1].start()
    together = gates[1].entered.wait(0.05)
    for gate in gates:
        gate.leave.set()
    for thread in threads:
        thread.join(30)
    assert gates[1].entered.is_set()
    return together


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("C_GenerateKey", "C_FindObjectsInit", False),
        ("C_GenerateKeyPair", "C_DestroyObject", False),
        ("C_GenerateKeyPair", "C_Sign", True),
        ("C_Encrypt", "C_Decrypt", True),
    ],
)
def test_only_what_races_waits(one: str, other: str, together: bool) -> None:
    assert inside_together(one, other) is together


def test_two_instances_do_not_wait_for_each_other() -> None:
    gate = Gate()
    thread = threading.Thread(target=OneAtATime({"C_GenerateKey": gate})["C_GenerateKey"])
    thread.start()
    assert gate.entered.wait(30)
    assert OneAtATime({"C_GenerateKey": lambda: 7})["C_GenerateKey"]() == 7
    gate.leave.set()
    thread.join(30)


def test_every_call_that_makes_or_changes_an_object_is_among_them() -> None:
    changes = {call.name for call in BY_NAME.values() if Role.TEMPLATE in call.roles}
    changes -= {"C_DeriveKey2"}  # which is C_DeriveKey in the module
    assert changes | {"C_DestroyObject"} == RACING


def test_it_is_the_modules_functions_and_no_more() -> None:
    functions = OneAtATime({name: len for name, _ in FUNCTIONS})
    assert set(functions) == {name for name, _ in FUNCTIONS}
    assert len(functions) == 68
    assert "C_Sign" in functions
    assert "C_SignMessage" not in functions
    assert functions.get("C_SignMessage") is None
