"""Control points: what a guest may ask of an HSM that it holds (policy.md, section 3). Pure; the gate asks nothing else.

Needs little more than the standard library, since the process that asks starts once for each guest. Knows no YAML and no names:
calls are named, mechanisms and attributes are the standard's numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from keyvisor_policy.pkcs11.calls import DECIDED

Value = bool | int | bytes
"""An attribute's value by its kind; what could not be read by its kind stays bytes."""

Template = Mapping[int, Value]
"""CKA number -> value."""

Kind = Literal["mechanism", "template", "use"]

_REMEMBERED: Final = 4096  # decisions

SIZES: Final[Mapping[int, int]] = {0x121: 0x120, 0x133: 0x130}
"""CKA_MODULUS_BITS -> CKA_MODULUS, CKA_PRIME_BITS -> CKA_PRIME: a private key does not tell its size, nor does the template
of a key that is taken in. Where the number itself is there, its length is the size."""


TELL_SIZES: Final = frozenset(SIZES.values())


class Unreadable(Exception):
    """A condition meets a value that is not of the attribute's kind."""


@dataclass(frozen=True, slots=True)
class Is:
    """This value and no other."""

    value: Value

    def holds(self, value: Value) -> bool:
        """Raises Unreadable for a value of another kind."""
        if type(value) is not type(self.value):
            raise Unreadable("it is not a value of this attribute")
        return value == self.value


@dataclass(frozen=True, slots=True)
class Between:
    """A number from `least` to `most`, both included; None is no end."""

    least: int | None
    most: int | None

    def holds(self, value: Value) -> bool:
        """Raises Unreadable for what is no number."""
        if type(value) is not int:
            raise Unreadable("it is not a number")
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True)
class Like:
    """A text that a pattern fits: `*` is any text, `?` any character; upper and lower case differ."""

    pattern: str

    def holds(self, value: Value) -> bool:
        """Raises Unreadable for what is no text."""
        if not isinstance(value, bytes):
            raise Unreadable("it is not a text")
        # Bytes that are no UTF-8 fit `*` as any others do, and no pattern that names them.
        return fnmatchcase(value.decode(errors="surrogateescape"), _brackets_are_plain(self.pattern))


def _brackets_are_plain(pattern: str) -> str:
    return pattern.replace("[", "[[]")


Match = Is | Between | Like


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute is one of these, or with `negated` none of them. `text` is it as the policy has it."""

    attribute: int
    text: str
    one_of: tuple[Match, ...]
    negated: bool = False

    def met(self, template: Template) -> bool:
        """Raises Unreadable. An attribute that is not there meets nothing."""
        value = template.get(self.attribute)
        if value is None:
            return False
        return any(match.holds(value) for match in self.one_of) is not self.negated


@dataclass(frozen=True, slots=True)
class ControlPoint:
    """One rule of `requests`. `on` is an association rule's name.

    Empty `calls` are all that are decided (`pkcs11.calls`), empty `mechanisms` are any, and none. `profile` is the one that it
    comes from, None for the file's own; `origin` is where it stands, `line` and `column` the same from 1, which the gate is
    not told.
    """

    name: str
    effect: Literal["deny", "allow"]
    calls: frozenset[str] = frozenset()
    mechanisms: frozenset[int] = frozenset()
    template: tuple[Condition, ...] = ()
    key: tuple[Condition, ...] = ()
    on: str | None = None
    profile: str | None = None
    origin: str = ""
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)

    @property
    def label(self) -> str:
        """Its name, a profile's behind that of the profile, as in `no-export/no wrapping`."""
        return self.name if self.profile is None else f"{self.profile}/{self.name}"

    @property
    def kind(self) -> Kind:
        """What a refusal by it is about."""
        if self.template:
            return "template"
        return "mechanism" if self.mechanisms else "use"

    def concerns(self, call: str, mechanism: int | None, rule: str | None) -> bool:
        """Whether it may decide about such a call at all."""
        return (
            (not self.calls or call in self.calls)
            and (not self.mechanisms or mechanism in self.mechanisms)
            and (self.on is None or self.on == rule)
        )

    def matches(self, template: Template, key: Template) -> bool:
        """Whether all its conditions are met. Raises Unreadable."""
        return all(one.met(template) for one in self.template) and all(one.met(key) for one in self.key)


@dataclass(frozen=True, slots=True)
class Tried:
    """A point that was looked at: whether it matched, or why it could not be decided."""

    point: ControlPoint
    matched: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`point` decided, None where none did; `reason` is for a person. `tried` are the points that concern the call."""

    allowed: bool
    point: ControlPoint | None
    kind: Kind
    reason: str
    tried: tuple[Tried, ...] = field(default=(), repr=False)


_NOTHING: Final[Template] = {}


@dataclass(frozen=True, slots=True)
class _Concerning:
    """The points that may decide about a call, and the attributes that they look at in what it asks for and in its key."""

    points: tuple[ControlPoint, ...]
    template: frozenset[int]
    key: frozenset[int]


class ControlPoints:
    """All of a policy's, in their order. `digest` is SHA-256 of what they mean, 32 bytes. Immutable."""

    __slots__ = ("_by_call", "_concerning", "_decided", "calls", "digest", "points")

    def __init__(self, points: Iterable[ControlPoint] = ()) -> None:
        self.points: tuple[ControlPoint, ...] = tuple(points)
        self.digest: bytes = hashlib.sha256(_canonical(self.to_json())).digest()
        self.calls: frozenset[str] = (
            DECIDED
            if any(not point.calls for point in self.points)
            else frozenset().union(*(p.calls for p in self.points))
        )
        self._by_call: dict[str, _ByMechanism] = {}
        self._decided: OrderedDict[tuple[Any, ...], Decision] = OrderedDict()
        self._concerning: dict[tuple[str, int | None, str | None], _Concerning] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ControlPoints) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"ControlPoints({len(self.points)} points, {self.digest.hex()[:16]})"

    def decide(
        self,
        call: str,
        mechanism: int | None,
        template: Template | None,
        key: Template | None,
        rule: str | None,
    ) -> Decision:
        """What the points say about one call on an HSM that is held through the association rule `rule`.

        A deny wins over an allow; an allow of the file wins over a deny of a profile; no point = allowed. A point that
        meets a value that it cannot read refuses.
        """
        template, key = with_sizes(template or _NOTHING), with_sizes(key or _NOTHING)
        concerning = self._about(call, mechanism, rule)
        looked_at = (
            *[template.get(type_) for type_ in concerning.template],
            *[key.get(type_) for type_ in concerning.key],
        )
        # True is 1: the kinds belong to what was asked.
        asked = call, mechanism, rule, looked_at, tuple([type(value) for value in looked_at])
        known = self._decided.get(asked)
        if known is None:
            known = _decide(concerning.points, call, template, key)
            self._decided[asked] = known
            if len(self._decided) > _REMEMBERED:
                self._decided.popitem(last=False)
        return known

    def concerning(self, call: str, mechanism: int | None, rule: str | None) -> tuple[ControlPoint, ...]:
        """The points that may decide about such a call, in their order; none for a call that is not decided."""
        return self._about(call, mechanism, rule).points

    def template_types(self, call: str, mechanism: int | None, rule: str | None) -> frozenset[int]:
        """The attributes that points look at in what such a call asks for, and those that sizes are told by."""
        return _to_be_read(self._about(call, mechanism, rule).template)

    def key_types(self, call: str, mechanism: int | None, rule: str | None) -> frozenset[int]:
        """The attributes that points look at in the key that such a call uses, and those that sizes are told by."""
        return _to_be_read(self._about(call, mechanism, rule).key)

    def _about(self, call: str, mechanism: int | None, rule: str | None) -> _Concerning:
        """Worked out once: the gate asks it at each call that the hot loop does not answer."""
        asked = call, mechanism, rule
        known = self._concerning.get(asked)
        if known is None:
            points = self._find(*asked)
            known = _Concerning(
                points,
                frozenset(one.attribute for point in points for one in point.template),
                frozenset(one.attribute for point in points for one in point.key),
            )
            if len(self._concerning) >= _REMEMBERED:
                self._concerning.clear()
            self._concerning[asked] = known
        return known

    def _find(self, call: str, mechanism: int | None, rule: str | None) -> tuple[ControlPoint, ...]:
        if call not in self.calls:
            return ()
        by_mechanism = self._by_call.get(call)
        if by_mechanism is None:
            by_mechanism = self._by_call[call] = _ByMechanism(
                [point for point in self.points if not point.calls or call in point.calls]
            )
        return tuple([point for point in by_mechanism.of(mechanism) if point.on is None or point.on == rule])

    def serves(self, call: str, mechanism: int, rule: str | None) -> bool:
        """Whether some such call may pass: False if every template and every key would be refused."""
        concerning = self.concerning(call, mechanism, rule)
        allows = any(point.effect == "allow" for point in concerning)
        return not any(
            point.effect == "deny"
            and not point.template
            and not point.key
            and not (allows and point.profile is not None)
            for point in concerning
        )

    def to_json(self) -> list[dict[str, Any]]:
        """What `from_json` reads: dictionaries, lists, texts, numbers."""
        return [_point_json(point) for point in self.points]

    @classmethod
    def from_json(cls, value: Any) -> ControlPoints:
        """The points that `to_json` wrote. Raises LookupError, TypeError, ValueError for anything else."""
        return cls(_read_point(one) for one in value)


def with_sizes(template: Template) -> Template:
    """The same, with the sizes that its numbers tell."""
    told = {
        bits: int.from_bytes(number).bit_length()
        for bits, of in SIZES.items()
        if isinstance(number := template.get(of), bytes)
    }
    return {**template, **told} if told else template


def _to_be_read(types: frozenset[int]) -> frozenset[int]:
    return types | {of for bits, of in SIZES.items() if bits in types}


class _ByMechanism:
    """The points about one call, by the mechanism that they name; those that name none are in each list."""

    __slots__ = ("_any", "_named", "_points")

    def __init__(self, points: list[ControlPoint]) -> None:
        self._points = points
        self._any = tuple(point for point in points if not point.mechanisms)
        self._named: dict[int, tuple[ControlPoint, ...]] = {}
        for mechanism in {one for point in points for one in point.mechanisms}:
            self._named[mechanism] = ()
        by_mechanism: dict[int, list[ControlPoint]] = {one: [] for one in self._named}
        for point in points:
            for mechanism in point.mechanisms or by_mechanism:
                by_mechanism[mechanism].append(point)
        self._named = {mechanism: tuple(found) for mechanism, found in by_mechanism.items()}

    def of(self, mechanism: int | None) -> tuple[ControlPoint, ...]:
        return self._any if mechanism is None else self._named.get(mechanism, self._any)


def _decide(points: tuple[ControlPoint, ...], call: str, template: Template, key: Template) -> Decision:
    tried = tuple([_try(point, template, key) for point in points])
    broken = next((one for one in tried if one.error is not None), None)
    if broken is not None:
        point = broken.point
        return Decision(
            False,
            point,
            point.kind,
            f"{_named(point)} cannot be decided: {broken.error}; so it refuses",
            tried,
        )
    matching = [one.point for one in tried if one.matched]
    own_deny = next((p for p in matching if p.effect == "deny" and p.profile is None), None)
    if own_deny is not None:
        return Decision(False, own_deny, own_deny.kind, _refusal(own_deny), tried)
    allow = next((p for p in matching if p.effect == "allow"), None)
    if allow is not None:
        return Decision(True, allow, allow.kind, f"{_named(allow)} allows it", tried)
    deny = next((p for p in matching if p.effect == "deny"), None)
    if deny is not None:
        return Decision(False, deny, deny.kind, _refusal(deny), tried)
    return Decision(True, None, "use", f"no control point refuses {call}", tried)


def _try(point: ControlPoint, template: Template, key: Template) -> Tried:
    try:
        return Tried(point, point.matches(template, key))
    except Unreadable as error:
        return Tried(point, False, str(error))


def _named(point: ControlPoint) -> str:
    return f"control point `{point.name}` ({point.origin})"


def _refusal(point: ControlPoint) -> str:
    conditions = [*(one.text for one in point.template), *(f"key {one.text}" for one in point.key)]
    what = f" where {', '.join(conditions)}" if conditions else ""
    return f"{_named(point)} refuses it{what}"


# --- as JSON


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _point_json(point: ControlPoint) -> dict[str, Any]:
    return {
        "name": point.name,
        "effect": point.effect,
        "calls": sorted(point.calls),
        "mechanisms": sorted(point.mechanisms),
        "template": [_condition_json(one) for one in point.template],
        "key": [_condition_json(one) for one in point.key],
        "on": point.on,
        "profile": point.profile,
        "origin": point.origin,
    }


def _condition_json(one: Condition) -> dict[str, Any]:
    return {
        "attribute": one.attribute,
        "text": one.text,
        "one_of": [_match_json(match) for match in one.one_of],
        "negated": one.negated,
    }


def _match_json(match: Match) -> dict[str, Any]:
    match match:
        case Is(bytes() as data):
            return {"bytes": data.hex()}
        case Is(value):
            return {"is": value}
        case Between(least, most):
            return {"least": least, "most": most}
        case Like(pattern):
            return {"like": pattern}


def _read_point(value: dict[str, Any]) -> ControlPoint:
    if value["effect"] not in ("deny", "allow"):
        raise ValueError("a control point denies or allows")
    return ControlPoint(
        value["name"],
        value["effect"],
        frozenset(value["calls"]),
        frozenset(value["mechanisms"]),
        tuple(_read_condition(one) for one in value["template"]),
        tuple(_read_condition(one) for one in value["key"]),
        value["on"],
        value["profile"],
        value["origin"],
    )


def _read_condition(value: dict[str, Any]) -> Condition:
    one_of = tuple(_read_match(one) for one in value["one_of"])
    return Condition(value["attribute"], value["text"], one_of, value["negated"])


_READERS: Final[Mapping[str, Callable[[dict[str, Any]], Match]]] = {
    "bytes": lambda value: Is(bytes.fromhex(value["bytes"])),
    "is": lambda value: Is(value["is"]),
    "least": lambda value: Between(value["least"], value["most"]),
    "like": lambda value: Like(value["like"]),
}


def _read_match(value: dict[str, Any]) -> Match:
    return _READERS[next(name for name in _READERS if name in value)](value)


NO_CONTROL_POINTS: Final = ControlPoints()
