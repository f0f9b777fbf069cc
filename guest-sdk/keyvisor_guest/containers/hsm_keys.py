"""A key in a guest's HSM, found by its PKCS#11 URI and used where it is: the edge between key wrapping and PKCS#11.

Only keys that never were outside of an HSM are taken. An RSA key's public half is read from the private key itself: a public key
object could be anybody's. Knows python-pkcs11; neither what is wrapped nor where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from pkcs11 import MGF, PROTECTED_AUTH, Attribute, KeyType, Mechanism, ObjectClass, TokenFlag, exceptions

from keyvisor_guest.containers.block_cmac import cmac_by_blocks
from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.jwe import RsaUnwrap
from keyvisor_guest.containers.key_wrapping import OaepHash
from keyvisor_guest.containers.pkcs11_uri import Pkcs11Uri

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from pkcs11._pkcs11 import lib as Library

__all__ = ["AesInHsm", "HashNotOffered", "RsaInHsm", "open_key"]

_MAX_PIN: Final = 256  # bytes
_OAEP: Final = {
    OaepHash.SHA256: (Mechanism.SHA256, MGF.SHA256, None),
    OaepHash.SHA1: (Mechanism.SHA_1, MGF.SHA1, None),
}
# What modules say of a ciphertext that was not made for the key; SoftHSM says GeneralError.
_NOT_FOR_THIS_KEY: Final = (
    exceptions.EncryptedDataInvalid,
    exceptions.EncryptedDataLenRange,
    exceptions.DataInvalid,
    exceptions.GeneralError,
)
_NOT_OFFERED: Final = (
    exceptions.ArgumentsBad,
    exceptions.MechanismInvalid,
    exceptions.MechanismParamInvalid,
)

T = TypeVar("T")


class HashNotOffered(KeyRefused):
    """The HSM does no OAEP with this hash."""


class AesInHsm:
    """An AES key that encrypts blocks. Good while it is open."""

    def __init__(self, key: pkcs11.EncryptMixin) -> None:
        self._key = key

    def cmac(self, data: bytes) -> bytes:
        """AES-CMAC over `data`; every block is encrypted in the HSM. Raises KeyRefused."""
        try:
            return _asked(lambda: cmac_by_blocks(data, self._encrypt))
        except ValueError:
            raise KeyRefused("the HSM encrypts no blocks as AES does: use another key") from None

    def _encrypt(self, block: bytes) -> bytes:
        return _whole(self._key.encrypt(block, mechanism=Mechanism.AES_ECB))


class RsaInHsm:
    """An RSA private key that decrypts. Good while it is open; every method raises KeyRefused."""

    def __init__(self, key: pkcs11.PrivateKey, decrypting: pkcs11.DecryptMixin) -> None:
        self._key = key
        self._decrypting = decrypting

    def public_key(self) -> RSAPublicKey:
        """Its public half, as the private key says it."""
        numbers = _asked(lambda: (self._key[Attribute.MODULUS], self._key[Attribute.PUBLIC_EXPONENT]))
        modulus, exponent = (int.from_bytes(one, "big") for one in numbers)
        try:
            return RSAPublicNumbers(exponent, modulus).public_key()
        except ValueError:
            raise KeyRefused("the HSM's RSA key has no public half that can be: generate another") from None

    def decrypt(self, blob: bytes, hashed: OaepHash) -> bytes:
        """RSA-OAEP, done in the HSM. Raises ValueError for what was not wrapped for this key, HashNotOffered."""
        try:
            return _whole(
                self._decrypting.decrypt(
                    blob, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_OAEP[hashed]
                )
            )
        except _NOT_FOR_THIS_KEY:
            raise ValueError("not for this key") from None
        except _NOT_OFFERED:
            raise HashNotOffered(
                f"this HSM opens no RSA-OAEP with {hashed}: have the key wrapped again with another hash"
            ) from None
        except pkcs11.PKCS11Error as error:
            raise _refused(error) from None

    @property
    def unwrap_jwe(self) -> RsaUnwrap:
        """What opens the keys in a JWE: RSA-OAEP there is with SHA-1."""
        return lambda wrapped: self.decrypt(wrapped, OaepHash.SHA1)


@contextmanager
def open_key(library: Library, uri: Pkcs11Uri) -> Iterator[AesInHsm | RsaInHsm]:
    """The key in the guest's HSM. Raises KeyRefused, OSError for the PIN's file."""
    pin = None if uri.pin_source is None else _pin(uri)
    session = _asked(lambda: _session(library, uri, pin))
    try:
        yield _asked(lambda: _find(session, uri))
    finally:
        _closed(session)


def _session(library: Library, uri: Pkcs11Uri, pin: str | None) -> pkcs11.Session:
    tokens = [one for one in library.get_tokens() if uri.token is None or one.label == uri.token]
    if not tokens:
        named = "no HSM" if uri.token is None else f"no HSM `{uri.token}`"
        raise KeyRefused(
            f"the guest has {named} that is bound: `keyvisor guest list` shows its HSMs, `keyvisor guest apply` binds"
        )
    if len(tokens) > 1:
        shown = ", ".join(f"`token={one.label}`" for one in tokens)
        raise KeyRefused(f"the guest has {len(tokens)} HSMs: say in the URI which, {shown}")
    token = tokens[0]
    if pin is None and not token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        raise KeyRefused(
            "this HSM's token has a PIN: write it to a file for you only, and add `?pin-source=FILE` to the URI"
        )
    return token.open(user_pin=PROTECTED_AUTH if pin is None else pin)


def _find(session: pkcs11.Session, uri: Pkcs11Uri) -> AesInHsm | RsaInHsm:
    wanted = {
        **({} if uri.label is None else {Attribute.LABEL: uri.label}),
        **({} if uri.id is None else {Attribute.ID: uri.id}),
    }
    keys = [
        *session.get_objects({**wanted, Attribute.CLASS: ObjectClass.PRIVATE_KEY}),
        *session.get_objects({**wanted, Attribute.CLASS: ObjectClass.SECRET_KEY}),
    ]
    if not keys:
        raise KeyRefused(
            f"the HSM has no private or secret key with {uri}: `keyvisor guest exec` and `pkcs11-tool --login -O` show keys"
        )
    if len(keys) > 1:
        raise KeyRefused(
            f"the HSM has {len(keys)} keys with {uri}: say label and id, or give one another label"
        )
    return _usable(keys[0])


def _usable(key: pkcs11.Object) -> AesInHsm | RsaInHsm:
    kind = key[Attribute.KEY_TYPE]
    if kind not in (KeyType.RSA, KeyType.AES):
        raise KeyRefused("this key is no RSA and no AES key: name one of these")
    if not (key[Attribute.ALWAYS_SENSITIVE] and key[Attribute.NEVER_EXTRACTABLE]):
        raise KeyRefused(
            "this key was outside of the HSM, or may leave it: generate one there, sensitive and not extractable"
        )
    if kind == KeyType.AES and isinstance(key, pkcs11.SecretKey) and isinstance(key, pkcs11.EncryptMixin):
        return AesInHsm(key)
    if kind == KeyType.RSA and isinstance(key, pkcs11.PrivateKey) and isinstance(key, pkcs11.DecryptMixin):
        return RsaInHsm(key, key)
    raise KeyRefused(
        "this key does not do what is needed: an RSA key needs CKA_DECRYPT, an AES key CKA_ENCRYPT, and one that has"
        " wrapped keys does neither"
    )


def _pin(uri: Pkcs11Uri) -> str:
    assert uri.pin_source is not None  # noqa: S101 -- asked for
    with uri.pin_source.open("rb") as file:
        data = file.read(_MAX_PIN + 1)
    try:
        pin = data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        pin = ""
    if not pin or len(data) > _MAX_PIN:
        raise KeyRefused(f"`{uri.pin_source}` holds no PIN: one line of at most {_MAX_PIN} bytes")
    return pin


def _whole(answer: bytes | Iterator[bytes]) -> bytes:
    """python-pkcs11 answers in parts where it was given parts; here it is not."""
    return answer if isinstance(answer, bytes) else b"".join(answer)


def _asked(what: Callable[[], T]) -> T:
    """What the HSM answers. Raises KeyRefused."""
    try:
        return what()
    except pkcs11.PKCS11Error as error:
        raise _refused(error) from None


_REASONS: Final[tuple[tuple[type[pkcs11.PKCS11Error], str], ...]] = (
    (
        exceptions.UserNotLoggedIn,
        "the guest's HSM is bound and not associated: `keyvisor guest apply` associates it with the owner's secret",
    ),
    (
        exceptions.TokenNotPresent,
        "the guest's HSM is no longer bound: `keyvisor guest apply` binds it",
    ),
    (
        exceptions.PinIncorrect,
        "the HSM's token has another PIN: put it into the file that `pin-source` names, or leave that out if none is set",
    ),
)


def _refused(error: pkcs11.PKCS11Error) -> KeyRefused:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return KeyRefused(reason)
    return KeyRefused(
        f"the guest's HSM did not do it ({type(error).__name__}): `keyvisor guest refusals` says why"
    )


def _closed(session: pkcs11.Session) -> None:
    try:
        session.close()
    except pkcs11.PKCS11Error:
        return  # it went away by itself, as by an unbind
