"""Characters to document: YAML's structure, none of its guesses.

PyYAML scans and parses; composing is done here, from its events, so that depth, size and aliases are bounded
before anything grows, and so that every scalar keeps its characters. What stops the scanner ends the reading;
everything else is noted and the reading goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.strict_yaml.document import REPORTED, Document, Node, Place, place_behind
from keyvisor_policy.strict_yaml.scalars import Plain
from keyvisor_policy.strict_yaml.syntax import reworded
from keyvisor_policy.strict_yaml.wording import shown

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_TAG = "tags (`!`) are not supported; put a value that begins with `!` in quotes"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a file may hold. `values` counts mappings, lists, keys and scalars with aliases written out."""

    length: int = 1 << 20  # bytes
    values: int = 200_000
    depth: int = 32
    findings: int = 1000


LIMITS = Limits()


class Composer:
    """Makes one document of `text`, which holds no half characters. To be used once."""

    def __init__(self, text: str, source: str, limits: Limits) -> None:
        self._text = text
        self._source = source
        self._limits = limits
        self._findings: list[Finding] = []
        self._values = 0
        self._anchors: dict[str, Node | None] = {}  # None while the anchored value is still open

    def document(self) -> Document:
        """The document. Raises DocumentError where the text is no YAML, empty, or beyond the limits."""
        try:
            self._events = _Events(self._text)
            root = self._only_document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._stop((mark.line + 1, mark.column + 1) if mark else (1, 1), reworded(error))
        except ReaderError as error:
            character = shown(self._text[error.position : error.position + 1])
            self._stop(
                place_behind(self._text[: error.position]), f"the character {character} may not be in a file"
            )
        except (
            ValueError,
            OverflowError,
        ):  # PyYAML hands escapes and version numbers to chr() and int() unchecked
            self._stop(self._events.place(), "a number in an escape or a directive is out of every range")
        return Document(self._source, root, tuple(self._findings))

    def _only_document(self) -> Node:
        self._events.next()  # the stream's start
        if isinstance(self._events.peek(), StreamEndEvent):
            self._stop((1, 1), "the file is empty")
        self._events.next()  # the document's start
        root = self._node(1)
        self._events.next()  # the document's end
        rest = self._events.peek()
        if not isinstance(rest, StreamEndEvent):
            self._note(_mark(rest), "a second document begins here; a file holds one")
        return root

    def _node(self, depth: int, *, key: bool = False) -> Node:
        event = self._events.next()
        place = _mark(event)
        if isinstance(event, AliasEvent):
            return self._alias(event, place, depth)
        if depth > self._limits.depth:
            self._stop(place, f"nested deeper than the {self._limits.depth} levels that a file may have")
        self._count(1, place)
        anchor = event.anchor if isinstance(event, NodeEvent) else None
        if anchor is not None:
            if anchor in self._anchors:
                self._note(place, f"the anchor {shown(f'&{anchor}')} is given twice")
            self._anchors[anchor] = None
        node = self._value(event, place, depth, key)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _alias(self, event: AliasEvent, place: Place, depth: int) -> Node:
        name = shown(f"*{event.anchor}")
        if event.anchor not in self._anchors:
            self._note(place, f"the alias {name} names no anchor before it")
            return Node(place, REPORTED)
        node = self._anchors[event.anchor]
        if node is None:
            self._stop(place, f"the alias {name} stands inside the value that it names")
        self._count(node.size, place)
        if depth + node.height - 1 > self._limits.depth:
            self._stop(place, f"nested deeper than the {self._limits.depth} levels that a file may have")
        return node

    def _value(self, event: Event, place: Place, depth: int, key: bool) -> Node:
        if isinstance(event, CollectionStartEvent):
            compose = self._mapping if isinstance(event, MappingStartEvent) else self._sequence
            node = compose(place, depth)
        elif isinstance(event, ScalarEvent):
            node = self._scalar(event, place, key)
        else:
            self._stop(place, "a value is missing here")
        if event.tag is None:
            return node
        self._note(place, _TAG)
        return Node(place, REPORTED)

    def _scalar(self, event: ScalarEvent, place: Place, key: bool) -> Node:
        if event.style is None and not event.value:
            if not key:  # of a key, its mapping says so
                self._note(place, "a value is missing here; leave the key out where nothing is meant")
            return Node(place, REPORTED)
        if _HALF_CHARACTER.search(event.value):
            self._note(place, f"{shown(event.value)} holds half a character; write the whole one")
            return Node(place, REPORTED)
        return Node(place, Plain(event.value) if event.style is None else event.value)

    def _sequence(self, place: Place, depth: int) -> Node:
        children: dict[str | int, Node] = {}
        while not isinstance(self._events.peek(), SequenceEndEvent):
            children[len(children)] = self._node(depth + 1)
        self._events.next()
        return _branch(place, [child.value for child in children.values()], {}, children)

    def _mapping(self, place: Place, depth: int) -> Node:
        keys: dict[str, Place] = {}
        children: dict[str | int, Node] = {}
        while not isinstance(self._events.peek(), MappingEndEvent):
            key_place = _mark(self._events.peek())
            key = self._node(depth + 1, key=True).value
            child = self._node(depth + 1)
            if not isinstance(key, str):
                self._note(key_place, "a key must be text")
            elif key == "<<":
                self._note(key_place, "merge keys (`<<`) are not supported; write the keys out")
            elif key in keys:
                self._note(key_place, f"the key {shown(key)} is given twice, first in line {keys[key][0]}")
            else:
                keys[str(key)] = key_place
                children[str(key)] = child
        self._events.next()
        return _branch(place, {key: child.value for key, child in children.items()}, keys, children)

    def _count(self, values: int, place: Place) -> None:
        self._values += values
        if self._values > self._limits.values:
            self._stop(
                place, f"more than the {self._limits.values} values that a file may have, aliases written out"
            )

    def _note(self, place: Place, message: str) -> None:
        self._findings.append(Finding(self._source, *place, message))
        if len(self._findings) >= self._limits.findings:
            self._stop(place, f"reading ends here, after {len(self._findings)} errors")

    def _stop(self, place: Place, message: str) -> NoReturn:
        raise DocumentError([*self._findings, Finding(self._source, *place, message)]) from None


class _Events:
    """PyYAML's events, with one of look-ahead. The only place that touches its untyped parts."""

    def __init__(self, text: str) -> None:
        self._loader = yaml.SafeLoader(text)

    def peek(self) -> Event:
        event: Event = self._loader.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it open
        return event

    def next(self) -> Event:
        event: Event = self._loader.get_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it open
        return event

    def place(self) -> Place:
        """Where the scanner stands now."""
        mark = self._loader.get_mark()
        return mark.line + 1, mark.column + 1


def _mark(event: Event) -> Place:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _branch(place: Place, value: object, keys: dict[str, Place], children: dict[str | int, Node]) -> Node:
    size = 1 + len(keys) + sum(child.size for child in children.values())
    height = 1 + max((child.height for child in children.values()), default=0)
    return Node(place, value, keys, children, size, height)
