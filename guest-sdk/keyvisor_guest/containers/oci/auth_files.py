"""Logins for registries out of a file, as docker, podman and skopeo write it (containers-auth.json(5)). Helpers are not run."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from keyvisor_guest.containers.errors import ImageRefused, RegistryFailed
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.documents import load_object
from keyvisor_guest.containers.oci.registry_http import Login

__all__ = ["login_for"]

_WAY_OUT: Final = "`skopeo login --authfile FILE HOST` writes one"


def login_for(path: Path, host: str) -> Login:
    """The login for a registry, by its host with its port. Raises RegistryFailed where the file has none, OSError."""
    with path.open("rb") as file:
        data = file.read(DEFAULT_LIMITS.document)
    try:
        logins = load_object(data, "a file of logins").get("auths")
        entry = logins.get(host) if isinstance(logins, dict) else None
        spelled = entry.get("auth") if isinstance(entry, dict) else None
        if not isinstance(spelled, str):
            raise RegistryFailed(f"`{path}` has no login for `{host}`: {_WAY_OUT}", 401)
        user, colon, password = base64.b64decode(spelled, validate=True).decode().partition(":")
    except (ImageRefused, binascii.Error, UnicodeDecodeError):
        # What the file holds is secret: it is in no error, and in no error's cause.
        raise RegistryFailed(f"`{path}` is no file of logins: {_WAY_OUT}", 401) from None
    if not colon:
        raise RegistryFailed(f"`{path}` has no password for `{host}`: {_WAY_OUT}", 401)
    return Login(user, password)
