"""What is lost between the module and an application is told, and told as it is."""

from __future__ import annotations

import re

from tests.end_to_end.conftest import HSM, World


def test_the_table_says_what_an_application_finds(associated: World) -> None:
    """Compared with the list that the real client lets through, whichever release is installed."""
    told = associated.json("guest", "mechanisms", "--guest", "payments", "--hsm", HSM)
    (hsm,) = told["hsms"]
    assert hsm["apqn"] == HSM
    assert told["client"] != "unknown"
    code = (
        "import sys; from keyvisor_guest import Guest; token = Guest().pkcs11().get_token(token_label=sys.argv[1]); "
        "print(*(int(one) for one in token.slot.get_mechanisms()))"
    )
    listed = associated.keyvisor("guest", "exec", "--guest", "payments", "--", "python", "-c", code, HSM).ok()
    found = {int(word) for word in listed.split()}
    assert found == {one["type"] for one in hsm["mechanisms"] if one["carried"]}
    assert all(one["allowed"] for one in hsm["mechanisms"])
    assert len(found) < len(hsm["mechanisms"]) or told["client"] != "0.24"


def test_the_table_and_the_doctor_count_alike(associated: World) -> None:
    table = associated.keyvisor("guest", "mechanisms", "--guest", "payments").ok()
    summary = table.splitlines()[-1]
    counted = re.fullmatch(r"(\d+) mechanisms; this client \(release .*\) carries (\d+): .*", summary)
    assert counted is not None, summary
    checks = {check["check"]: check["found"] for check in associated.json("doctor")["checks"]}
    assert f"carries {counted[2]} of the module's {counted[1]}" in checks["all mechanisms"]
    assert len(table.splitlines()) == int(counted[1]) + 2
