"""One repository of a registry, over the distribution API's /v2 paths: manifests and blobs, up and down.

Blobs are streamed, counted against the size that their descriptor says, and there only if their digest is right. Protocol: OCI
distribution specification 1.0; tokens as registries of Docker's kind ask for them. Knows no image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from keyvisor_guest.containers.errors import ImageRefused, Refusal, RegistryFailed
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import BlobDirectory, BlobFile, Stored, verify_blob
from keyvisor_guest.containers.oci.digests import Digest, digest_of, parse_digest
from keyvisor_guest.containers.oci.documents import INDEXES, MANIFESTS, Descriptor, load_object
from keyvisor_guest.containers.oci.references import Reference
from keyvisor_guest.containers.oci.registry_http import Exchange, Login, parse_challenge

__all__ = ["Registry"]

_CHUNK: Final = 1 << 20
_MAX_TOKEN: Final = 1 << 16
_ACCEPT: Final = ", ".join(sorted(MANIFESTS | INDEXES))


@dataclass(frozen=True, slots=True)
class _Upload:
    """A blob's bytes for a request body, read piece by piece."""

    blob: BlobFile

    def __iter__(self) -> Iterator[bytes]:
        offset = 0
        while chunk := self.blob.read_at(offset, _CHUNK):
            yield chunk
            offset += len(chunk)


class Registry:
    """The repository that `reference` names. Raises RegistryFailed, and ImageRefused for what is not as it says.

    `insecure_http`: without TLS, for registries on this machine. Digests still hold; who reads along sees the image.
    """

    def __init__(
        self, reference: Reference, *, login: Login | None = None, insecure_http: bool = False
    ) -> None:
        self.reference: Final = reference
        self._scheme: Final = "http" if insecure_http else "https"
        self._login: Final = login
        self._exchange: Final = Exchange(reference.host)
        self._authorization: str | None = login.basic() if login else None
        self._base: Final = f"{self._scheme}://{reference.host}/v2/{reference.repository}/"

    def manifest(self, name: str) -> tuple[Descriptor, bytes]:
        """A manifest or an index, by tag or digest. Held against its digest where it is asked for by one."""
        with self._call("GET", f"manifests/{name}", headers={"Accept": _ACCEPT}) as response:
            self._expect(response, 200, f"the manifest `{name}`")
            data = response.read(DEFAULT_LIMITS.document + 1)
            media_type = response.headers.get_content_type()
        if len(data) > DEFAULT_LIMITS.document:
            raise ImageRefused(f"the manifest `{name}` is too long", Refusal.LIMIT)
        digest = digest_of(data)
        if name.startswith("sha256:") and digest != name:
            raise ImageRefused(f"the manifest `{name}` came as {digest}", Refusal.DIGEST)
        return Descriptor(media_type, digest, len(data)), data

    def pull_blob(self, blob: Descriptor, into: BlobDirectory) -> Stored:
        """Get a blob, unless it is there already and as its digest says."""
        if into.has(blob.digest):
            with contextlib.suppress(ImageRefused):
                verify_blob(into, blob.digest)
                return Stored(blob.digest, blob.size)
        with (
            self._call("GET", f"blobs/{parse_digest(blob.digest)}") as response,
            into.writing() as writing,
        ):
            self._expect(response, 200, f"the blob {blob.digest}")
            while chunk := response.read(_CHUNK):
                if writing.size + len(chunk) > blob.size:
                    raise ImageRefused(
                        f"the blob {blob.digest} has more than {blob.size} bytes", Refusal.SIZE
                    )
                writing.write(chunk)
            return writing.commit(blob.digest)

    def has_blob(self, digest: Digest) -> bool:
        """Whether the registry has the blob already."""
        with self._call("HEAD", f"blobs/{parse_digest(digest)}") as response:
            return response.status == 200

    def push_blob(self, blob: Descriptor, source: BlobDirectory) -> None:
        """Store a blob, unless it is there."""
        if self.has_blob(blob.digest):
            return
        with self._call("POST", "blobs/uploads/", headers={"Content-Length": "0"}) as response:
            self._expect(response, 202, "an upload")
            response.read()
            place = response.headers.get("Location", "")
        target = self._upload_target(place, blob.digest)
        with source.open(blob.digest) as file:
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.size)}
            with self._call("PUT", target, headers=headers, body=_Upload(file)) as response:
                self._expect(response, 201, f"the blob {blob.digest}")

    def push_manifest(self, name: str, media_type: str, data: bytes) -> Digest:
        """Store a manifest under a tag or its digest. Its blobs are there before."""
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        with self._call("PUT", f"manifests/{name}", headers=headers, body=[data]) as response:
            self._expect(response, 201, f"the manifest `{name}`")
        return digest_of(data)

    def _upload_target(self, place: str, digest: Digest) -> str:
        """Where the upload goes on. Another host would get the image's bytes and our credentials: it is refused."""
        target = urlsplit(urljoin(self._base, place))
        if not place or (target.scheme, target.netloc) != (self._scheme, self.reference.host):
            raise RegistryFailed(f"`{self.reference.host}` sends uploads somewhere else: push there instead")
        query = "&".join(part for part in (target.query, urlencode({"digest": digest})) if part)
        return urlunsplit(target._replace(query=query, fragment=""))

    def _call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: _Upload | list[bytes] | None = None,
    ) -> HTTPResponse:
        url = urljoin(self._base, path) if not path.startswith(self._scheme) else path
        response = self._exchange.send(method, url, headers or {}, body, self._authorization)
        if response.status != 401:
            return response
        challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
        response.close()
        self._authorization = self._answer(challenge)
        return self._exchange.send(method, url, headers or {}, body, self._authorization)

    def _answer(self, challenge: Mapping[str, str]) -> str:
        """What to authorize with, after the registry said how."""
        realm = challenge.get("realm", "")
        if challenge.get("") == "basic" or not realm:
            raise RegistryFailed(f"`{self.reference.host}` wants a login: name one that may do this", 401)
        if urlsplit(realm).scheme != "https" and self._scheme == "https":
            raise RegistryFailed(
                f"`{self.reference.host}` wants its login sent in clear: that is refused", 401
            )
        default = f"repository:{self.reference.repository}:pull,push"
        query = {"service": challenge.get("service", ""), "scope": challenge.get("scope", default)}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        basic = self._login.basic() if self._login else None
        with self._exchange.send("GET", url, {}, None, basic) as response:
            self._expect(response, 200, "a token")
            answer = load_object(response.read(_MAX_TOKEN), "the registry's token")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isprintable() or not token.isascii():
            raise RegistryFailed(f"`{self.reference.host}` gave no token: name a login that may do this", 401)
        return f"Bearer {token}"

    def _expect(self, response: HTTPResponse, status: int, what: str) -> None:
        if response.status == status:
            return
        reasons = {
            401: "it wants a login that may do this",
            403: "this login may not do that",
            404: "it is not there",
            429: "it was asked too often: try again later",
        }
        reason = reasons.get(response.status, f"it answered {response.status}")
        raise RegistryFailed(f"`{self.reference}`: {what} was refused: {reason}", response.status)
