"""The thin rows of an image's layers as metadata of a thin pool, in the XML that `thin_restore` 0.9 reads.

Device i is the volume after layer i, a snapshot of device i-1; a pool block is a cluster of 64 KiB. Needs no key: who
carries an image may put its layers' clusters in a pool, and has ciphertext in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.thin import Mapping, ThinRows, device_mapping

__all__ = ["thin_xml"]

_SECTORS: Final = 128  # of 512 bytes, in a pool block


def thin_xml(layers: Sequence[ThinRows]) -> Iterator[str]:
    """The metadata, line by line. `layers`: bottom first. Raises ImageRefused where they do not go on from each other."""
    pool = 0
    for number, layer in enumerate(layers):
        if layer.pool_first != pool:
            raise ImageRefused(
                f"the thin rows of layer {number} do not go on where those below end: pull the image again",
                Refusal.CHAIN,
            )
        pool = layer.pool_end
    return _lines(layers, pool)


def _lines(layers: Sequence[ThinRows], pool: int) -> Iterator[str]:
    yield (
        f'<superblock uuid="" time="{len(layers)}" transaction="{len(layers)}" flags="0" version="2"'
        f' data_block_size="{_SECTORS}" nr_data_blocks="{pool}">'
    )
    for layer in range(len(layers)):
        yield from _device(layer, layers)
    yield "</superblock>"


def _device(layer: int, layers: Sequence[ThinRows]) -> Iterator[str]:
    rows = device_mapping(layers[: layer + 1])
    # A device is made a transaction and a moment after the one that it is a snapshot of.
    yield (
        f'  <device dev_id="{layer}" mapped_blocks="{sum(row.count for row in rows)}" transaction="{layer}"'
        f' creation_time="{layer}" snap_time="{layer}">'
    )
    for row in rows:
        yield from _mapping(row, _origin(row, layers))
    yield "  </device>"


def _mapping(row: Mapping, time: int) -> Iterator[str]:
    if row.count == 1:
        yield f'    <single_mapping origin_block="{row.virtual}" data_block="{row.pool}" time="{time}"/>'
    else:
        yield (
            f'    <range_mapping origin_begin="{row.virtual}" data_begin="{row.pool}" length="{row.count}"'
            f' time="{time}"/>'
        )


def _origin(row: Mapping, layers: Sequence[ThinRows]) -> int:
    """The layer that the row's clusters came with."""
    return next(number for number, layer in enumerate(layers) if row.pool < layer.pool_end)
