"""Images as their owner builds them: the file tree packed, the policy checked, every random value drawn.

The format is `keyvisor_guest.wire.se_image`. Talks to no host: what it makes is handed over as a file.
"""

from __future__ import annotations

import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

import keyvisor_policy
from keyvisor_guest.file_tree import read_tree
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.guest_file import opens_after_lock
from keyvisor_guest.wire.initrd import POLICY_PATHS, Entry, find_guest_file, find_policy, pack, unpack
from keyvisor_guest.wire.key_slots import KEY_LENGTH
from keyvisor_guest.wire.messages import MAX_IMAGE, MAX_POLICY
from keyvisor_guest.wire.se_header import (
    DEFAULT_PCF,
    HEADER_IV_LENGTH,
    IMAGE_KEY_LENGTH,
    HeaderKeys,
    HeaderSecrets,
)
from keyvisor_guest.wire.se_image import ImageDraft, ImageKeys, build_image, identity_of, stage3b_address
from keyvisor_guest.wire.se_pages import ComponentKind
from keyvisor_guest.wire.secret_ids import CCK_LENGTH

__all__ = ["Image", "ImageParts", "build"]

# A guest starts in the 64-bit addressing mode (z/Architecture Principles of Operation, PSW bits 31 and 32).
_PSW_MASK: Final = 0x0000000180000000
_TWEAK_LENGTH: Final = 6


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is ready to be handed over: `data` is the file."""

    data: bytes = field(repr=False)
    identity: BootIdentity
    _cck: bytes = field(repr=False)

    def reveal_cck(self) -> bytes:
        """The customer communication key in clear, 32 bytes: to derive extension secrets from."""
        return self._cck


@dataclass(frozen=True, slots=True)
class ImageParts:
    """What an image is made of. A ramdisk is given ready, or packed from `root` and `policy`.

    `policy` is the text that stands at /etc/keyvisor/policy.yaml, `policy_source` what findings in it begin with.
    """

    kernel: bytes | None = field(default=None, repr=False)
    ramdisk: bytes | None = field(default=None, repr=False)
    root: Path | None = None
    policy: bytes | None = field(default=None, repr=False)
    policy_source: str = "policy"
    cmdline: str | None = field(default=None, repr=False)


def build(
    parts: ImageParts,
    host_keys: Sequence[ec.EllipticCurvePublicKey],
    *,
    cck: bytes | None = None,
    scf: int = 0,
    pcf: int = DEFAULT_PCF,
) -> Image:
    """The image that each of `host_keys` can start. Raises Unbuildable, OSError, keyvisor_policy's DocumentError."""
    components = _components(parts)
    key = secrets.token_bytes(CCK_LENGTH) if cck is None else cck
    kept = HeaderSecrets(
        cck=key,
        image_key=secrets.token_bytes(IMAGE_KEY_LENGTH),
        psw_mask=_PSW_MASK,
        psw_address=stage3b_address(components),
        scf=scf,
    )
    data = build_image(ImageDraft(components, kept, pcf), _fresh_keys(), host_keys)
    if len(data) > MAX_IMAGE:
        raise Unbuildable(
            f"the image has {len(data)} bytes, and a firmware takes {MAX_IMAGE}: leave files out"
        )
    return Image(data, identity_of(data), key)


def _fresh_keys() -> ImageKeys:
    header = HeaderKeys(
        ec.generate_private_key(ec.SECP521R1()),
        secrets.token_bytes(KEY_LENGTH),
        secrets.token_bytes(HEADER_IV_LENGTH),
    )
    return ImageKeys(header, {kind: secrets.token_bytes(_TWEAK_LENGTH) for kind in ComponentKind})


def _components(parts: ImageParts) -> Mapping[ComponentKind, bytes]:
    given = {
        ComponentKind.KERNEL: parts.kernel,
        ComponentKind.CMDLINE: _cmdline(parts.cmdline),
        ComponentKind.RAMDISK: _ramdisk(parts),
    }
    return {kind: content for kind, content in given.items() if content is not None}


def _cmdline(text: str | None) -> bytes | None:
    if text is None:
        return None
    if "\x00" in text or not text.strip():
        raise Unbuildable("a command line is text without NUL, and not empty: leave it out if there is none")
    return text.encode() + b"\x00"


def _ramdisk(parts: ImageParts) -> bytes | None:
    if parts.ramdisk is not None:
        if parts.root is not None or parts.policy is not None:
            raise Unbuildable(
                "a ramdisk is given ready or packed from a file tree and a policy, not both: put the policy into it"
            )
        _check_policy_inside(parts.ramdisk)
        return parts.ramdisk
    entries = () if parts.root is None else read_tree(parts.root)
    if parts.policy is not None:
        _check_policy(parts.policy, parts.policy_source)
        entries = (*entries, Entry(POLICY_PATHS[0], stat.S_IFREG | 0o444, parts.policy))
    elif (found := find_policy(entries)) is not None:
        _check_policy(found.content, f"{parts.root}/{found.path}")
    if (found := find_guest_file(entries)) is not None:
        opens_after_lock(found.content, f"{parts.root}/{found.path}")
    return pack(entries) if entries or parts.root is not None else None


def _check_policy_inside(ramdisk: bytes) -> None:
    """A firmware refuses to start what is refused here; it is told now, and with all its reasons."""
    try:
        entries = unpack(ramdisk) or ()
        policy, guest_file = find_policy(entries), find_guest_file(entries)
    except Malformed as error:
        raise Unbuildable(str(error)) from error
    if policy is not None:
        _check_policy(policy.content, f"/{policy.path}")
    if guest_file is not None:
        opens_after_lock(guest_file.content, f"/{guest_file.path}")


def _check_policy(text: bytes, source: str) -> None:
    if len(text) > MAX_POLICY:
        raise Unbuildable(f"a policy has at most {MAX_POLICY} bytes: `{source}` has {len(text)}")
    keyvisor_policy.parse(text, source)
