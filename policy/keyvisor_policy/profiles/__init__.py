"""The profiles that ship with keyvisor: each is a YAML file here, to be read and copied."""

from __future__ import annotations

from importlib import resources
from typing import Final

PROFILES: Final = (
    "no-export",
    "modern-only",
    "fips2021-like",
    "bsi-like",
    "sign-only",
    "read-only",
    "no-admin",
)


def profile_text(name: str) -> str:
    """The profile's file. Raises LookupError for what is no profile."""
    if name not in PROFILES:
        raise LookupError(name)
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
