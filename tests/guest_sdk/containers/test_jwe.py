"""JWE: the example of its own standard opens, and only for its recipients; what was changed anywhere opens for nobody."""

import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers import jwe
from keyvisor_guest.containers.errors import KeyRefused

# RFC 7516, A.1: the primes of its key (A.1.3) and its result in the flattened JSON of 7.2.2 (A.1.7 has it in compact form).
P = (
    "1r52Xk46c-LsfB5P442p7atdPUrxQSy4mti_tZI3Mgf2EuFVbUoDBvaRQ-SWxkbkmoEzL7JXroSBjSrK3YIQgYdMgyAEPTPjXv_hI2_1eTSPVZfzL0lf"
    "fNn03IXqWF5MDFuoUYE0hzb2vhrlN_rKrbfDIwUbTrjjgieRbwC6Cl0"
)
Q = (
    "wLb35x7hmQWZsWJmB_vle87ihgZ19S8lBEROLIsZG4ayZVe9Hi9gDVCOBmUDdaDYVTSNx_8Fyw1YYa9XGrGnDew00J28cRUoeBB_jKI1oma0Orv1T9aX"
    "IWxKwd4gvxFImOWr3QRL9KEBRzk2RatUBnmDZJTIAfwTs0g68UZHvtc"
)
EXAMPLE = {
    "protected": "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ",
    "encrypted_key": (
        "OKOawDo13gRp2ojaHV7LFpZcgV7T6DVZKTyKOMTYUmKoTCVJRgckCL9kiMT03JGeipsEdY3mx_etLbbWSrFr05kLzcSr4qKAq7YN7e9jwQRb23nf"
        "a6c9d-StnImGyFDbSv04uVuxIp5Zms1gNxKKK2Da14B8S4rzVRltdYwam_lDp5XnZAYpQdb76FdIKLaVmqgfwX7XWRxv2322i-vDxRfqNzo_tETK"
        "zpVLzfiwQyeyPGLBIO56YJ7eObdv0je81860ppamavo35UgoRdbYaBcoh9QcfylQr66oc6vFWXRcZ_ZT2LawVCWTIy3brGPi6UklfCpIMfIjf7iG"
        "dXKHzg"
    ),
    "iv": "48V1_ALb6US04U3b",
    "ciphertext": "5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A",
    "tag": "XFBoMYUZodetZdvTiFvSkQ",
}


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def key_of(p, q, e=65537):
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


@pytest.fixture(scope="module")
def keys():
    return [rsa.generate_private_key(65537, 3072) for _ in range(3)]


def test_the_example_of_rfc_7516():
    open_key = jwe.unwrap_with(key_of(number(P), number(Q)))
    payload = jwe.unwrap(json.dumps(EXAMPLE).encode(), open_key)
    assert payload == b"The true sign of intelligence is not knowledge but imagination."


@pytest.mark.parametrize("count", [1, 2])
def test_it_opens_for_its_recipients_only(keys, count):
    recipients, stranger = keys[:count], keys[2]
    data = jwe.wrap(b"volume key", [one.public_key() for one in recipients], os.urandom)
    for one in recipients:
        assert jwe.unwrap(data, jwe.unwrap_with(one)) == b"volume key"
    with pytest.raises(KeyRefused, match="wrapped for others"):
        jwe.unwrap(data, jwe.unwrap_with(stranger))
    assert b"volume key" not in data


@given(at=st.integers(0, 1 << 20), sign=st.sampled_from("AZaz09-_"), count=st.sampled_from([1, 2]))
@settings(max_examples=150, deadline=None)
def test_whatever_letter_is_changed_it_does_not_open(keys, at, sign, count):
    data = jwe.wrap(b"volume key", [one.public_key() for one in keys[:count]], lambda length: bytes(length))
    text = data.decode()
    values = [place for place, one in enumerate(text) if one.isalnum() or one in "-_"]
    place = values[at % len(values)]
    changed = text[:place] + sign + text[place + 1 :]
    opened = [jwe.unwrap_with(one) for one in keys[:count]]
    if changed == text:
        return
    results = set()
    for one in opened:
        try:
            results.add(jwe.unwrap(changed.encode(), one))
        except KeyRefused:
            results.add(None)
    # With two recipients the other's wrapped key may be what was changed: then it is still what was wrapped.
    assert results <= {None, b"volume key"}
    if count == 1:
        assert results == {None}


@given(st.binary(max_size=200))
def test_whatever_comes_is_refused(data):
    with pytest.raises(KeyRefused):
        jwe.unwrap(data, lambda _: bytes(32))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "RSA-OAEP", "enc": "A128GCM"},
        {"alg": "RSA1_5", "enc": "A256GCM"},
        {"alg": "dir", "enc": "A256GCM"},
        {"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF"},
        {"alg": "RSA-OAEP", "enc": "A256GCM", "crit": ["exp"], "exp": 1},
    ],
    ids=str,
)
def test_a_header_that_wants_something_else(keys, header):
    members = json.loads(jwe.wrap(b"x", [keys[0].public_key()], os.urandom))
    members["protected"] = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    with pytest.raises(KeyRefused):
        jwe.unwrap(json.dumps(members).encode(), jwe.unwrap_with(keys[0]))


def test_who_wraps_for_nobody_or_for_a_short_key(keys):
    with pytest.raises(ValueError, match="one recipient at least"):
        jwe.wrap(b"x", [], os.urandom)
    short = rsa.generate_private_key(65537, 2048)
    with pytest.raises(KeyRefused, match="2048 bits is too short"):
        jwe.wrap(b"x", [keys[0].public_key(), short.public_key()], os.urandom)


def test_more_recipients_than_are_tried(keys):
    """Each is a private-key operation, in an HSM perhaps."""
    asked = []
    members = json.loads(jwe.wrap(b"x", [one.public_key() for one in keys[:2]], os.urandom))
    members["recipients"] *= 33
    with pytest.raises(KeyRefused):
        jwe.unwrap(json.dumps(members).encode(), lambda wrapped: asked.append(wrapped) or b"")
    assert asked == []
