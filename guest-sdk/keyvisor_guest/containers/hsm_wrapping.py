"""A release or a layer's options, wrapped for a key in the guest's HSM and opened with it: which way goes with which key.

What an RSA key opens may be from anybody, so a release's own demand counts for nothing there, and the root has to be said. What
an AES key opens was sealed by whoever may use the key, and counts.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.hsm_keys import AesInHsm, HashNotOffered, RsaInHsm
from keyvisor_guest.containers.key_wrapping import (
    Context,
    OaepHash,
    open_rsa,
    open_sealed,
    seal,
    wrap_rsa,
)
from keyvisor_guest.containers.ocicrypt import unwrap_annotation
from keyvisor_guest.containers.release import Release, parse_release, release_bytes, released_for

__all__ = ["PROVIDER", "Wrapped", "open_for", "release_from_hsm", "wrap_for", "wrap_release"]

PROVIDER: Final = "provider.keyvisor"  # the scheme of what only an AES key of an HSM opens
_PKCS11: Final = "pkcs11"
_JWE: Final = "jwe"
_MAX_PARTS: Final = 64


@dataclass(frozen=True, slots=True)
class Wrapped:
    """What was wrapped, and the scheme under which an annotation carries it."""

    scheme: str
    data: bytes = field(repr=False)


def wrap_for(
    key: AesInHsm | RsaInHsm, payload: bytes, context: Context, random_bytes: Callable[[int], bytes]
) -> Wrapped:
    """The payload wrapped for the key, and opened with it once: what the HSM cannot open is never kept. Raises KeyRefused."""
    if isinstance(key, AesInHsm):
        sealed = seal(payload, context, key.cmac, random_bytes)
        _check(open_sealed(sealed, context, key.cmac), payload)
        return Wrapped(PROVIDER, sealed)
    public = key.public_key()
    for hashed in OaepHash:
        wrapped = wrap_rsa(payload, public, hashed)
        try:
            _check(open_rsa(wrapped, key.decrypt), payload)
        except HashNotOffered:
            continue
        return Wrapped(_PKCS11, wrapped)
    raise KeyRefused("this HSM does no RSA-OAEP with SHA-256 or SHA-1: use an AES key")


def open_for(key: AesInHsm | RsaInHsm, wrapped: bytes, context: Context) -> bytes:
    """What was wrapped for the key. Raises KeyRefused."""
    if isinstance(key, AesInHsm):
        return open_sealed(wrapped, context, key.cmac)
    return open_rsa(wrapped, key.decrypt)


def wrap_release(
    key: AesInHsm | RsaInHsm, release: Release, random_bytes: Callable[[int], bytes]
) -> tuple[str, str]:
    """The scheme and the text of the annotation that carries the release for the key."""
    wrapped = wrap_for(key, release_bytes(release), Context.RELEASE, random_bytes)
    return wrapped.scheme, base64.b64encode(wrapped.data).decode("ascii")


def release_from_hsm(
    key: AesInHsm | RsaInHsm, wrapped_keys: Mapping[str, str], exact: ExactImage | None
) -> Release:
    """The release that an image carries for the key. `exact`: the root, where the owner says it. Raises KeyRefused."""
    if isinstance(key, AesInHsm):
        sealed = _first(
            _annotated(wrapped_keys, PROVIDER), lambda one: open_sealed(one, Context.RELEASE, key.cmac)
        )
        return released_for(parse_release(sealed), exact)
    if exact is None:
        raise KeyRefused("anybody can wrap a key for an RSA key: say with `--root` which image is meant")
    if _PKCS11 in wrapped_keys:
        opened = _first(_annotated(wrapped_keys, _PKCS11), lambda one: open_rsa(one, key.decrypt))
    elif _JWE in wrapped_keys:
        opened = unwrap_annotation(wrapped_keys[_JWE], key.unwrap_jwe)
    else:
        raise _not_there(f"{_PKCS11}` or `{_JWE}")
    return replace(parse_release(opened), demand=exact)


def _first(wrapped: Sequence[bytes], opening: Callable[[bytes], bytes]) -> bytes:
    """What the first of them that the key opens holds. Raises KeyRefused as for the last."""
    for one in wrapped[:-1]:
        try:
            return opening(one)
        except KeyRefused:
            continue
    return opening(wrapped[-1])


def _annotated(wrapped_keys: Mapping[str, str], scheme: str) -> list[bytes]:
    """Commas stand between what was wrapped at several times."""
    if scheme not in wrapped_keys:
        raise _not_there(scheme)
    try:
        return [base64.b64decode(one, validate=True) for one in wrapped_keys[scheme].split(",")[:_MAX_PARTS]]
    except ValueError:
        raise KeyRefused(f"the image's key under `{scheme}` is no base64: pull the image again") from None


def _not_there(scheme: str) -> KeyRefused:
    return KeyRefused(
        f"the image carries no key under `{scheme}`: `keyvisor image rewrap` wraps it for this key"
    )


def _check(opened: bytes, payload: bytes) -> None:
    if opened != payload:
        raise KeyRefused("the HSM opens something else than was wrapped for its key: use another key")
