"""The sandbox's command line: what it shares, and what lies over what."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.running.process import Process
from keyvisor_guest.containers.running.sandbox import DOOR, MOUNT_POINTS, Door, sandboxed

ROOT = Path("/tmp/run-1/root")
PROCESS = Process(("/bin/pay", "--all"), (("A", "1"), ("PATH", "/bin")), 1000, 2000, "/srv")
SOCKET = Path("/state/run/guests/pay/pkcs11.sock")


def test_golden() -> None:
    made = sandboxed(ROOT, PROCESS, Door(SOCKET, "/usr/lib/pkcs11/p11-kit-client.so"))
    assert made.arguments == ("/bin/pay", "--all")
    assert " ".join(made.options) == (
        "--unshare-all --unshare-user --uid 1000 --gid 2000 --hostname container --die-with-parent --new-session"
        " --cap-drop ALL --bind /tmp/run-1/root / --proc /proc --dev /dev --perms 1777 --tmpfs /tmp"
        " --tmpfs /run/keyvisor --ro-bind /state/run/guests/pay/pkcs11.sock /run/keyvisor/pkcs11.sock"
        " --remount-ro /run/keyvisor --clearenv --setenv A 1 --setenv PATH /bin"
        " --setenv P11_KIT_SERVER_ADDRESS unix:path=/run/keyvisor/pkcs11.sock"
        " --setenv KEYVISOR_PKCS11_MODULE /usr/lib/pkcs11/p11-kit-client.so --chdir /srv"
    )
    assert made.passed().split(b"\0")[:2] == [b"--unshare-all", b"--unshare-user"]
    assert made.passed().endswith(b"\0/srv\0")


def test_without_a_guest_there_is_no_door() -> None:
    words = sandboxed(ROOT, PROCESS).options
    assert DOOR not in words
    assert "P11_KIT_SERVER_ADDRESS" not in words


def test_the_guests_door_is_not_what_the_image_says() -> None:
    """An image cannot lead its own programs elsewhere: who names a guest means that guest."""
    process = Process(PROCESS.arguments, (("P11_KIT_SERVER_ADDRESS", "unix:path=/x"),), 0, 0, "/")
    words = sandboxed(ROOT, process, Door(SOCKET)).options
    assert words.count("P11_KIT_SERVER_ADDRESS") == 1
    assert "unix:path=/x" not in words


def test_a_network_only_where_it_is_asked_for() -> None:
    assert "--share-net" not in sandboxed(ROOT, PROCESS).options
    assert "--share-net" in sandboxed(ROOT, PROCESS, network=True).options


def test_every_mount_in_the_root_has_its_place_made_first() -> None:
    """A link of the image at such a place would lead the mount elsewhere: `make_directories` refuses it."""
    words = sandboxed(ROOT, PROCESS, Door(SOCKET)).options
    mounted = {words[n + 1] for n, word in enumerate(words) if word in ("--proc", "--dev", "--tmpfs")}
    assert mounted == {f"/{one}" for one in MOUNT_POINTS}


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.text()).filter(lambda one: "\0" not in "".join(one)), max_size=5
    )
)
def test_values_stay_values(environment: list[tuple[str, str]]) -> None:
    """Whatever a config's environment holds, it is one word of its own."""
    process = Process(("/bin/a",), tuple(environment), 0, 0, "/")
    words = sandboxed(ROOT, process).options
    start = words.index("--clearenv")
    assert list(words[start + 1 :: 3])[: len(dict(environment))] == ["--setenv"] * len(dict(environment))
    assert words[-2:] == ("--chdir", "/")
