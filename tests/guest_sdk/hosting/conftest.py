"""A host, and an image to start."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.images import an_image

from keyvisor_guest import Host


@pytest.fixture(scope="session")
def image() -> bytes:
    """An image of three components that no host can read; its kernel is longer than one unpack takes."""
    key = ec.generate_private_key(ec.SECP521R1())
    return an_image(key, kernel=bytes(range(256)) * 4100, cmdline="quiet").data


@pytest.fixture
def host(firmware: Any) -> Host:
    return Host(state=firmware.state)
