"""How mechanisms are shown: on the way from the module to an application, where does one get lost, and what helps?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from keyvisor_guest.cli.options import show
from keyvisor_guest.client_release import carries, verdict
from keyvisor_guest.wire.client_releases import since
from keyvisor_guest.wire.messages import Mechanism

__all__ = ["show_mechanisms"]

Found = Mapping[str, Sequence[Mechanism]]  # by APQN

_COLUMNS = ("mechanism", "the module has it", "policy allows it", "this client carries it")


def show_mechanisms(found: Found, release: str, *, as_json: bool) -> None:
    """Print what the HSMs can do and what of it a client of `release` lets through, as a table or as JSON."""
    show(_value(found, release), _COLUMNS, list(_rows(found, release)), as_json=as_json)
    if not as_json:
        print(_summary(found, release))


def _rows(found: Found, release: str) -> Iterator[tuple[str, str, str, str]]:
    for type_, name in sorted(_names(found).items()):
        having = [apqn for apqn, mechanisms in found.items() if _of(mechanisms, type_)]
        allowed = [apqn for apqn in having for one in _of(found[apqn], type_) if one.allowed]
        yield name, _where(having, found), _where(allowed, found), verdict(type_, release)


def _of(mechanisms: Sequence[Mechanism], type_: int) -> list[Mechanism]:
    return [one for one in mechanisms if one.type == type_]


def _names(found: Found) -> dict[int, str]:
    return {one.type: one.name for mechanisms in found.values() for one in mechanisms}


def _where(apqns: Sequence[str], found: Found) -> str:
    if not apqns:
        return "no"
    return "yes" if len(apqns) == len(found) else f"only {', '.join(apqns)}"


def _summary(found: Found, release: str) -> str:
    types = _names(found)
    if release == "unknown":
        return f"{len(types)} mechanisms; of which release this client is cannot be told, so neither what it carries"
    lost = [type_ for type_ in types if not carries(type_, release)]
    later = sum(since(type_) is not None for type_ in lost)
    return (
        f"{len(types)} mechanisms; this client (release {release}) carries {len(types) - len(lost)}: "
        f"a later release carries {later} more, no release the other {len(lost) - later}"
    )


def _value(found: Found, release: str) -> dict[str, object]:
    return {
        "client": release,
        "hsms": [
            {"apqn": apqn, "mechanisms": [_mechanism(one, release) for one in mechanisms]}
            for apqn, mechanisms in found.items()
        ],
    }


def _mechanism(one: Mechanism, release: str) -> dict[str, object]:
    return {**one.model_dump(mode="json"), "carried": carries(one.type, release), "since": since(one.type)}
