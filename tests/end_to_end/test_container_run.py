"""A secure container beside its guest: the key from the guest's secret store, the program in a sandbox, the guest's door in it.

With a real firmware, a real image of this machine's programs, and both ways to its files where this machine has FUSE.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import BLOCKS_TYPES
from keyvisor_guest.containers.release import parse_release
from keyvisor_guest.containers.running.roots import fuse_is_missing

from .conftest import HSM, World, worlds
from .secrecy import nowhere
from .small_image import DATA, write_source
from .test_container_images import registry, skopeo  # noqa: F401  # a fixture

GUEST = "payments"


class Host(World):
    """The world, with images in it."""

    def run_image(self, *words: str | Path, image: str = "image:v2", guest: str = GUEST) -> str:
        """What a container says; it has ended well."""
        return self.keyvisor("image", "run", image, "--guest", guest, *words).ok()

    def refused_image(self, *words: str | Path, image: str = "image:v2", guest: str = GUEST) -> str:
        """Why it is refused; nothing of it has run."""
        told = self.keyvisor("image", "run", image, "--guest", guest, *words).refused()
        assert "started" not in told
        return told

    @contextlib.contextmanager
    def started(self, *words: str | Path, image: str = "image:v2") -> Iterator[subprocess.Popen[str]]:
        """A container that says `ready` and waits for a line."""
        with subprocess.Popen(
            ["keyvisor", "image", "run", image, "--guest", GUEST, "-q", *map(str, words)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as running:
            try:
                assert running.stdout is not None
                if (line := running.stdout.readline()) != "ready\n":
                    running.kill()
                    pytest.fail(line + running.stdout.read())
                yield running
            finally:
                running.kill()

    def left_over(self) -> set[str]:
        """What runs have left: directories, and mounts that others see."""
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return {one.name for one in self.temporary.iterdir()} | {
            line for line in mounts if str(self.temporary) in line
        }

    @property
    def temporary(self) -> Path:
        """Where temporary files go."""
        return self.directory / "t, a:b"

    def give_key(self, release: Path, guest: str, name: str = "volume-key") -> None:
        """The owner's request that carries a release, handed in."""
        words = ("owner", "request", "retrievable", name, "--type", "plain", "--secret", release)
        made = ("--identity", f"{guest}.identity", "--output", f"{name}.request", "--force")
        self.keyvisor(*words, "--host-key-document", "host-key.pem", "--no-verify", *made).ok()
        self.keyvisor("guest", "secret", "add", "--guest", guest, f"{name}.request").ok()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """The guest `payments` with an HSM and the key of an image, good from version 2 on; the image in versions 1 and 2."""
    with worlds() as make:
        made = make()
        made.__class__ = Host
        assert isinstance(made, Host)
        made.temporary.mkdir()
        made.environment["TMPDIR"] = str(made.temporary)
        made.up()
        made.ready(GUEST, "payments-signing")
        write_source(made.directory / "source", "v1")
        build = ("image", "build", "source:v1", "--name", "pay", "--release", "min-version")
        made.keyvisor(*build, "-o", "image:v2", "--version", "2", "--key-out", "v2.key").ok()
        made.keyvisor(*build, "-o", "image:v1", "--version", "1", "--key", "v2.key").ok()
        made.give_key(made.directory / "v2.key", GUEST)
        yield made


@pytest.fixture(params=["extract", "fuse"])
def files(request: pytest.FixtureRequest) -> str:
    if request.param == "fuse" and (missing := fuse_is_missing()) is not None:
        pytest.skip(f"no FUSE here: {missing}")
    return str(request.param)


def test_T10_it_runs_as_its_config_says_with_the_key_of_the_guests_store(host: Host, files: str) -> None:
    told = host.run_image("--files", files).splitlines()
    assert told[0].startswith(f"{files}: ")
    assert told[1:5] == ["started", "1000", "2000", "/srv/work"]
    variables = dict(line.split("=", 1) for line in told[5:])
    del variables["PWD"]
    assert variables == {
        "GREETING": "good morning",
        "PATH": "/bin",
        "HOME": "/home/pay",
        "P11_KIT_SERVER_ADDRESS": "unix:path=/run/keyvisor/pkcs11.sock",
        "KEYVISOR_PKCS11_MODULE": "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"
        if os.uname().machine == "x86_64"
        else variables["KEYVISOR_PKCS11_MODULE"],
    }
    assert not host.left_over()


def test_the_exit_code_is_the_programs(host: Host, files: str) -> None:
    run = ("image", "run", "image:v2", "--guest", GUEST, "--files", files)
    assert host.keyvisor(*run, "--", "exit 7").code == 7
    assert host.keyvisor(*run, "--", "kill -9 $$").code == 137
    assert not host.left_over()


def test_what_is_written_lives_one_run(host: Host, files: str) -> None:
    program = "echo more >> /srv/data && touch /new /srv/work/new /tmp/new && ls -d /new /srv/work/new && cat /srv/data"
    told = host.run_image("--files", files, "-q", "--", program)
    assert told == "/new\n/srv/work/new\n" + DATA.decode() + "more\n"
    told = host.run_image("--files", files, "-q", "--", "ls / /srv/work /tmp; cat /srv/data")
    assert "new" not in told.removesuffix(DATA.decode()).split()
    assert told.endswith(DATA.decode())


def test_what_a_container_sees(host: Host, files: str) -> None:
    """Of this machine no process, no file, no network, no descriptor of ours."""
    program = "ls /proc; echo --; ls /; echo --; ls -l /proc/self/fd; echo --; cat /proc/net/dev; ls -la /run/keyvisor"
    processes, root, descriptors, rest = host.run_image("--files", files, "-q", "--", program).split("--\n")
    assert {int(one) for one in processes.split() if one.isdigit()} <= set(range(1, 9))
    assert set(root.split()) <= {"bin", "dev", "etc", "lib", "lib64", "proc", "run", "srv", "tmp", "usr"}
    numbers = {line.split(" -> ")[0].split()[-1] for line in descriptors.splitlines() if " -> " in line}
    assert numbers <= {"0", "1", "2", "3"}
    assert "eth" not in rest
    assert "pkcs11.sock" in rest
    assert "guest.sock" not in rest


def test_both_ways_show_the_same_files(host: Host) -> None:
    """Names, modes, sizes, times to the nanosecond, targets, contents. Sizes of directories are the file system's own."""
    if (missing := fuse_is_missing()) is not None:
        pytest.skip(f"no FUSE here: {missing}")
    program = "ls -lARn --full-time /bin /etc /lib /usr /srv; cat /etc/* /srv/data"
    told = [host.run_image("--files", one, "-q", "--", program).splitlines() for one in ("fuse", "extract")]
    shown = [[line for line in lines if not line.startswith(("d", "total"))] for lines in told]
    assert len(shown[0]) > 3000
    assert shown[0] == shown[1]


def test_the_guests_door_is_in_the_container_until_it_is_unbound(host: Host) -> None:
    """The stock tool in the container signs in the guest's HSM; afterwards the door answers it no more."""
    tool = f'pkcs11-tool --module "$KEYVISOR_PKCS11_MODULE" --token-label {HSM} --login'
    make = f"{tool} --keypairgen --key-type EC:secp256r1 --id 01 >/dev/null"
    digest = "printf 0123456789abcdef0123456789abcdef >/tmp/digest"
    sign = f"{tool} --sign --mechanism ECDSA --id 01 --input-file /tmp/digest --output-file /tmp/s >/dev/null"
    program = f"{make} && {digest} && {sign} 2>/dev/null && cat /tmp/s >/dev/null && echo ready || exit 9; read line; {sign}"
    program += " && echo signed again; exit 5"
    with host.started("--", program) as running:
        host.keyvisor("guest", "unbind", HSM, "--guest", GUEST).ok()
        told, _ = running.communicate("go\n", timeout=60)
    host.keyvisor("guest", "apply", "--guest", GUEST, host.policy("payments-signing")).ok()
    assert running.returncode == 5
    assert "No slot with token named" in told
    assert "signed again" not in told


def test_a_block_changed_under_a_running_container_is_an_io_error(host: Host) -> None:
    """Blocks are read as they are asked for: what the host changes meanwhile is an I/O error, and never other bytes."""
    if (missing := fuse_is_missing()) is not None:
        pytest.skip(f"no FUSE here: {missing}")
    host.keyvisor("image", "build", "source:v1", "-o", "flipped", "--key-out", "flipped.key").ok()
    program = 'echo ready; read line; cat /srv/data; echo "code $?"'
    with host.started("--files", "fuse", "--key", "flipped.key", "--", program, image="flipped") as running:
        change_every_block(OciLayout(host.directory / "flipped"), layer=1)
        told, _ = running.communicate("go\n", timeout=60)
    assert "code 1" in told
    assert "Input/output error" in told
    assert DATA[:30].decode() not in told
    assert "is not as it was built" in told
    assert host.keyvisor("image", "run", "flipped", "--key", "flipped.key", "--files", "extract").code == 1


def blocks_of(layout: OciLayout, layer: int, tag: str | None = None) -> Path:
    from keyvisor_guest.containers.oci.blobs import read_document
    from keyvisor_guest.containers.oci.secure_image import parse_secure_manifest

    secure = parse_secure_manifest(read_document(layout.blobs, layout.find(tag).digest, 1 << 20))
    assert secure.layers[layer].data.media_type == BLOCKS_TYPES[Cipher.GCM]
    return layout.blobs.path_of(secure.layers[layer].data.digest)


def change_every_block(layout: OciLayout, layer: int) -> None:
    """A bit of each, in place."""
    with blocks_of(layout, layer).open("r+b") as file:
        for offset in range(0, file.seek(0, os.SEEK_END), BLOCK):
            file.seek(offset + 77)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 0x10]))


def test_attack9_an_older_image_is_refused_before_anything_starts(host: Host) -> None:
    told = host.refused_image(image="image:v1")
    assert "this is version 1, and the key was released for 2 and later" in told
    assert not host.left_over()


def test_another_image_under_the_same_key_is_refused(host: Host) -> None:
    other = ("image", "build", "source:v1", "--name", "other", "--release", "min-version", "--version", "9")
    host.keyvisor(*other, "-o", "image:other", "--key", "v2.key").ok()
    assert "the key was released for the image" in host.refused_image(image="image:other")


def test_attack7_a_changed_config_is_refused_before_anything_starts(host: Host) -> None:
    """With every digest put right, as a host can: only the image root tells."""
    import json
    import shutil

    shutil.copytree(host.directory / "image", host.directory / "forged")
    layout = OciLayout(host.directory / "forged")
    image = layout.find("v2")
    manifest = json.loads(layout.blobs.path_of(image.digest).read_bytes())
    config = json.loads(layout.blobs.path_of(manifest["config"]["digest"]).read_bytes())
    config["config"]["Cmd"] = ["echo started with the host's command"]
    stored = layout.blobs.put(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    manifest["config"] |= {"digest": stored.digest, "size": stored.size}
    data = layout.blobs.put(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
    layout.tag(type(image)(image.media_type, data.digest, data.size), "v2")
    assert "not those that the image's owner put together" in host.refused_image(image="forged:v2")


def test_attack1_a_changed_block_is_refused_before_anything_starts_where_files_are_extracted(
    host: Host,
) -> None:
    host.keyvisor("image", "build", "source:v1", "-o", "bad", "--key-out", "bad.key").ok()
    change_every_block(OciLayout(host.directory / "bad"), layer=1)
    told = host.refused_image("--key", "bad.key", "--files", "extract", image="bad")
    assert "is not as it was built" in told
    assert not host.left_over()


def test_who_has_no_key_runs_nothing(host: Host) -> None:
    told = host.refused_image("--secret", "another")
    assert "no secret of the guest has the name `another`" in told
    assert "keyvisor owner request retrievable another" in told
    assert "never handed out" in host.refused_image("--secret", "payments-signing")
    assert "no guest `nobody`" in host.refused_image(guest="nobody")
    told = host.keyvisor("image", "run", "image:v2").told
    assert "or --guest" in told


def test_another_guest_gets_the_key_only_from_its_own_store(host: Host) -> None:
    host.guest("reports")
    assert "no secret of the guest has the name `volume-key`" in host.refused_image(guest="reports")
    host.keyvisor("host", "stop", "reports").ok()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_the_program_and_all_is_put_away(host: Host, files: str, number: int) -> None:
    program = 'trap "echo caught; exit 3" TERM INT; echo ready; sleep 60 & wait'
    with host.started("--files", files, "--", program) as running:
        running.send_signal(number)
        told, _ = running.communicate(timeout=60)
    assert (told, running.returncode) == ("caught\n", 3)
    assert not host.left_over()


def test_T9_the_key_is_in_nobodys_argv_environment_files_or_storage(host: Host, files: str) -> None:
    """The machine's storage, which is the host's memory, is in the state directory."""
    release = parse_release((host.directory / "v2.key").read_bytes())
    with host.started("--files", files, "--", "echo ready; read line") as running:
        processes = [running.pid]
        for one in processes:
            below = Path(f"/proc/{one}/task/{one}/children").read_text(encoding="ascii").split()
            processes += map(int, below)
        assert len(processes) >= 3
        places = [Path(f"/proc/{one}/{name}") for one in processes for name in ("cmdline", "environ")]
        contents = b"\n".join(place.read_bytes() for place in places).decode("utf-8", "replace")
        told, _ = running.communicate("go\n", timeout=60)
    assert running.returncode == 0
    nowhere([release.key.reveal()], [host.directory / "image", host.state], contents, told, host.log())


def test_who_is_not_root_runs_it_too(host: Host, files: str) -> None:
    """In a user namespace without root, as an ordinary user has it."""
    release = host.directory / "v2.key"
    words = (
        "--map-user",
        "1234",
        "--map-group",
        "1234",
        "keyvisor",
        "image",
        "run",
        "image:v2",
        "--key",
        release,
    )
    done = host.run("unshare", "--user", *words, "--files", files, "-q", "--", "touch /srv/new; id -u; id -g")
    assert done.ok() == "1000\n2000\n"


def test_where_fuse_does_not_mount_files_are_extracted_and_it_is_said(host: Host) -> None:
    """Something else stands at the device's place, among mounts of the test's own."""
    if os.geteuid() != 0 or fuse_is_missing() is not None:
        pytest.skip("no FUSE here that could be taken away")
    run = f"keyvisor image run image:v2 --guest {GUEST} --files"
    program = (
        f"mount --bind /dev/null /dev/fuse && {run} auto -- 'echo run' && {run} fuse -- 'echo run again'"
    )
    told = host.run("unshare", "--mount", "sh", "-c", program).refused()
    assert (
        "extract: all files were verified and laid out in memory, since FUSE cannot be mounted here" in told
    )
    assert "\nrun\n" in told
    assert "run again" not in told
    assert not host.left_over()


def test_root_without_power_runs_it_as_others_do(host: Host, files: str) -> None:
    """As in a container of somebody else's."""
    if os.geteuid() != 0:
        pytest.skip("only root can give its power away")
    words = ("keyvisor", "image", "run", "image:v2", "--guest", GUEST, "-q", "--files", files, "--", "id -u")
    assert host.run("setpriv", "--bounding-set", "-sys_admin", *words).ok() == "1000\n"


def test_an_image_is_pulled_out_of_a_registry_and_run(host: Host, registry: str) -> None:  # noqa: F811  # the fixture
    place = f"docker://{registry}/pay/app:v2"
    host.keyvisor("image", "push", "image:v2", place, "--insecure-http").ok()
    told = host.run_image("--insecure-http", "-q", "--", "echo started from there", image=place)
    assert told == "started from there\n"
    assert not host.left_over()


def test_served_over_nbd_with_the_guests_key(host: Host) -> None:
    folder = host.directory / "nbd"
    folder.mkdir(mode=0o700)
    words = ["keyvisor", "image", "serve", "image:v2", "--guest", GUEST, "--nbd", "nbd/s"]
    from ..guest_sdk.containers.nbd_client import Client

    with subprocess.Popen(
        words,
        cwd=host.directory,
        env=host.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as served:
        try:
            assert served.stdout is not None
            assert served.stdout.readline() == f"ready: nbd+unix:///?socket={folder}/s\n"
            with Client(folder / "s") as client:
                client.go()
                error, superblock = client.read(1024, 1024)
                assert (error, superblock[56:58]) == (0, b"\x53\xef")
                served.send_signal(signal.SIGTERM)
                told, _ = served.communicate(timeout=60)
        finally:
            served.kill()
    assert (told, served.returncode) == ("", 0)
    assert not (folder / "s").exists()
    serve = ("image", "serve", "image:v1", "--guest", GUEST, "--nbd", "nbd/s")
    assert "this is version 1" in host.keyvisor(*serve).refused()


def test_T10_with_a_key_of_the_guests_hsm_it_runs_until_the_hsm_is_unbound(host: Host) -> None:
    key = "pkcs11:object=kek"
    kept = ("--login", "--keygen", "--key-type", "AES:32", "--label", "kek", "--sensitive")
    host.tool(GUEST, *kept).ok()
    host.keyvisor("image", "build", "source:v1", "-o", "wrapped", "--key-out", "wrapped.key").ok()
    rewrap = ("image", "rewrap", "wrapped", "--key", "wrapped.key", "--guest", GUEST, "--recipient", key)
    host.keyvisor(*rewrap).ok()
    host.run_image("--key", key, image="wrapped")
    host.keyvisor("guest", "unbind", HSM, "--guest", GUEST).ok()
    host.refused_image("--key", key, image="wrapped")
    host.keyvisor("guest", "apply", "--guest", GUEST, host.policy("payments-signing")).ok()
    host.run_image("--key", key, image="wrapped")


def test_when_its_guest_stops_the_door_is_shut_and_nothing_runs_anew(host: Host) -> None:
    """The last test: the guest is gone afterwards."""
    tool = f'pkcs11-tool --module "$KEYVISOR_PKCS11_MODULE" --token-label {HSM} --login -O'
    program = f"{tool} >/dev/null 2>&1 && echo ready || exit 9; read line; {tool} && echo still there; exit 5"
    with host.started("--", program) as running:
        host.keyvisor("host", "stop", GUEST).ok()
        told, _ = running.communicate("go\n", timeout=60)
    assert running.returncode == 5
    assert "still there" not in told
    assert f"no guest `{GUEST}`" in host.refused_image()
    host.build(GUEST)
    host.keyvisor("host", "start", GUEST, "--image", f"{GUEST}.img").ok()
    assert "no secret of the guest has the name `volume-key`" in host.refused_image()
