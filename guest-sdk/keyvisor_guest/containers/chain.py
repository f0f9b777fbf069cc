"""The chain of an image's layer maps: the trusted set that a reader works from.

Maps enter bottom up through `Chain.add`, which takes one only if

1. it is the only spelling of a map that makes sense (`layer_map`),
2. its MAC is of the key's meta key for the image that it names,
3. it is of the same image, version and volume as the maps below, and counted on from them,
4. its `prev` is the hash of the map below, and its thin rows go on where those below end.

`Chain.close` then takes the whole only if root, config and version are what the owner put together, and what the key was
released for. Before that nothing of the image is used. Knows no blob and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.keys import ImageId, VolumeKey, macs_equal
from keyvisor_guest.containers.layer_map import NO_LAYER_BELOW, LayerMap, LayerPlan, image_root, parse_map
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits

__all__ = ["Chain", "Demand", "ExactImage", "InsecureAnyImage", "MinimumVersion"]


@dataclass(frozen=True, slots=True)
class ExactImage:
    """The key was released for this image only. `root`: its image root, 32 bytes."""

    root: bytes


@dataclass(frozen=True, slots=True)
class MinimumVersion:
    """The key was released for this image id in this version or a later one.

    The id belongs to it: owners may have several images under one key, and a host would exchange them.
    """

    version: int
    image: ImageId


@dataclass(frozen=True, slots=True)
class InsecureAnyImage:
    """Whatever the key opens. A host can then run an older image than the latest, and nothing shows it."""


Demand: TypeAlias = ExactImage | MinimumVersion | InsecureAnyImage


class Chain:
    """See the module. `maps`: those taken so far."""

    def __init__(self, key: VolumeKey, limits: Limits = DEFAULT_LIMITS) -> None:
        self._key = key
        self._limits = limits
        self._last = NO_LAYER_BELOW
        self.maps: list[LayerMap] = []

    def add(self, data: bytes) -> LayerMap:
        """Take the next map, from its bytes. Raises ImageRefused."""
        if len(self.maps) >= self._limits.layers:
            raise ImageRefused(f"an image has at most {self._limits.layers} layers", Refusal.LIMIT)
        signed = parse_map(data, self._limits)
        signed.verify(self._key.meta_key(signed.map.plan.image))
        self._check_place(signed.map.plan)
        if signed.map.thin.pool_first != (self.maps[-1].thin.pool_end if self.maps else 0):
            raise _broken("a layer's thin rows do not go on where those below end")
        self.maps.append(signed.map)
        self._last = signed.digest
        return signed.map

    def close(self, config: bytes, claimed_root: bytes, demand: Demand) -> bytes:
        """The image root, if all is as it should be. `config`: SHA-256 of the config. Raises ImageRefused."""
        if not self.maps:
            raise _broken("the image has no layers")
        plan = self.maps[-1].plan
        root = image_root(self._key.image_key(plan.image), self._last, config, plan.version)
        if not macs_equal(root, claimed_root):
            raise ImageRefused(
                "layers or config are not those that the image's owner put together: pull the image again",
                Refusal.IMAGE_ROOT,
            )
        _check_demand(demand, root, plan)
        return root

    def _check_place(self, plan: LayerPlan) -> None:
        if plan.layer != len(self.maps):
            raise _broken(f"layer {plan.layer} stands where layer {len(self.maps)} should be")
        if not macs_equal(plan.prev, self._last):
            raise _broken(f"layer {plan.layer} was not built on the layer below it")
        if not self.maps:
            return
        first = self.maps[0].plan
        if (plan.image, plan.version, plan.volume_blocks) != (
            first.image,
            first.version,
            first.volume_blocks,
        ):
            raise _broken(f"layer {plan.layer} is of another image, version or volume than the layers below")


def _check_demand(demand: Demand, root: bytes, plan: LayerPlan) -> None:
    match demand:
        case ExactImage(wanted):
            if not macs_equal(wanted, root):
                raise ImageRefused(
                    "the key was released for another image than this one: pull that, or have the owner release"
                    f" the key for the root {root.hex()}",
                    Refusal.OTHER_IMAGE,
                )
        case MinimumVersion(version, image):
            if plan.image != image:
                raise ImageRefused(
                    f"the key was released for the image {image.hex()}, this is {plan.image.hex()}: pull that",
                    Refusal.OTHER_IMAGE,
                )
            if plan.version < version:
                raise ImageRefused(
                    f"this is version {plan.version}, and the key was released for {version} and later: pull a later one",
                    Refusal.TOO_OLD,
                )
        case InsecureAnyImage():
            pass


def _broken(what: str) -> ImageRefused:
    return ImageRefused(f"{what}: pull the image again", Refusal.CHAIN)
