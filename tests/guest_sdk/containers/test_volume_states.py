"""From layers to checked states and the blocks that each changed."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from keyvisor_guest.containers import volume_states
from keyvisor_guest.containers.errors import ImageRefused, Refusal, VolumeUnusable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.tar_layers import Entry, Kind
from keyvisor_guest.containers.volume_states import Measured, State, VolumeSize, build_states

from .archives import a_file, a_link, an_entry, names, read_at

BLOCK = 4096
SIZE = VolumeSize(blocks=16_384, inodes=8192)
UUID_ = UUID(int=4)
SECRET = b"a secret of the layer"


def build(directory: Path, layers: Iterable[list[Entry]]) -> Iterator[State]:
    return build_states(directory, UUID_, SIZE, layers)


def patched(pieces: list[State], contents: list[dict[int, bytes]], layer: int) -> Callable[[int, int], bytes]:
    """A volume put together from the differences alone, as a reader of the image does it."""
    whole = bytearray(SIZE.blocks * BLOCK)
    for state, content in list(zip(pieces, contents, strict=True))[: layer + 1]:
        for first, count in state.differences.zero:
            whole[first * BLOCK : (first + count) * BLOCK] = bytes(count * BLOCK)
        for block, data in content.items():
            whole[block * BLOCK : (block + 1) * BLOCK] = data
    return lambda offset, length: bytes(whole[offset : offset + length])


def changed_blocks(state: State) -> dict[int, bytes]:
    data = read_at(state.path)
    return {
        block: data(block * BLOCK, BLOCK)
        for first, count in state.differences.changed
        for block in range(first, first + count)
    }


def test_the_volume_after_each_layer_is_made_of_differences_alone(tmp_path: Path) -> None:
    random = os.urandom(900_000)
    layers = [
        [a_file("app", random), a_file("etc/conf", b"one")],
        [an_entry("etc", Kind.WHITEOUT), a_file("lib", random[:50_000]), a_link("lib2", "lib")],
        [],
        [a_file("app", b"small")],
    ]
    states, contents, seen = [], [], []
    for state in build(tmp_path, layers):
        states.append(state)
        contents.append(changed_blocks(state))
        seen.append(names(state.path))
        whole = patched(states, contents, state.layer)
        assert whole(0, SIZE.blocks * BLOCK) == state.path.read_bytes()
    assert seen[1] == [b"app", b"lib", b"lib2"]
    last = VolumeReader(patched(states, contents, 3))
    assert last.read(last.find((b"app",))) == b"small"


def test_only_what_changed_is_in_a_difference(tmp_path: Path) -> None:
    """T2: a small layer over a large one is a few blocks, and none of the large one's."""
    large = [a_file(f"d/{number}", os.urandom(50_000)) for number in range(200)]
    sizes = [len(changed_blocks(state)) for state in build(tmp_path, [large, [a_file("d/new", b"x")]])]
    assert sizes[0] > 200 * 12
    assert sizes[1] <= 12


@pytest.mark.parametrize("layer", [[], [an_entry("old", Kind.WHITEOUT)], [a_file("hole", bytes(9 << 20))]])
def test_layers_without_data_are_small(tmp_path: Path, layer: list[Entry]) -> None:
    """T8: an empty layer, one with deletions only, a sparse file."""
    states = build(tmp_path, [[a_file("old", os.urandom(500_000))], layer])
    assert [len(changed_blocks(state)) < 12 for state in states] == [False, True]


def test_a_deleted_file_is_in_no_higher_difference(tmp_path: Path) -> None:
    layers = [
        [a_file("secret", SECRET * 500)],
        [an_entry("secret", Kind.WHITEOUT)],
        [a_file("new", b"x" * 9000)],
    ]
    found = [
        any(SECRET in data for data in changed_blocks(state).values()) for state in build(tmp_path, layers)
    ]
    assert found == [True, False, False]


def test_one_state_stays_and_it_has_its_holes(tmp_path: Path) -> None:
    for state in build(tmp_path, [[a_file("a", b"x")], [a_file("b", b"y")], [a_file("c", b"z")]]):
        last = state.path
    assert list(tmp_path.iterdir()) == [last]
    assert last.stat().st_size == SIZE.blocks * BLOCK
    assert last.stat().st_blocks * 512 < 1 << 20


def test_an_ordinary_user_builds_devices_and_setuid_programs(tmp_path: Path) -> None:
    """Nothing is mounted and nothing belongs to anybody: the volume is a file."""
    if os.getuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    tmp_path.chmod(0o777)
    for above in tmp_path.parents[:3]:
        if not above.stat().st_mode & stat.S_IXOTH:
            above.chmod(above.stat().st_mode | stat.S_IXOTH)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            layer = [
                a_file("su", b"x", 0o4755),
                an_entry("null", Kind.CHARACTER_DEVICE, 0o666, device=(1, 3)),
            ]
            list(build(tmp_path, [layer]))
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    volume = VolumeReader(read_at(tmp_path / "layer-0.ext4"))
    assert volume.find((b"su",)).inode.mode == stat.S_IFREG | 0o4755
    assert volume.find((b"null",)).inode.device == (1, 3)


def test_a_damaged_state_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = volume_states.Volume.apply

    def damaging(volume: volume_states.Volume, layer: int, entries: Iterable[Entry]) -> None:
        sound(volume, layer, entries)
        with (tmp_path / f"layer-{layer}.ext4").open("r+b") as file:
            file.seek(BLOCK)
            file.write(b"\xff" * 64)

    monkeypatch.setattr(volume_states.Volume, "apply", damaging)
    with pytest.raises(VolumeUnusable, match="e2fsck finds the volume damaged"):
        next(build(tmp_path, [[]]))


def test_more_layers_than_an_image_may_have(tmp_path: Path) -> None:
    states = build_states(tmp_path, UUID_, SIZE, [[], [], []], Limits(layers=2))
    assert [next(states).layer, next(states).layer] == [0, 1]
    with pytest.raises(ImageRefused, match="more than 2 layers: squash") as refused:
        next(states)
    assert refused.value.code is Refusal.LIMIT


class TestSize:
    def test_of_nothing(self) -> None:
        assert Measured().size() == VolumeSize(blocks=16_384, inodes=8192)

    def test_at_least(self) -> None:
        assert Measured().size(at_least=(1 << 30) + 1).blocks * BLOCK == (1 << 30) + (64 << 20)

    @pytest.mark.parametrize(
        "layers",
        [
            [[a_file(f"{number}", bytes([number]) * 4097) for number in range(1, 256)] * 80],
            [[a_file("/".join([f"{number}", *"x" * 200])) for number in range(60)]],
            [[a_file(f"{'n' * 250}{number}") for number in range(10_000)]],
            [[an_entry(f"{number}", Kind.SYMLINK, link=b"t" * 60) for number in range(12_000)]],
            [[a_file(f"{number}", xattrs=((b"user.x", b"v" * 3000),)) for number in range(12_000)]],
        ],
        ids=["files", "implied directories", "long names", "long symlinks", "attributes"],
    )
    def test_what_was_measured_fits(self, tmp_path: Path, layers: list[list[Entry]]) -> None:
        measured = Measured()
        for entry in layers[0]:
            measured.add(entry)
        assert len(list(build_states(tmp_path, UUID_, measured.size(), layers))) == 1


def test_fsck_of_the_last_state(tmp_path: Path) -> None:
    """With the program's own verdict, not ours."""
    *_, last = build(tmp_path, [[a_file("a", b"x")], [an_entry("a", Kind.DIRECTORY)]])
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", last.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
