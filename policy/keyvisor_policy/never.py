"""What an author says can never be: a secret on an HSM of some description (policy.md, section 1, `never`).

Values, and whether one describes a given HSM. It allows and refuses nothing; whether it can happen is decided in
`prove`. Knows no file and no rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from keyvisor_policy.hsms import Hsm, SecretId
from keyvisor_policy.rules import Interval, Secret, T

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Is(Generic[V]):
    """A field is `value`, or with `but` anything but that; an interval stands for each of its values."""

    value: V
    but: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """Which HSMs are meant. None means any; of the compliance names all `present` and none `absent`.

    An HSM without a master key has an `mkvp` that is anything but a given one.
    """

    mode: Literal["ep11", "accel"] | None = None
    mkvp: Is[bytes] | None = None
    serial: Is[str] | None = None
    generation: Is[Interval[int]] | None = None
    firmware: Is[Interval[tuple[int, int]]] | None = None
    api: Is[Interval[int]] | None = None
    present: frozenset[str] = field(default_factory=frozenset)
    absent: frozenset[str] = field(default_factory=frozenset)

    def describes(self, hsm: Hsm) -> bool:
        """Whether every field is as the HSM's."""
        return (
            self.mode in (None, hsm.mode)
            and (self.mkvp is None or (hsm.mkvp == self.mkvp.value) != self.mkvp.but)
            and (self.serial is None or (hsm.serial == self.serial.value) != self.serial.but)
            and _within(hsm.generation, self.generation)
            and _within(hsm.firmware, self.firmware)
            and _within(hsm.api, self.api)
            and self.present <= hsm.compliance
            and not self.absent & hsm.compliance
        )


@dataclass(frozen=True, slots=True)
class Never:
    """No rule may give `secret` to an HSM that `hsm` describes; without a secret, no rule may have such an HSM at all,
    be it with a secret or, where it is an accelerator, without. `line` and `column` say where it stands, from 1.
    """

    hsm: Description
    secret: Secret | None = None
    name: str | None = None
    line: int = 1
    column: int = 1

    def forbids(self, hsm: Hsm, secret_id: SecretId | None) -> bool:
        """Whether this HSM with this secret, or with none as an accelerator, is what may never be."""
        return (self.secret is None or self.secret.id == secret_id) and self.hsm.describes(hsm)


def _within(value: T, wanted: Is[Interval[T]] | None) -> bool:
    return wanted is None or (value in wanted.value) != wanted.but
