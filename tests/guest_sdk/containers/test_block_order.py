"""The order of blocks and thin rows against a dictionary that holds every block: random layers, the topmost wins."""

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.block_order import BlockOrder
from keyvisor_guest.containers.keys import ImageId
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.runs import are_disjoint, check_runs, joined
from keyvisor_guest.containers.thin import CLUSTER_BLOCKS, device_mapping, rows_for

VOLUME = 100


def runs_of(numbers):
    return joined((one, 1) for one in numbers)


@st.composite
def layer(draw):
    kinds = draw(st.lists(st.sampled_from("...dddz"), min_size=1, max_size=8))
    lengths = [draw(st.integers(1, 40)) for _ in kinds]
    row = "".join(kind * length for kind, length in zip(kinds, lengths, strict=True))[:VOLUME]
    return tuple(runs_of(at for at, one in enumerate(row) if one == kind) for kind in "dz")


STACKS = st.lists(layer(), min_size=1, max_size=6)


def order_of(stack):
    return BlockOrder(
        LayerPlan(1, ImageId(bytes(16)), number, VOLUME, Cipher.GCM, changed, zero, bytes(32))
        for number, (changed, zero) in enumerate(stack)
    )


@given(STACKS, st.data())
def test_the_topmost_layer_wins(stack, data):
    model = {}
    for number, (changed, zero) in enumerate(stack):
        index = 0
        for first, count in changed:
            for block in range(first, first + count):
                model[block] = (number, index)
                index += 1
        for first, count in zero:
            for block in range(first, first + count):
                model.pop(block, None)
    order = order_of(stack)
    start = data.draw(st.integers(0, VOLUME - 1))
    count = data.draw(st.integers(0, VOLUME - start))
    at, found = start, {}
    for piece in order.pieces(start, count):
        assert piece.first == at
        assert piece.count > 0
        at += piece.count
        if piece.layer is not None:
            found |= {piece.first + n: (piece.layer, piece.index + n) for n in range(piece.count)}
    assert at == start + count
    assert found == {block: place for block, place in model.items() if start <= block < start + count}
    check_runs(tuple((one.first, one.count) for one in order.stored), VOLUME)


@given(STACKS)
def test_thin_devices_hold_what_the_volume_holds(stack):
    """Each device, put together from the pool, is the volume after its layer; lower devices stay as they are."""
    volume, volumes = [0] * (VOLUME + CLUSTER_BLOCKS), []
    for number, (changed, zero) in enumerate(stack, 1):
        for first, count in changed:
            volume[first : first + count] = [number] * count
        for first, count in zero:
            volume[first : first + count] = [0] * count
        volumes.append(list(volume))
    rows, pool, pool_end = [], {}, 0
    for (changed, zero), state in zip(stack, volumes, strict=True):
        rows.append(rows_for(changed, zero, pool_end))
        pool_end = rows[-1].pool_end
        assert are_disjoint(rows[-1].mapped, rows[-1].unmapped)
        for row in rows[-1].rows:
            for one in range(row.count):
                at = (row.virtual + one) * CLUSTER_BLOCKS
                assert row.pool + one not in pool
                pool[row.pool + one] = state[at : at + CLUSTER_BLOCKS]
    assert len(pool) == pool_end
    for top, state in enumerate(volumes):
        device = [0] * len(state)
        for row in device_mapping(rows[: top + 1]):
            for one in range(row.count):
                at = (row.virtual + one) * CLUSTER_BLOCKS
                device[at : at + CLUSTER_BLOCKS] = pool[row.pool + one]
        assert device[:VOLUME] == state[:VOLUME]
