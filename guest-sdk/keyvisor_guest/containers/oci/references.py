"""Names of images in registries: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`. A host is always named: no registry is guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.digests import Digest, parse_digest
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = ["Reference"]

_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_SPELLING: Final = re.compile(
    rf"(?P<host>{_HOST})/(?P<repository>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:@(?P<digest>.+))?",
    re.ASCII,
)
_LONGEST: Final = 512


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry. What is asked for is the digest, where there is one, else the tag."""

    host: str
    repository: str
    tag: str = "latest"
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its text. Raises ImageRefused."""
        found = _SPELLING.fullmatch(text) if len(text) <= _LONGEST else None
        if not found or not _is_host(found["host"]):
            raise ImageRefused(
                f"{quoted(text)} is no image in a registry: write `HOST[:PORT]/NAME[:TAG][@DIGEST]`"
            )
        digest = parse_digest(found["digest"]) if found["digest"] else None
        return cls(found["host"], found["repository"], found["tag"] or "latest", digest)

    @property
    def name(self) -> str:
        """What the manifest is asked for by."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def _is_host(text: str) -> bool:
    """`debian/nginx` is a repository without a host, as Docker reads it."""
    return "." in text or ":" in text or text == "localhost"
