"""Small random worlds for tests about pvapconfig: lists as texts, HSMs of few kinds, what they are to the guest."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from keyvisor_policy import Holding, Hsm, SecretId, secret_id

KEYS = (b"\x11" * 16, b"\x22" * 16)
SERIALS = ("93AADFK719460083", "93aadhzu42082261")
NAMES = ("a", "b")
IDS = tuple(secret_id(name) for name in NAMES)

_optional_generation = st.sampled_from([None, "CEX6", "CEX7", "cex8"])

ep11_entries = st.fixed_dictionaries(
    {
        "mode": st.just("EP11"),
        "name": st.sampled_from(NAMES),
        "mkvp": st.sampled_from([key.hex() for key in KEYS]),
    },
    optional={"serialnr": st.sampled_from(SERIALS), "mingen": st.just("CEX8")},
)
accel_entries = st.fixed_dictionaries(
    {"mode": st.just("Accel")}, optional={"mingen": st.sampled_from(["CEX6", "CEX7", "cex8"])}
)
entry_lists = st.lists(st.one_of(ep11_entries, accel_entries), max_size=4)


@st.composite
def hsm_lists(draw: st.DrawFn, largest: int = 5) -> list[Hsm]:
    apqns = [f"{card:02x}.{domain:04x}" for card in (3, 4, 5) for domain in (1, 2)]
    chosen = draw(st.lists(st.sampled_from(apqns), max_size=largest, unique=True))
    return [
        Hsm(
            apqn,
            draw(st.sampled_from(["ep11", "ep11", "accel", "cca"])),
            draw(st.integers(6, 8)),
            draw(st.sampled_from(SERIALS)),
            draw(st.sampled_from([*KEYS, None])),
            online=draw(st.sampled_from([True, True, True, False])),
        )
        for apqn in chosen
    ]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, str]], list[Hsm], set[SecretId], dict[str, Holding]]:
    """Entries, HSMs, the secrets that the guest holds, and what the HSMs are to it."""
    hsms = draw(hsm_lists())
    states = [None, Holding(), Holding(IDS[0]), Holding(IDS[1]), Holding(IDS[0], stuck=True)]
    current = {hsm.apqn: draw(st.sampled_from(states if hsm.mode == "ep11" else states[:2])) for hsm in hsms}
    return (
        draw(entry_lists),
        hsms,
        draw(st.sets(st.sampled_from(IDS))),
        {apqn: now for apqn, now in current.items() if now is not None},
    )


def as_file(entries: list[dict[str, Any]]) -> str:
    """The entries as a pvapconfig file, every value in quotes."""
    listed = (", ".join(f"{key}: {_quoted(value)}" for key, value in entry.items()) for entry in entries)
    return "\n".join(f"- {{{entry}}}" for entry in listed) or "[]"


def _quoted(text: str) -> str:
    escaped = (one if one.isprintable() and one not in '"\\' else f"\\U{ord(one):08x}" for one in text)
    return f'"{"".join(escaped)}"'
