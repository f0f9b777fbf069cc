"""The tables of the section `containers`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bench.cipher_speeds import IN_PYTHON_ONLY, OPENSSL, OPENSSL_AEAD
from bench.figures import ratios, spread
from bench.run import Figures
from bench.table import Table

_MEGA: Final = 1e6
_MILLISECONDS: Final = 1e3

_SPEEDS: Final = {
    OPENSSL: "`openssl speed -evp aes-256-gcm`: one context, no nonce, no tag",
    OPENSSL_AEAD: "the same with `-aead`: a nonce and a tag for each",
    "gcm seal": "AES-256-GCM, sealed",
    "gcm open": "AES-256-GCM, opened",
    "xts seal": "AES-256-XTS with a digest, sealed",
    "xts open": "AES-256-XTS with a digest, opened",
    f"gcm seal{IN_PYTHON_ONLY}": "without a compiler: AES-256-GCM, sealed",
    f"gcm open{IN_PYTHON_ONLY}": "without a compiler: AES-256-GCM, opened",
    f"xts seal{IN_PYTHON_ONLY}": "without a compiler: AES-256-XTS with a digest, sealed",
    f"xts open{IN_PYTHON_ONLY}": "without a compiler: AES-256-XTS with a digest, opened",
    "sha256": "SHA-256 of 256 KiB, as each blob has one",
}
# Step, what it is, and which of the image's bytes it handles.
_STEPS: Final = {
    "measure": ("read and hash the layers' tars, to size the volume", "tars"),
    "ext4": ("the tars once more, into ext4 (mke2fs, libext2fs)", "tars"),
    "fsck": ("`e2fsck -f` of each layer's volume", "tars"),
    "copy": ("copy the volume for the next layer", "tars"),
    "diff": ("compare each volume with the one below", "tars"),
    "encrypt": ("read the changed blocks, seal, hash and store them", "data"),
}


def container_tables(figures: Figures, _method: Figures) -> Iterator[Table]:
    """Blocks in memory, steps by size, opening by size, and growth with layers."""
    yield _speeds(figures["speeds"])
    yield _steps(figures["sizes"])
    yield _opening("size", " MiB", figures["sizes"])
    yield _opening("layers", "", figures["layers"])


def _speeds(figures: Figures) -> Table:
    return Table(
        "Containers: blocks of 4 KiB in memory",
        "One thread, MB/s; ratios to `openssl speed` are taken round by round. Its libcrypto is the system's, which runs of"
        " blocks go through where there is a C compiler; without one it is a call of `cryptography`, which brings its own, for"
        " each block. What `openssl speed` has not: a nonce and additional data for each block, and a copy in opening.",
        ("what", "MB/s", "to `openssl speed`"),
        tuple(
            (
                shown,
                _spread(figures[name]),
                "" if name == OPENSSL else _ratio(figures[name], figures[OPENSSL]),
            )
            for name, shown in _SPEEDS.items()
        ),
    )


def _steps(sizes: Figures) -> Table:
    rows = [
        (f"{shown}, MB/s", *(_rate(one[counted], one["seconds"].get(step, 0.0)) for one in sizes.values()))
        for step, (shown, counted) in _STEPS.items()
    ]
    rows += [
        (
            "the whole build, MB/s",
            *(_rate(one["tars"], sum(one["seconds"].values())) for one in sizes.values()),
        ),
        ("`cp` of the largest blob, MB/s", *(f"{one['cp']:,.0f}" for one in sizes.values())),
        ("seal, hash and store: to `cp`", *(f"{_encrypted(one) / one['cp']:.2f}" for one in sizes.values())),
        ("all blocks read and verified, MB/s", *(_rates(one, "read") for one in sizes.values())),
        ("`verify`: all blocks and blobs, MB/s", *(_rates(one, "verify") for one in sizes.values())),
        ("read: to `cp`", *(f"{_read(one) / one['cp']:.2f}" for one in sizes.values())),
    ]
    return Table(
        "Containers: an image built, step by step",
        "Four layers, half noise and half text files; everything encrypted. MB/s of the tars' bytes, from `seal` on of the"
        " stored blocks. What is written is in the page cache, as with `cp`.",
        ("step", *(f"{size} MiB" for size in sizes)),
        tuple(rows),
    )


def _opening(what: str, unit: str, by: Figures) -> Table:
    def row(shown: str, cells: Iterator[str]) -> tuple[str, ...]:
        return shown, *cells

    found = list(by.values())
    return Table(
        f"Containers: growth in {what}",
        "Medians with the least and the most of the rounds. Opening reads and verifies maps, tags, config and root,"
        " and no block: so it grows with 0.4 % of the data, which are the tags, and with the number of layers.",
        ("what", *(f"{name}{unit}" for name in by)),
        (
            row("tars, MB", (_mega(one["tars"]) for one in found)),
            row("stored blocks, MB", (_mega(one["data"]) for one in found)),
            row("tags, kB", (f"{one['tags'] / 1e3:,.0f}" for one in found)),
            row("maps, kB", (f"{one['map'] / 1e3:,.1f}" for one in found)),
            row("build, s", (f"{sum(one['seconds'].values()):,.1f}" for one in found)),
            row("open, ms", (_times(one["open"]) for one in found)),
            row("open and read the first file, ms", (_times(one["first file"]) for one in found)),
            row("blocks opened for it, %", (f"{100 * one['opened'] / one['stored']:.3f}" for one in found)),
            row("all blocks, ms", (_times(one["read"]) for one in found)),
            row("first file: times sooner than all", (_sooner(one) for one in found)),
        ),
    )


def _encrypted(one: Figures) -> float:
    return float(one["data"] / one["seconds"]["encrypt"] / _MEGA)


def _read(one: Figures) -> float:
    return float(one["stored"] * 4096 / spread(one["read"]).median / _MEGA)


def _sooner(one: Figures) -> str:
    return f"{spread(one['read']).median / spread(one['first file']).median:,.0f}"


def _rate(count: float, seconds: float) -> str:
    return f"{count / seconds / _MEGA:,.0f}" if seconds else ""


def _rates(one: Figures, name: str) -> str:
    return _spread([one["stored"] * 4096 / seconds / _MEGA for seconds in one[name]])


def _mega(count: float) -> str:
    return f"{count / _MEGA:,.0f}"


def _times(seconds: Sequence[float]) -> str:
    found = spread([one * _MILLISECONDS for one in seconds])
    digits = 1 if found.median < 100 else 0
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f}-{found.most:,.{digits}f})"


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found.median:,.0f} ({found.least:,.0f}-{found.most:,.0f})"


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    found = ratios(ours, theirs)
    return f"{found.median:.2f} ({found.least:.2f}-{found.most:.2f})"
