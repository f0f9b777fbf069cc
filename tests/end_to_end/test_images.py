"""Guests from images, as owner, host and guest see them: the policy is the owner's, and a changed image starts nothing."""

from __future__ import annotations

import signal

from tests.end_to_end.conftest import HSM, SPARE, World


def _built(world: World, secret: str = "payments-signing") -> None:  # noqa: S107 - a secret's name
    """An image whose ramdisk is a directory with the policy in it."""
    place = world.directory / "root/etc/keyvisor"
    place.mkdir(parents=True)
    (place / "policy.yaml").write_bytes(world.policy(secret).read_bytes())
    world.build("payments", "--root", "root", "--cmdline", "quiet", "--output-cck", "cck")


def test_a_guest_runs_under_the_policy_of_its_image(world: World) -> None:
    _built(world)
    world.keyvisor("host", "start", "payments", "--image", "payments.img").ok()
    world.keyvisor("host", "attach", "payments", HSM, SPARE).ok()
    text = (world.directory / "payments-signing.yaml").read_text()
    assert world.keyvisor("guest", "policy", "--guest", "payments").ok() == text
    world.add_secret("payments", "payments-signing")

    wider = world.policy("payments-signing", count="all")
    refused = world.keyvisor("guest", "apply", "--guest", "payments", wider).refused()
    assert "this guest's policy is the one in its image" in refused
    assert {hsm["state"] for hsm in world.json("guest", "hsms", "--guest", "payments")["hsms"]} == {"unbound"}

    world.keyvisor("guest", "apply", "--guest", "payments").ok()
    world.tool("payments", "--login", "--keypairgen", "--key-type", "EC:secp256r1", "--label", "k").ok()
    world.restart(signal.SIGKILL)
    assert "label:      k" in world.tool("payments", "--login", "-O").ok()
    assert world.keyvisor("guest", "policy", "--guest", "payments").ok() == text
    world.keyvisor("guest", "apply", "--guest", "payments", wider).refused()


def test_a_changed_image_is_refused_in_one_line_and_starts_nothing(world: World) -> None:
    _built(world)
    image = bytearray((world.directory / "payments.img").read_bytes())
    for at, said in (
        (0x14030, "the image's header cannot be decrypted"),  # the firmware says so, of the header,
        (0x16090, "no image that starts a guest"),  # the host itself, of the IPIB,
        (len(image) - 1, "the image is not what its header was made for"),  # and the firmware, of a page
    ):
        bad = bytearray(image)
        bad[at] ^= 1
        (world.directory / "bad.img").write_bytes(bad)
        told = world.keyvisor("host", "start", "payments", "--image", "bad.img").refused()
        assert len(told.splitlines()) == 1
        assert told.startswith(f"error: {said}")
    assert world.json("host", "list")["guests"] == []
    assert [line["use"] for line in world.json("host", "storage")["held"]] == ["zone base"]
    assert not (world.state / "run/guests/payments").exists()
    world.keyvisor("host", "start", "payments", "--image", "payments.img").ok()


def test_nothing_secret_of_an_image_is_in_the_clear(world: World) -> None:
    _built(world)
    world.keyvisor("host", "start", "payments", "--image", "payments.img").ok()
    world.down()
    cck = (world.directory / "cck").read_bytes()
    kept = [path for path in world.state.rglob("*") if path.is_file()]
    assert any(path.name == "state.db" for path in kept)
    for path in (*kept, world.directory / "payments.img", world.directory / "daemon.log"):
        content = path.read_bytes()
        assert cck not in content
        assert cck.hex().encode() not in content
    assert b"payments-signing" not in (world.directory / "payments.img").read_bytes()
