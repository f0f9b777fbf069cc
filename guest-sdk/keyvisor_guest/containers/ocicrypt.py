"""Ordinary images with whole layers encrypted, as skopeo reads and writes them (ocicrypt 1.0; secure-containers, 3.1).

A layer is one AES-256-CTR stream with an HMAC-SHA256 over the ciphertext; key, nonce and the plain layer's digest are wrapped
for its recipients in annotations. Layer order and config are bound to nothing: that is the format's. Here a layer's MAC is
checked before any of it is decrypted, and its digest before it has a name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from keyvisor_guest.containers import jwe
from keyvisor_guest.containers.errors import ImageRefused, KeyRefused, Refusal
from keyvisor_guest.containers.keys import macs_equal
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import (
    BlobDirectory,
    BlobFile,
    Stored,
    copy_blob,
    read_document,
    verify_blob,
)
from keyvisor_guest.containers.oci.digests import Digest, parse_digest, spell
from keyvisor_guest.containers.oci.documents import Descriptor, Manifest, manifest_bytes, read_manifest

__all__ = [
    "ENCRYPTED",
    "EncryptedLayer",
    "decrypt_image",
    "decrypt_layer",
    "encrypt_image",
    "encrypt_layer",
    "unwrap_annotation",
    "wrap_annotation",
]

ENCRYPTED: Final = "+encrypted"  # behind a layer's media type
_PREFIX: Final = "org.opencontainers.image.enc."
_JWE: Final = f"{_PREFIX}keys.jwe"
_PUBLIC: Final = f"{_PREFIX}pubopts"
_CIPHER: Final = "AES_256_CTR_HMAC_SHA256"
_KEY_LENGTH: Final = 32
_NONCE_LENGTH: Final = 16
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class EncryptedLayer:
    """An encrypted layer's blob, what its recipients need, and what everybody may know; both are JSON."""

    stored: Stored
    private_options: bytes = field(repr=False)
    public_options: bytes


def wrap_annotation(
    payload: bytes, recipients: Sequence[RSAPublicKey], random_bytes: Callable[[int], bytes]
) -> str:
    """The payload for the recipients, as an annotation's value: base64 of a JWE."""
    return base64.b64encode(jwe.wrap(payload, recipients, random_bytes)).decode()


def unwrap_annotation(text: str, open_key: jwe.RsaUnwrap) -> bytes:
    """The payload of the first JWE in an annotation (commas between several) that the key opens. Raises KeyRefused."""
    for one in text.split(","):
        try:
            return jwe.unwrap(base64.b64decode(one, validate=True), open_key)
        except (binascii.Error, ValueError, KeyRefused):
            continue
    raise KeyRefused(
        "the key is wrapped for others, or with another way than JWE: name a recipient's private key"
    )


def encrypt_layer(
    source: BlobFile, into: BlobDirectory, random_bytes: Callable[[int], bytes]
) -> EncryptedLayer:
    """Encrypt a layer's blob under a key of its own."""
    key, nonce = random_bytes(_KEY_LENGTH), random_bytes(_NONCE_LENGTH)
    encryptor = Cipher(AES(key), CTR(nonce)).encryptor()
    plain, mac = hashlib.sha256(), hmac.new(key, digestmod=hashlib.sha256)
    with into.writing() as blob:
        for chunk in _chunks(source):
            plain.update(chunk)
            sealed = encryptor.update(chunk)
            mac.update(sealed)
            blob.write(sealed)
        stored = blob.commit()
    private = {
        "symkey": _base64(key),
        "digest": spell(plain.digest()),
        "cipheroptions": {"nonce": _base64(nonce)},
    }
    public = {"cipher": _CIPHER, "hmac": _base64(mac.digest()), "cipheroptions": {}}
    return EncryptedLayer(stored, _json(private), _json(public))


def decrypt_layer(source: BlobFile, into: BlobDirectory, private: bytes, public: bytes) -> Stored:
    """Decrypt a layer's blob, after its MAC was checked. Raises ImageRefused; then nothing of it has a name."""
    options = _options(private, public)
    mac = hmac.new(options.key, digestmod=hashlib.sha256)
    for chunk in _chunks(source):
        mac.update(chunk)
    if not macs_equal(mac.digest(), options.mac):
        raise ImageRefused("an encrypted layer was changed: pull the image again", Refusal.DIGEST)
    decryptor = Cipher(AES(options.key), CTR(options.nonce)).decryptor()
    with into.writing() as blob:
        for chunk in _chunks(source):
            blob.write(decryptor.update(chunk))
        return blob.commit(options.digest)


@dataclass(frozen=True, slots=True)
class _Options:
    key: bytes = field(repr=False)
    nonce: bytes
    mac: bytes
    digest: Digest  # of the plain layer


def _options(private: bytes, public: bytes) -> _Options:
    try:
        members, known = json.loads(private), json.loads(public)
        nonce = _bytes(members["cipheroptions"]["nonce"])
        options = _Options(
            _bytes(members["symkey"]), nonce, _bytes(known["hmac"]), parse_digest(members["digest"])
        )
        cipher = known["cipher"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _unusable() from None
    if cipher != _CIPHER or len(options.key) != _KEY_LENGTH or len(nonce) != _NONCE_LENGTH:
        raise _unusable()
    return options


def _unusable() -> ImageRefused:
    return ImageRefused(f"the layer is not encrypted with {_CIPHER}, or its options are not those of it")


def encrypt_image(
    blobs: BlobDirectory,
    image: Descriptor,
    recipients: Sequence[RSAPublicKey],
    random_bytes: Callable[[int], bytes],
    into: BlobDirectory | None = None,
) -> Descriptor:
    """All layers of an ordinary image encrypted for the recipients.

    The new image is in `into`, whole, and none of its layers in clear; without `into`, in `blobs` too. Raises
    ImageRefused, KeyRefused.
    """
    target = blobs if into is None else into
    manifest = read_manifest(read_document(blobs, image.digest, DEFAULT_LIMITS.document))
    if any(layer.media_type.endswith(ENCRYPTED) for layer in manifest.layers):
        raise ImageRefused("a layer is encrypted already: decrypt the image first")

    def encrypt(layer: Descriptor) -> Descriptor:
        verify_blob(blobs, layer.digest)
        with blobs.open(layer.digest) as source:
            made = encrypt_layer(source, target, random_bytes)
        annotations = {
            **layer.annotations,
            _JWE: wrap_annotation(made.private_options, recipients, random_bytes),
            _PUBLIC: base64.b64encode(made.public_options).decode(),
        }
        return Descriptor(layer.media_type + ENCRYPTED, made.stored.digest, made.stored.size, annotations)

    return _with_layers(blobs, target, image, manifest, [encrypt(layer) for layer in manifest.layers])


def decrypt_image(
    blobs: BlobDirectory, image: Descriptor, open_key: jwe.RsaUnwrap, into: BlobDirectory | None = None
) -> Descriptor:
    """The image with its encrypted layers in clear: whole in `into`; without it, in `blobs` too.

    Raises ImageRefused, KeyRefused.
    """
    target = blobs if into is None else into
    manifest = read_manifest(read_document(blobs, image.digest, DEFAULT_LIMITS.document))

    def decrypt(layer: Descriptor) -> Descriptor:
        if not layer.media_type.endswith(ENCRYPTED):
            _keep(blobs, target, layer.digest)
            return layer
        private = unwrap_annotation(layer.annotations.get(_JWE, ""), open_key)
        try:
            public = base64.b64decode(layer.annotations.get(_PUBLIC, ""), validate=True)
        except ValueError:
            raise ImageRefused("a layer's public options are not base64") from None
        with blobs.open(layer.digest) as source:
            stored = decrypt_layer(source, target, private, public)
        kept = {name: text for name, text in layer.annotations.items() if not name.startswith(_PREFIX)}
        return Descriptor(layer.media_type.removesuffix(ENCRYPTED), stored.digest, stored.size, kept)

    return _with_layers(blobs, target, image, manifest, [decrypt(layer) for layer in manifest.layers])


def _with_layers(
    blobs: BlobDirectory,
    into: BlobDirectory,
    image: Descriptor,
    manifest: Manifest,
    layers: Sequence[Descriptor],
) -> Descriptor:
    _keep(blobs, into, manifest.config.digest)
    stored = into.put(manifest_bytes(Manifest(manifest.config, tuple(layers), manifest.annotations)))
    return Descriptor(image.media_type, stored.digest, stored.size)


def _keep(blobs: BlobDirectory, into: BlobDirectory, digest: Digest) -> None:
    """A blob that stays as it is."""
    if into is not blobs:
        copy_blob(blobs, into, digest)


def _chunks(source: BlobFile) -> Iterator[bytes]:
    offset = 0
    while chunk := source.read_at(offset, _CHUNK):
        yield chunk
        offset += len(chunk)


def _json(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    return base64.b64decode(text.encode("ascii"), validate=True)
