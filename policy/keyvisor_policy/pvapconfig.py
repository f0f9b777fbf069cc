"""pvapconfig's own file format: a bare list, compiled to the same rules (formats, F.1).

Keys, ranges and refusals are that program's; blanks around a value do not count. `mingen` means what its manual
says, at least; its code of version 2.43.0 takes it for a maximum (`compat`). Values count as they stand, without
YAML's guesses, as they do there. Stricter than that program: a key without any value, and a serial number with
characters that do not print, are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from keyvisor_policy import fields
from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.grammar import PvapconfigList
from keyvisor_policy.hsms import NEWEST_GENERATION, SecretId, generation_name, secret_id
from keyvisor_policy.rules import Interval, Pattern, Rule, Secret
from keyvisor_policy.strict_yaml import Document, examine, ordered
from keyvisor_policy.strict_yaml.wording import expected_words, shown

V = TypeVar("V")

# What that program trims from a value. Python's own idea of blanks has four separators more, and the secret's id
# depends on it.
BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)

_MODES: Mapping[str, Literal["ep11", "accel"]] = {"ep11": "ep11", "accel": "accel"}


def descriptions(document: Document) -> tuple[str, ...]:
    """What the entries say about themselves, in the list's order; an empty text where one says nothing."""
    entries = document.tree if isinstance(document.tree, list) else []
    found = (entry.get("description") if isinstance(entry, dict) else None for entry in entries)
    return tuple(text.strip(BLANKS) if isinstance(text, str) else "" for text in found)


def rules(document: Document) -> tuple[Rule, ...]:
    """The rules of a pvapconfig list, in its order. Raises DocumentError with everything that is wrong in it."""
    _, findings = examine(document, PvapconfigList)
    entries = document.tree if isinstance(document.tree, list) else []
    readers = [
        _Entry(document, number, entry) for number, entry in enumerate(entries) if isinstance(entry, dict)
    ]
    compiled = [reader.rule() for reader in readers]
    found = [*findings, *(finding for reader in readers for finding in reader.findings)]
    if found:
        raise DocumentError(ordered(found))
    return tuple(rule for rule in compiled if rule is not None)


class _Entry:
    """One entry on its way to a rule; notes what is wrong and goes on."""

    def __init__(self, document: Document, number: int, entry: Mapping[str, object]) -> None:
        self.findings: list[Finding] = []
        self._document = document
        self._number = number
        self._entry = entry

    def rule(self) -> Rule | None:
        """The entry's rule; None where findings were noted, or where its keys are not even text."""
        mode = self._mode()
        if mode is None:
            return None
        hsm = self._ep11() if mode == "ep11" else Pattern("accel", generation=self._mingen("accel"))
        secret = self._secret() if mode == "ep11" else None
        if hsm is None or (mode == "ep11" and secret is None):
            return None
        name = self._text("name") or f"entry {self._number + 1}"
        line, column = self._document.place((self._number,))
        return Rule(name, hsm, secret, 1, line, column)

    def _mode(self) -> Literal["ep11", "accel"] | None:
        text = self._text("mode")
        mode = _MODES.get(text.lower())
        if mode is None:
            self._note_required("mode", expected_words(text, ("EP11", "Accel")))
        return mode

    def _ep11(self) -> Pattern | None:
        mkvp = self._optional("mkvp", lambda text: fields.mkvp(_digits(text)))
        if not self._text("mkvp"):
            self._note_required("mkvp", "expected 32 or 64 hex digits for an EP11 entry, found an empty text")
        serial = self._optional("serialnr", fields.serial)
        generation = self._mingen("ep11")
        return None if mkvp is None else Pattern("ep11", mkvp, serial, generation)

    def _mingen(self, mode: Literal["ep11", "accel"]) -> Interval[int] | None:
        generation = self._optional("mingen", fields.generation)
        if generation is None:
            return None
        if mode == "ep11" and generation != NEWEST_GENERATION:
            newest = generation_name(NEWEST_GENERATION)
            self._note(
                "mingen",
                f"expected `{newest}`, the only generation for EP11, found {shown(self._text('mingen'))}",
            )
        return Interval(generation, None)

    def _secret(self) -> Secret | None:
        name = self._text("name")
        given = self._optional("secretid", lambda text: fields.secret_id(_digits(text)))
        if not name:
            if (
                not self._text("secretid")
                and not self._unreadable("secretid")
                and not self._unreadable("name")
            ):
                self._note(None, "one of the keys `name` and `secretid` is needed in an EP11 entry")
            return None if given is None else Secret(given)
        return self._agreed(name, given)

    def _agreed(self, name: str, given: SecretId | None) -> Secret:
        computed = secret_id(name)
        if given is not None and given != computed:
            self._note(
                "secretid",
                f"differs from the id of {shown(name)}, which is `{computed.hex()}`; drop one of them",
            )
        return Secret(computed, name)

    def _text(self, key: str) -> str:
        value = self._entry.get(key)
        return str(value).strip(BLANKS) if isinstance(value, str) else ""

    def _unreadable(self, key: str) -> bool:
        """The key holds something that is no text, which has its finding already."""
        return key in self._entry and not isinstance(self._entry[key], str)

    def _optional(self, key: str, read: Callable[[str], V]) -> V | None:
        text = self._text(key)
        if not text:
            return None
        try:
            return read(text)
        except ValueError as error:
            self._note(key, str(error))
            return None

    def _note_required(self, key: str, wrong: str) -> None:
        """Say that a key which must be there is missing, or what is wrong with it if nobody has said so."""
        if key not in self._entry:
            self._note(key, f"the key `{key}` is missing")
        elif not self._unreadable(key):
            self._note(key, wrong)

    def _note(self, key: str | None, message: str) -> None:
        path = (self._number,) if key is None else (self._number, key)
        words = f"{key}: {message}" if key in self._entry else message
        self.findings.append(self._document.finding(path, words))


def _digits(text: str) -> str:
    """Hex digits as `fields` takes them: that program makes them lower case before it looks for `0x`."""
    return f"0x{text[2:]}" if text.startswith("0X") else text
