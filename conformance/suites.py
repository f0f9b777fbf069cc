"""The suites, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from conformance import openssl_engine, p11tool, pkcs11_tool, python_pkcs11
from conformance.outcomes import Outcome, SuiteName, TestId
from conformance.sides import Side


@dataclass(frozen=True, slots=True)
class Suite:
    """A list of tests that can be run on a side. `tag` names the guest that it runs in."""

    name: SuiteName
    tag: str
    about: str
    run: Callable[[Side], Iterator[tuple[TestId, Outcome]]]


PYTHON_PKCS11: Final = SuiteName("python-pkcs11")
PKCS11_TOOL: Final = SuiteName("pkcs11-tool")
PKCS11_TOOL_TEST: Final = SuiteName("pkcs11-tool --test")
P11TOOL: Final = SuiteName("p11tool")
OPENSSL: Final = SuiteName("OpenSSL engine")

SUITES: Final = (
    Suite(
        PYTHON_PKCS11,
        "python",
        "The library's own tests, unmodified, from the source distribution of the release that is installed. Those "
        "that it has for SoftHSM only run too, the client loaded through a link of SoftHSM's name.",
        python_pkcs11.tests,
    ),
    Suite(
        PKCS11_TOOL,
        "tool",
        "What a user does: makes, imports, lists, uses, wraps and deletes keys, certificates and data, with and "
        "without a login; PINs; making the token anew. OpenSSL checks what comes out.",
        pkcs11_tool.commands,
    ),
    Suite(
        PKCS11_TOOL_TEST,
        "test",
        "The tests that the program brings, on a token with one RSA key pair. Not run: `--test-hotplug`, which waits "
        "for a person, and `--test-threads`, which prints in the scheduler's order.",
        pkcs11_tool.own_tests,
    ),
    Suite(
        P11TOOL,
        "gnutls",
        "`--list-all`, before and after GnuTLS has made, imported, used, renamed and deleted objects; making the token "
        "anew.",
        p11tool.commands,
    ),
    Suite(
        OPENSSL,
        "openssl",
        "`libengine-pkcs11-openssl`: signatures, decryption and certificates with RSA and EC keys of the HSM; a TLS "
        "server (1.2 and 1.3) whose key is in the guest's HSM, and a client that verifies it and reads its page.",
        openssl_engine.commands,
    ),
)
