"""The registry client against a registry that misbehaves on demand: tokens, redirects, wrong, long and missing answers."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal, RegistryFailed
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.oci.references import Reference
from keyvisor_guest.containers.oci.registry import Registry
from keyvisor_guest.containers.oci.registry_http import Login, parse_challenge
from keyvisor_guest.containers.oci.secure_image import CONFIG_TYPE
from keyvisor_guest.containers.oci.transfer import pull

BLOB = b"a layer's blocks" * 1000
DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()


class Story:
    """What the registry does: answers by method and path, each a function of the request; and what it was asked."""

    def __init__(self):
        self.answers = {}
        self.seen = []
        self.bodies = []

    def on(self, method, path, status, body=b"", **headers):
        self.answers[method, path] = (
            status,
            body,
            {key.replace("_", "-"): one for key, one in headers.items()},
        )


def handler_of(story):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            path, _, query = self.path.partition("?")
            story.seen.append((self.command, path, query, self.headers.get("Authorization")))
            story.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            found = story.answers.get((self.command, path), (404, b"", {}))
            status, body, headers = found(self) if callable(found) else found
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = answer

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def serve():
    """`serve()`: a story and the `HOST:PORT` where it is played."""
    servers = []

    def start():
        story = Story()
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(story))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return story, f"127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def client(host, login=None):
    return Registry(Reference(host, "pay"), login=login, insecure_http=True)


def pull_blob(tmp_path, host, login=None):
    layout = OciLayout(tmp_path / "image")
    layout.create()
    return client(host, login).pull_blob(Descriptor("x", DIGEST, len(BLOB)), layout.blobs)


def test_a_token_is_fetched_and_used(tmp_path, serve):
    story, host = serve()
    challenge = f'Bearer realm="http://{host}/token",service="reg",scope="repository:pay:pull"'

    def blob(request):
        if request.headers.get("Authorization") != "Bearer abc":
            return 401, b"", {"WWW-Authenticate": challenge}
        return 200, BLOB, {}

    story.answers["GET", f"/v2/pay/blobs/{DIGEST}"] = blob
    story.on("GET", "/token", 200, b'{"token":"abc"}')
    login = Login("carol", "open sesame")
    assert pull_blob(tmp_path, host, login).digest == DIGEST
    asked = next(one for one in story.seen if one[1] == "/token")
    assert asked[2] == "service=reg&scope=repository%3Apay%3Apull"
    assert asked[3] == login.basic()
    assert "sesame" not in repr(login)


@pytest.mark.parametrize("challenge", ["", "Basic realm=x", 'Bearer realm=""', "Negotiate"])
def test_a_registry_that_wants_a_login(tmp_path, serve, challenge):
    story, host = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", 401, WWW_Authenticate=challenge)
    with pytest.raises(RegistryFailed, match="login") as caught:
        pull_blob(tmp_path, host)
    assert caught.value.status == 401


@pytest.mark.parametrize("token", [b"{}", b'{"token":7}', b'{"token":"a\\r\\nHost: x"}', b"[]", b"x"])
def test_tokens_that_are_none(tmp_path, serve, token):
    story, host = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", 401, WWW_Authenticate=f'Bearer realm="http://{host}/token"')
    story.on("GET", "/token", 200, token)
    with pytest.raises((RegistryFailed, ImageRefused)):
        pull_blob(tmp_path, host)


def test_a_redirect_takes_no_authorization_along(tmp_path, serve):
    story, host = serve()
    other, elsewhere = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", 307, Location=f"http://{elsewhere}/cdn")
    other.on("GET", "/cdn", 200, BLOB)
    login = Login("carol", "open sesame")
    assert pull_blob(tmp_path, host, login).digest == DIGEST
    assert story.seen[-1][3] == login.basic()
    assert other.seen[-1][3] is None


def test_redirects_in_a_circle_end(tmp_path, serve):
    story, host = serve()
    path = f"/v2/pay/blobs/{DIGEST}"
    story.on("GET", path, 302, Location=path)
    with pytest.raises(RegistryFailed, match="circle"):
        pull_blob(tmp_path, host)
    assert len(story.seen) < 10


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "http:///x", ""])
def test_redirects_to_no_registry(tmp_path, serve, target):
    story, host = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", 302, Location=target)
    with pytest.raises(RegistryFailed):
        pull_blob(tmp_path, host)


@pytest.mark.parametrize(
    ("body", "code"),
    [(BLOB + b"x", Refusal.SIZE), (BLOB[:-1], Refusal.DIGEST), (b"X" + BLOB[1:], Refusal.DIGEST)],
)
def test_a_blob_that_is_another(tmp_path, serve, body, code):
    story, host = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", 200, body)
    with pytest.raises(ImageRefused) as caught:
        pull_blob(tmp_path, host)
    assert caught.value.code is code
    assert not list((tmp_path / "image").rglob("sha256/*"))


def test_a_blob_that_is_there_and_wrong_is_fetched_again(tmp_path, serve):
    story, host = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", 200, BLOB)
    pull_blob(tmp_path, host)
    path = tmp_path / "image" / "blobs" / "sha256" / DIGEST[7:]
    pull_blob(tmp_path, host)
    assert len(story.seen) == 1
    path.write_bytes(b"changed")
    pull_blob(tmp_path, host)
    assert path.read_bytes() == BLOB


def test_a_manifest_that_is_another_or_endless(serve):
    story, host = serve()
    story.on("GET", f"/v2/pay/manifests/{DIGEST}", 200, b"{}")
    with pytest.raises(ImageRefused) as caught:
        client(host).manifest(DIGEST)
    assert caught.value.code is Refusal.DIGEST
    story.on("GET", "/v2/pay/manifests/v1", 200, b" " * (5 << 20))
    with pytest.raises(ImageRefused) as caught:
        client(host).manifest("v1")
    assert caught.value.code is Refusal.LIMIT


def test_uploads_stay_with_the_registry(tmp_path, serve):
    story, host = serve()
    other, elsewhere = serve()
    layout = OciLayout(tmp_path / "image")
    layout.create()
    stored = layout.blobs.put(BLOB)
    blob = Descriptor("x", stored.digest, stored.size)
    for place in (f"http://{elsewhere}/upload", "", f"https://{host}/upload"):
        story.on("POST", "/v2/pay/blobs/uploads/", 202, Location=place)
        with pytest.raises(RegistryFailed, match="somewhere else"):
            client(host, Login("carol", "open sesame")).push_blob(blob, layout.blobs)
    assert other.seen == []
    story.on("POST", "/v2/pay/blobs/uploads/", 202, Location="/v2/pay/blobs/uploads/1?state=7")
    story.on("PUT", "/v2/pay/blobs/uploads/1", 201)
    client(host).push_blob(blob, layout.blobs)
    assert story.seen[-1][2] == "state=7&digest=" + DIGEST.replace(":", "%3A")
    assert story.bodies[-1] == BLOB


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "may not"), (404, "not there"), (429, "later"), (500, "500")]
)
def test_what_a_registry_says_is_told(tmp_path, serve, status, reason):
    story, host = serve()
    story.on("GET", f"/v2/pay/blobs/{DIGEST}", status, b"<html>")
    with pytest.raises(RegistryFailed, match=reason) as caught:
        pull_blob(tmp_path, host)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_challenges():
    assert parse_challenge('Bearer realm="https://x/t",service="s"') == {
        "": "bearer",
        "realm": "https://x/t",
        "service": "s",
    }
    assert json.dumps(parse_challenge("Basic")) == '{"": "basic"}'


def test_an_image_that_says_it_is_endless_is_not_pulled(tmp_path, serve):
    story, host = serve()
    config = {"mediaType": CONFIG_TYPE, "digest": DIGEST, "size": 1 << 50}
    story.on(
        "GET",
        "/v2/pay/manifests/latest",
        200,
        json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode(),
        Content_Type=MANIFEST,
    )
    with pytest.raises(ImageRefused) as caught:
        pull(client(host), OciLayout(tmp_path / "image"), "v1")
    assert caught.value.code is Refusal.LIMIT
    assert len(story.seen) == 1


def test_what_a_registry_writes_does_not_reach_a_terminal(tmp_path, serve):
    story, host = serve()
    story.on("GET", "/v2/pay/manifests/latest", 200, b"{}", Content_Type="text/\x1b[31mred")
    with pytest.raises(ImageRefused) as caught:
        pull(client(host), OciLayout(tmp_path / "image"), "v1")
    assert str(caught.value).isprintable()
    assert quoted("a`b\n\x1b" + "x" * 500) == "`a?b??" + "x" * 95 + "`"
