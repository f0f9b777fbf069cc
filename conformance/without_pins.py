"""A pytest plugin for a token that takes no PINs: python-pkcs11's tests get its word for a login without one.

They are the suite's own tests, unmodified; only the PIN that they read from the environment is another.
"""

from __future__ import annotations

import importlib

import pkcs11
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Before the test modules are imported, since they take the PIN over by name."""
    del session
    importlib.import_module("tests").TOKEN_PIN = pkcs11.PROTECTED_AUTH  # type: ignore[attr-defined]  # it is theirs
