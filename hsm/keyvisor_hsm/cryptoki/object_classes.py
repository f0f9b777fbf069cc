"""CK_OBJECT_CLASS: the classes of objects (PKCS#11 2.40 and 3.0).

A test compares them with the headers where they are installed.
"""

from __future__ import annotations

import enum


class CKO(enum.IntEnum):
    """Object classes."""

    DATA = 0x0
    CERTIFICATE = 0x1
    PUBLIC_KEY = 0x2
    PRIVATE_KEY = 0x3
    SECRET_KEY = 0x4
    HW_FEATURE = 0x5
    DOMAIN_PARAMETERS = 0x6
    MECHANISM = 0x7
    OTP_KEY = 0x8
    VENDOR_DEFINED = 0x80000000
