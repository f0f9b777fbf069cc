"""What is released to a guest: an image's volume key, and for which image it is good. One secret carries both.

The key alone would let a host run any image of this key's, older ones included; so a release always says either the image
root or an image id with the least version. Canonical JSON, so that firmware, HSM and JWE carry the same bytes. Knows no door.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from keyvisor_guest.containers import canonical_json
from keyvisor_guest.containers.chain import ExactImage, MinimumVersion
from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.keys import IMAGE_ID_LENGTH, VOLUME_KEY_LENGTH, ImageId, VolumeKey

__all__ = ["MAX_RELEASE", "Release", "parse_release", "release_bytes", "released_for"]

MAX_RELEASE: Final = 512  # bytes
_ROOT_LENGTH: Final = 32
_EXACT: Final = frozenset({"volumeKey", "imageRoot"})
_MINIMUM: Final = frozenset({"volumeKey", "image", "minVersion"})

_Demand: TypeAlias = ExactImage | MinimumVersion


@dataclass(frozen=True, slots=True)
class Release:
    """A volume key and what it was released for."""

    key: VolumeKey
    demand: _Demand


def release_bytes(release: Release) -> bytes:
    """The release as a secret carries it. These bytes are secret."""
    members: dict[str, Any] = {"volumeKey": release.key.reveal().hex()}
    match release.demand:
        case ExactImage(root):
            members["imageRoot"] = root.hex()
        case MinimumVersion(version, image):
            members |= {"image": image.hex(), "minVersion": version}
    return canonical_json.encode(members)


def parse_release(data: bytes) -> Release:
    """A release from a secret's bytes. Raises KeyRefused, and says nothing of what the bytes are."""
    try:
        members: Any = canonical_json.decode(data[: MAX_RELEASE + 1])
        key = VolumeKey(_hex(members, "volumeKey", VOLUME_KEY_LENGTH))
        if members.keys() == _EXACT:
            return Release(key, ExactImage(_hex(members, "imageRoot", _ROOT_LENGTH)))
        if members.keys() == _MINIMUM and type(members["minVersion"]) is int:
            image = ImageId(_hex(members, "image", IMAGE_ID_LENGTH))
            return Release(key, MinimumVersion(members["minVersion"], image))
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise KeyRefused(
        "this secret carries no volume key with an image root or a least version: let the image's owner add it again"
    ) from None


def released_for(release: Release, exact: ExactImage | None) -> Release:
    """The release, if it is good for the root where one is said. Raises KeyRefused."""
    if exact is not None and release.demand != exact:
        raise KeyRefused(
            "the key was released for something else than `--root` names: leave `--root` out, or name another key"
        )
    return release


def _hex(members: Any, name: str, length: int) -> bytes:
    text = members[name]
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text, re.ASCII):
        raise ValueError("not bytes in hex")
    return bytes.fromhex(text)
