"""A document: what a file says, and where each value stands. Knows nothing of YAML's syntax."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from keyvisor_policy.errors import DocumentError, Finding

Path = tuple[str | int, ...]
Place = tuple[int, int]


class Reported:
    """Stands in the tree for a value that the reader could not read and has reported already."""

    __slots__ = ()


REPORTED = Reported()


def place_behind(text: str) -> Place:
    """The place of the character that follows `text`, the file's beginning; lines counted as YAML does."""
    lines = re.split("\r\n|\r|\n", text)
    return len(lines), len(lines[-1]) + 1


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it begins, 1-based. `size` and `height` are those of the tree with aliases written out."""

    place: Place
    value: object  # dict[str, ...], list[...], str, Plain or REPORTED
    keys: dict[str, Place] = field(default_factory=dict)
    children: dict[str | int, Node] = field(default_factory=dict)
    size: int = 1
    height: int = 1


class Document:
    """What a file says. Aliases are followed; mappings keep the file's order.

    `tree` is everything that could be read, `findings` what could not: pass both on together, or use `data`,
    which is the tree of a document without findings.
    """

    def __init__(self, source: str, root: Node, findings: tuple[Finding, ...]) -> None:
        self.source = source
        self.findings = findings
        self._root = root

    @property
    def tree(self) -> object:
        """Mappings, lists and scalars, with REPORTED where a finding stands."""
        return self._root.value

    @property
    def data(self) -> object:
        """Mappings, lists and scalars (`str`, or `Plain` where there were no quotes). Raises DocumentError."""
        if self.findings:
            raise DocumentError(self.findings)
        return self._root.value

    def place(self, path: Path) -> Place:
        """Line and column of the value at `path`; where that is missing, of the value that should contain it."""
        *_, last = self._walk(path)
        return last.place

    def key_place(self, path: Path) -> Place:
        """Line and column of the key that `path` ends with; of the value where it ends with no key."""
        if not path:
            return self.place(path)
        *_, parent = self._walk(path[:-1])
        key = path[-1]
        return parent.keys[key] if isinstance(key, str) and key in parent.keys else self.place(path)

    def finding(self, path: Path, message: str) -> Finding:
        """A finding about the value at `path`."""
        return Finding(self.source, *self.place(path), message)

    def _walk(self, path: Path) -> Iterator[Node]:
        node = self._root
        yield node
        for step in path:
            if step not in node.children:
                return
            node = node.children[step]
            yield node
