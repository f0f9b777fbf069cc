"""A layer's map: which blocks of the volume its blobs hold, in clear and authenticated (secure-containers, 6.1).

Anybody can read it and put the volume's ciphertext in order; only its owner can write it: it ends in a MAC under the
image's meta key, and names the map below by its hash. The bytes are canonical JSON, numbers and hex only.
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from keyvisor_guest.containers import canonical_json
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.keys import IMAGE_ID_LENGTH, SALT_LENGTH, ImageId, mac, macs_equal
from keyvisor_guest.containers.limits import BLOCK, DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.digests import Digest, parse_digest
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.runs import Runs, are_disjoint, blocks_in, check_runs
from keyvisor_guest.containers.thin import ThinRows, rows_for

__all__ = [
    "NO_LAYER_BELOW",
    "Cipher",
    "LayerMap",
    "LayerPlan",
    "SignedMap",
    "image_root",
    "parse_map",
    "sign_map",
]

NO_LAYER_BELOW: Final = bytes(32)  # `prev` of layer 0
_MAC_LENGTH: Final = 32
_MAX_BLOCKS: Final = 1 << 32  # ext4 without 64bit
_SOURCE: Final = re.compile(r"(hmac-)?sha256:[0-9a-f]{64}", re.ASCII)


class Cipher(enum.StrEnum):
    """How a layer's blocks are protected. Values are those of the map."""

    GCM = "aes-256-gcm"
    XTS = "aes-256-xts"  # with a hash tree over the ciphertext, whose root is in the map
    CLEAR = "none+hmac"  # readable by everybody, and authentic


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """All of a map that is known before a block is encrypted. `version` is the owner's number for the whole image."""

    version: int
    image: ImageId
    layer: int
    volume_blocks: int
    cipher: Cipher
    extents: Runs  # in the order of the data blob
    zero: Runs
    prev: bytes  # SHA-256 of the map below, 32 bytes

    def members(self) -> dict[str, Any]:
        """The plan as the map spells it."""
        return {
            "version": self.version,
            "image": self.image.hex(),
            "layer": self.layer,
            "blockSize": BLOCK,
            "volumeBlocks": self.volume_blocks,
            "cipher": str(self.cipher),
            "extents": _lists(self.extents),
            "zero": _lists(self.zero),
            "prev": self.prev.hex(),
        }

    def spelled(self) -> bytes:
        """Canonical JSON of the plan: what a reproducible salt covers beside the content."""
        return canonical_json.encode(self.members())


@dataclass(frozen=True, slots=True)
class LayerMap:
    """A whole map, without its MAC. `plain_diff_id` names the source layer: its diff id where the layer is in clear,
    else a MAC of that, since a hash would tell whoever guesses the content that the guess is right."""

    plan: LayerPlan
    salt: bytes
    data: Digest
    tags: Digest
    tags_size: int
    root: bytes | None  # of the hash tree, XTS only
    plain_diff_id: str
    thin: ThinRows

    @property
    def data_blocks(self) -> int:
        """How many blocks the data blob has."""
        return blocks_in(self.plan.extents)

    def members(self) -> dict[str, Any]:
        """The map as it is spelled, without its MAC."""
        thin = [[row.virtual, row.pool, row.count] for row in self.thin.rows]
        members = self.plan.members() | {
            "salt": self.salt.hex(),
            "data": {"digest": self.data, "blocks": self.data_blocks},
            "tags": {"digest": self.tags, "size": self.tags_size},
            "plain_diff_id": self.plain_diff_id,
            "thin": {"first": self.thin.pool_first, "rows": thin, "unmapped": _lists(self.thin.unmapped)},
        }
        if self.root is not None:
            members["root"] = self.root.hex()
        return members


@dataclass(frozen=True, slots=True)
class SignedMap:
    """A map as it came: well formed, and not yet known to be its owner's."""

    map: LayerMap
    mac: bytes
    digest: bytes  # SHA-256 over all of its bytes, MAC included: `prev` of the map above

    def verify(self, meta_key: bytes) -> None:
        """Raises ImageRefused where the MAC is not of this key and these members."""
        if not macs_equal(mac(meta_key, canonical_json.encode(self.map.members())), self.mac):
            raise ImageRefused(
                f"the map of layer {self.map.plan.layer} was changed, or the key is not this image's:"
                " pull the image again, or name its own key",
                Refusal.MAP_MAC,
            )


def sign_map(unsigned: LayerMap, meta_key: bytes) -> bytes:
    """The map's bytes, as they are stored."""
    members = unsigned.members()
    members["mac"] = mac(meta_key, canonical_json.encode(members)).hex()
    return canonical_json.encode(members)


def image_root(image_key: bytes, last_map: bytes, config: bytes, version: int) -> bytes:
    """32 bytes that stand for the whole image: `last_map` and `config` are SHA-256 hashes, 32 bytes each.

    HMAC(image key, last map ‖ config ‖ u64 version): the last map names all below it.
    """
    return mac(image_key, last_map + config + version.to_bytes(8, "big"))


def parse_map(data: bytes, limits: Limits = DEFAULT_LIMITS) -> SignedMap:
    """A map from its bytes. Raises ImageRefused for all but the one spelling of a map that makes sense."""
    if len(data) > limits.map_json:
        raise ImageRefused(
            f"a layer map has {len(data)} bytes, at most {limits.map_json} are read", Refusal.LIMIT
        )
    try:
        members = canonical_json.decode(data)
        tag = _hex(_take(members, "mac"), _MAC_LENGTH)
        parsed = _read(members)
        _check_spelling(parsed, tag, data)
    except (ValueError, TypeError, KeyError) as error:
        raise ImageRefused(
            f"a layer map is not one: {error}; pull the image again", Refusal.MALFORMED
        ) from error
    if not 0 <= parsed.plan.layer < limits.layers:
        raise ImageRefused(
            f"layer {parsed.plan.layer}: an image has at most {limits.layers} layers", Refusal.LIMIT
        )
    return SignedMap(parsed, tag, hashlib.sha256(data).digest())


def _read(members: dict[str, Any]) -> LayerMap:
    if _number(_take(members, "blockSize")) != BLOCK:
        raise ValueError(f"its blocks do not have {BLOCK} bytes")
    plan = LayerPlan(
        version=_number(_take(members, "version")),
        image=ImageId(_hex(_take(members, "image"), IMAGE_ID_LENGTH)),
        layer=_number(_take(members, "layer")),
        volume_blocks=_number(_take(members, "volumeBlocks")),
        cipher=Cipher(_take(members, "cipher")),
        extents=_runs(_take(members, "extents")),
        zero=_runs(_take(members, "zero")),
        prev=_hex(_take(members, "prev"), _MAC_LENGTH),
    )
    _check_plan(plan)
    data, tags, thin = (_take(members, name) for name in ("data", "tags", "thin"))
    root = _hex(_take(members, "root"), 32) if plan.cipher is Cipher.XTS else None
    result = LayerMap(
        plan=plan,
        salt=_hex(_take(members, "salt"), SALT_LENGTH),
        data=parse_digest(_take(data, "digest")),
        tags=parse_digest(_take(tags, "digest")),
        tags_size=_number(_take(tags, "size")),
        root=root,
        plain_diff_id=_source(_take(members, "plain_diff_id")),
        thin=rows_for(plan.extents, plan.zero, _number(_take(thin, "first"))),
    )
    if _number(_take(data, "blocks")) != result.data_blocks:
        raise ValueError("its runs and its data do not have the same number of blocks")
    if thin != {key: result.members()["thin"][key] for key in ("rows", "unmapped")}:
        raise ValueError("its thin rows are not those of its runs")
    for left, where in ((members, "it"), (data, "its data"), (tags, "its tags")):
        if left:
            raise ValueError(f"{where} has a member {quoted(min(left))}, which is unknown")
    return result


def _check_spelling(parsed: LayerMap, tag: bytes, data: bytes) -> None:
    """What is read is what would be written: a `true` for a 1 has another hash under the same MAC."""
    if canonical_json.encode(parsed.members() | {"mac": tag.hex()}) != data:
        raise ValueError("a member is of another type than it is written with")


def _check_plan(plan: LayerPlan) -> None:
    if not 0 < plan.volume_blocks < _MAX_BLOCKS:
        raise ValueError(f"a volume has 1 to {_MAX_BLOCKS - 1} blocks")
    check_runs(plan.extents, plan.volume_blocks)
    check_runs(plan.zero, plan.volume_blocks)
    if not are_disjoint(plan.extents, plan.zero):
        raise ValueError("a block is both stored and zero")


def _lists(runs: Runs) -> list[list[int]]:
    return [[first, count] for first, count in runs]


def _take(members: Any, name: str) -> Any:
    if not isinstance(members, dict):
        raise TypeError(f"where `{name}` should be, there is no object")
    if name not in members:
        raise ValueError(f"it has no `{name}`")
    return members.pop(name)


def _number(value: Any) -> int:
    if type(value) is not int:  # a bool is an int too, and no number here
        raise TypeError("where a number should be, there is none")
    return value


def _hex(value: Any, length: int) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value, re.ASCII):
        raise ValueError(f"where {length} bytes in lower-case hex should be, there are none")
    return bytes.fromhex(value)


def _runs(value: Any) -> Runs:
    if not isinstance(value, list):
        raise TypeError("where runs should be, there is no list")
    runs = []
    for one in value:
        if not isinstance(one, list) or len(one) != 2:
            raise ValueError("a run is a first block and a count")
        runs.append((_number(one[0]), _number(one[1])))
    return tuple(runs)


def _source(value: Any) -> str:
    if not isinstance(value, str) or not _SOURCE.fullmatch(value):
        raise ValueError("its `plain_diff_id` names no source")
    return value
