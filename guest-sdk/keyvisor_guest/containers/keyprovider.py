"""What ocicrypt asks of a key provider's command: one JSON document in, one out (ocicrypt 1.1, docs/keyprovider.md).

`keywrap` brings a layer's private options and gets an annotation, `keyunwrap` the way back. Who wraps and unwraps is handed in: a
guest's secret, or its HSM. Debian 12's skopeo is older than this protocol: the format is as documented, not as observed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.oci.documents import load_object

__all__ = ["MAX_REQUEST", "answer"]

MAX_REQUEST: Final = 1 << 20  # bytes

_Transform = Callable[[bytes], bytes]


def answer(request: bytes, wrap: _Transform, unwrap: _Transform) -> bytes:
    """The document for the command's output. Raises KeyRefused, ImageRefused for what is no request, and what the two raise."""
    if len(request) > MAX_REQUEST:
        raise KeyRefused(f"the key provider was asked with more than {MAX_REQUEST} bytes")
    members = load_object(request, "what the key provider was asked")
    match members.get("op"):
        case "keywrap":
            options = _bytes(members.get("keywrapparams"), "optsdata")
            return _spelled("keywrapresults", "annotation", wrap(options))
        case "keyunwrap":
            annotation = _bytes(members.get("keyunwrapparams"), "annotation")
            return _spelled("keyunwrapresults", "optsdata", unwrap(annotation))
        case _:
            raise KeyRefused("a key provider is asked for `keywrap` or `keyunwrap`")


def _bytes(parameters: Any, name: str) -> bytes:
    text = parameters.get(name) if isinstance(parameters, Mapping) else None
    try:
        if isinstance(text, str) and text:
            return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise KeyRefused(f"the key provider was asked without `{name}`, which is base64") from None


def _spelled(results: str, name: str, value: bytes) -> bytes:
    return json.dumps({results: {name: base64.b64encode(value).decode()}}, separators=(",", ":")).encode()
