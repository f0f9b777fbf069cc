"""A volume key out of a guest's secret store: the release that the image's owner added as a retrievable secret.

Knows that the firmware hands secrets out to their guest only; what is in one is `release`'s to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.release import Release, parse_release
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

if TYPE_CHECKING:
    from keyvisor_guest.secrets import Secrets

__all__ = ["DEFAULT_SECRET", "release_from_secret"]

DEFAULT_SECRET: Final = "volume-key"  # noqa: S105 -- a secret's name


def release_from_secret(secrets: Secrets, name: str = DEFAULT_SECRET) -> Release:
    """The release that the guest's secret of this name carries.

    Raises KeyRefused, and says nothing of what the secret holds; what the door raises, as `NotRunning` and `Refused`.
    """
    if secrets.missing([name]):
        raise KeyRefused(
            f"no secret of the guest has the name `{name}`: its owner adds the release with"
            f" `keyvisor owner request retrievable {name} --type plain --secret FILE`"
        )
    found = secrets.retrieve(name)
    if KINDS[found.kind].is_key or found.kind is SecretKind.ASSOCIATION:
        raise KeyRefused(
            f"the secret `{name}` is of a kind that never comes out in clear: add the release with `--type plain`"
        )
    return parse_release(found.plaintext())
