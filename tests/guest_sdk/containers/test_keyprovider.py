"""The key provider's protocol as ocicrypt documents it: wrapped and unwrapped, and no option of a layer in an error."""

import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers import jwe
from keyvisor_guest.containers.errors import ContainerError, KeyRefused
from keyvisor_guest.containers.keyprovider import MAX_REQUEST, answer

OPTIONS = b'{"symkey":"AAAA"}'


def spelled(data):
    return base64.b64encode(data).decode()


def never(_):
    raise AssertionError("nothing is wrapped or unwrapped here")


def test_options_are_wrapped_and_come_back():
    key = rsa.generate_private_key(65537, 3072)

    def wrap(options):
        return jwe.wrap(options, [key.public_key()], os.urandom)

    parameters = {
        "ec": {"Parameters": {}, "DecryptConfig": {"Parameters": None}},
        "optsdata": spelled(OPTIONS),
    }
    request = {
        "op": "keywrap",
        "keywrapparams": parameters,
        "keyunwrapparams": {"dc": None, "annotation": None},
    }
    given_back = json.loads(answer(json.dumps(request).encode(), wrap, never))
    annotation = given_back["keywrapresults"]["annotation"]
    assert OPTIONS not in base64.b64decode(annotation)
    request = {"op": "keyunwrap", "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": annotation}}
    opened = json.loads(
        answer(json.dumps(request).encode(), never, lambda one: jwe.unwrap(one, jwe.unwrap_with(key)))
    )
    assert opened == {"keyunwrapresults": {"optsdata": spelled(OPTIONS)}}


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": "keysteal"},
        {"op": ["keywrap"]},
        {"op": "keywrap"},
        {"op": "keywrap", "keywrapparams": []},
        {"op": "keywrap", "keywrapparams": {"optsdata": ""}},
        {"op": "keywrap", "keywrapparams": {"optsdata": "SECRET!"}},
        {"op": "keyunwrap", "keyunwrapparams": {"optsdata": "AAAA"}},
        {"op": "keyunwrap", "keyunwrapparams": {"annotation": 7}},
    ],
)
def test_what_is_no_request(request_):
    with pytest.raises(KeyRefused) as caught:
        answer(json.dumps(request_).encode(), never, never)
    assert "SECRET" not in str(caught.value)


@given(st.binary(max_size=100))
def test_whatever_is_asked_is_refused(data):
    with pytest.raises(ContainerError):
        answer(data, never, never)


def test_a_request_has_an_end():
    with pytest.raises(KeyRefused, match="more than"):
        answer(b" " * (MAX_REQUEST + 1), never, never)
