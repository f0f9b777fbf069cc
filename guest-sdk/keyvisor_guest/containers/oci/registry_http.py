"""HTTP as registries speak it: one connection per request, redirects of reads followed, authorization for its host only.

The standard library's client. Every answer is timed; who reads a body bounds it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final
from urllib.parse import urljoin, urlsplit

from keyvisor_guest.containers.errors import RegistryFailed
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = ["Exchange", "Login", "parse_challenge"]

_TIMEOUT: Final = 60.0  # seconds that a registry may be silent
_REDIRECTS: Final = 5
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_READS: Final = frozenset({"GET", "HEAD"})
_PARAMETER: Final = re.compile(r'([a-zA-Z]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Login:
    """Who one is to a registry."""

    user: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """For the header `Authorization`."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def parse_challenge(header: str) -> dict[str, str]:
    """The parameters of `WWW-Authenticate`; under the empty name its scheme in lower case."""
    scheme, _, rest = header.partition(" ")
    return {"": scheme.lower()} | {name.lower(): value for name, value in _PARAMETER.findall(rest)}


class Exchange:
    """Sends requests. `host`, with its port, is the only one that ever gets an authorization that was given for it."""

    def __init__(self, host: str) -> None:
        self._host: Final = host

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Iterable[bytes] | None,
        authorization: str | None,
    ) -> HTTPResponse:
        """The answer, its body unread. Raises RegistryFailed where there is none."""
        origin = urlsplit(url)
        for _ in range(_REDIRECTS + 1):
            parts = urlsplit(url)
            sent = dict(headers)
            if authorization and (parts.scheme, parts.netloc) == (origin.scheme, origin.netloc):
                sent["Authorization"] = authorization
            response = self._once(method, url, sent, body)
            if response.status not in _MOVED or method not in _READS:
                return response
            target = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if parts.scheme == "https" and urlsplit(target).scheme != "https":
                raise RegistryFailed(
                    f"{quoted(parts.netloc)} leads away from TLS: that is refused", response.status
                )
            url = target
        raise RegistryFailed(f"`{self._host}` leads in a circle")

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: Iterable[bytes] | None
    ) -> HTTPResponse:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryFailed(f"{quoted(url)} is no address of a registry")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection = None
        try:
            connection = kind(parts.netloc, timeout=_TIMEOUT)
            connection.request(method, path, body=body, headers={**headers, "Connection": "close"})
            response = connection.getresponse()
            if (
                connection.sock is not None
            ):  # the answer has the socket now: it ends when the answer is closed
                connection.sock.close()
            return response  # noqa: TRY300 what else raises is caught too
        except (OSError, HTTPException, ValueError) as error:
            if connection is not None:
                connection.close()
            raise RegistryFailed(
                f"{quoted(parts.netloc)} does not answer ({_reason(error)}): is it a registry, and is it running?"
            ) from error


def _reason(error: Exception) -> str:
    """What a system said, or the kind of error: what the other side sent is in the others' texts."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
