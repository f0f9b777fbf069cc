"""Logins out of a file: what skopeo writes is read, and nothing of it is in an error."""

from __future__ import annotations

import base64
import json
import traceback
from pathlib import Path

import pytest

from keyvisor_guest.containers.errors import RegistryFailed
from keyvisor_guest.containers.oci.auth_files import login_for

PASSWORD = "geheim:mit:Punkten"
AUTH = base64.b64encode(f"owner:{PASSWORD}".encode()).decode()


def test_a_login_by_host_and_port(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {"localhost:5000": {"auth": AUTH}, "example.com": {}}}))
    login = login_for(file, "localhost:5000")
    assert (login.user, login.password) == ("owner", PASSWORD)
    assert PASSWORD not in repr(login)
    for host in ("localhost", "example.com"):
        with pytest.raises(RegistryFailed, match="skopeo login"):
            login_for(file, host)


@pytest.mark.parametrize(
    "text",
    [
        "geheim",
        "[]",
        '{"auths": 1}',
        '{"auths": {"h": "geheim"}}',
        '{"auths": {"h": {"auth": "geheim!"}}}',
        '{"auths": {"h": {"auth": "Z2VoZWlt"}}}',
        '{"auths": {"h": {"auth": "/////w=="}}}',
        '{"auths": {"h": {"auth": ["geheim"]}}}',
    ],
)
def test_another_file_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "auth.json"
    file.write_text(text)
    with pytest.raises(RegistryFailed) as refused:
        login_for(file, "h")
    shown = "".join(traceback.format_exception(refused.value, chain=True))
    assert "geheim" not in str(refused.value)
    assert '"geheim' not in shown.replace(text, "")
