"""Why an image starts no guest: the codes of Set-secure-configuration-parameters (0300), unpack (0301) and verify (0302).

0103 and 0108 are the ultravisor's own (formats, D.5); no public source has the others. 0104 to 0107 say of a header what
they say of a request (B.1); from 0109 on the numbers are keyvisor's own. A code says what was refused; the text adds the
way out. Hosts read these texts: nothing of what is encrypted in an image may stand in one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from keyvisor_firmware.secrets.return_codes import Meaning

__all__ = ["IMAGE_MEANINGS", "ImageCode"]


class ImageCode(enum.IntEnum):
    """rc of the calls that start a guest from an image, only those that refuse."""

    NO_HEADER = 0x0103
    VERSION_UNSUPPORTED = 0x0104
    SIZE_WRONG = 0x0105
    HOST_KEYS_WRONG = 0x0106
    FLAG_UNKNOWN = 0x0107
    CANNOT_DECRYPT = 0x0108
    COMPONENTS_WRONG = 0x0109
    NOT_AS_MEASURED = 0x010A
    RAMDISK_UNUSABLE = 0x010B
    POLICY_UNUSABLE = 0x010C
    GUEST_FILE_UNUSABLE = 0x010D


_WHOLE_FILE: Final = "start the whole file that the owner built, unchanged"

IMAGE_MEANINGS: Final[Mapping[ImageCode, Meaning]] = MappingProxyType(
    {
        ImageCode.NO_HEADER: Meaning(
            "the image has no header that can be read",
            "build one with `keyvisor owner image build`, and start the whole file",
        ),
        ImageCode.VERSION_UNSUPPORTED: Meaning(
            "the version of the image's header is not supported",
            "build the image with `keyvisor owner image build`",
        ),
        ImageCode.SIZE_WRONG: Meaning("the size of the image's header is wrong", _WHOLE_FILE),
        ImageCode.HOST_KEYS_WRONG: Meaning(
            "the image's number of host keys is wrong", "build an image for 1 to 95 host keys"
        ),
        ImageCode.FLAG_UNKNOWN: Meaning(
            "the encrypted part of the image's header has flags or items that cannot be",
            "build the image with `keyvisor owner image build`",
        ),
        ImageCode.CANNOT_DECRYPT: Meaning(
            "the image's header cannot be decrypted",
            "build an image for this host's key, and start it unchanged",
        ),
        ImageCode.COMPONENTS_WRONG: Meaning(
            "the image's components are not where they have to be", _WHOLE_FILE
        ),
        ImageCode.NOT_AS_MEASURED: Meaning("the image is not what its header was made for", _WHOLE_FILE),
        ImageCode.RAMDISK_UNUSABLE: Meaning(
            "the image's ramdisk cannot be looked through for a policy",
            "the owner has to build the image again; `keyvisor owner image build` says what is wrong",
        ),
        ImageCode.POLICY_UNUSABLE: Meaning(
            "the policy in the image cannot be used",
            "the owner has to build the image again; `keyvisor policy check` says what is wrong",
        ),
        ImageCode.GUEST_FILE_UNUSABLE: Meaning(
            "the image's file about the guest cannot be used",
            "the owner has to build the image again, with `version: 1` and `access: always` or `after-lock` in it",
        ),
    }
)
