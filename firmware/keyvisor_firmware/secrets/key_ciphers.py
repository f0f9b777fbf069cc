"""AES and AES-XTS with a key in clear: what `key_operations` has for the keys that encrypt.

Nothing is padded and no IV is made up: both are the caller's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR, XTS

from keyvisor_firmware.secrets.errors import KeyCode, KeyRefused
from keyvisor_firmware.secrets.key_uses import Function, KeyParameters, Mode, Operation, Row, wrong_parameters
from keyvisor_guest.wire.errors import Malformed

__all__ = ["AES_ROWS", "XTS_ROWS", "require_xts_key"]

_BLOCK: Final = 16  # bytes of an AES block, of an IV of CBC, CTR and XTS
_GCM_IV: Final = 12
_MODES: Final[Mapping[Mode, Callable[[bytes], CBC | CTR | XTS]]] = MappingProxyType(
    {Mode.CBC: CBC, Mode.CTR: CTR, Mode.XTS: XTS}
)


def require_xts_key(value: bytes) -> None:
    """Raises Malformed for two equal halves, which no implementation of XTS takes."""
    half = len(value) // 2
    if value[:half] == value[half:]:
        raise Malformed("the two halves of the AES-XTS key are equal")


def _iv(parameters: KeyParameters, length: int) -> bytes:
    if parameters.iv is None or len(parameters.iv) != length:
        raise wrong_parameters(f"the `iv` has {length} bytes here: give one")
    return parameters.iv


def _gcm_encrypt(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
    return AESGCM(key).encrypt(_iv(parameters, _GCM_IV), data, parameters.associated)


def _gcm_decrypt(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
    try:
        return AESGCM(key).decrypt(_iv(parameters, _GCM_IV), data, parameters.associated)
    except InvalidTag:
        raise KeyRefused(
            KeyCode.NOT_AUTHENTIC, "the data do not decrypt: key, `iv`, `associated` or data are others"
        ) from None


def _require_length(mode: Mode, data: bytes) -> None:
    if mode is Mode.CBC and len(data) % _BLOCK:
        raise KeyRefused(KeyCode.DATA_WRONG, f"CBC takes whole blocks of {_BLOCK} bytes: pad the data first")
    if mode is Mode.XTS and len(data) < _BLOCK:
        raise KeyRefused(KeyCode.DATA_WRONG, f"XTS takes at least {_BLOCK} bytes, not {len(data)}")


def _run(mode: Mode, operation: Operation, key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
    if parameters.associated is not None:
        raise wrong_parameters("`associated` is GCM's: leave it out")
    _require_length(mode, data)
    cipher = Cipher(AES(key), _MODES[mode](_iv(parameters, _BLOCK)))
    context = cipher.encryptor() if operation is Operation.ENCRYPT else cipher.decryptor()
    return context.update(data) + context.finalize()


def _aes(operation: Operation) -> Function:
    gcm = _gcm_encrypt if operation is Operation.ENCRYPT else _gcm_decrypt

    def run(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
        match parameters.mode:
            case Mode.GCM:
                return gcm(key, data, parameters)
            case (Mode.CBC | Mode.CTR) as mode:
                return _run(mode, operation, key, data, parameters)
        raise wrong_parameters("an AES key's `mode` is one of `GCM`, `CBC` and `CTR`: give one")

    return run


def _xts(operation: Operation) -> Function:
    def run(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
        if parameters.mode not in (None, Mode.XTS):
            raise wrong_parameters("an AES-XTS key's `mode` is `XTS`: give that one, or none")
        return _run(Mode.XTS, operation, key, data, parameters)

    return run


_OPERATIONS: Final = (Operation.ENCRYPT, Operation.DECRYPT)

AES_ROWS: Final = {each: Row(frozenset({"mode", "iv", "associated"}), _aes(each)) for each in _OPERATIONS}
XTS_ROWS: Final = {each: Row(frozenset({"mode", "iv"}), _xts(each)) for each in _OPERATIONS}
