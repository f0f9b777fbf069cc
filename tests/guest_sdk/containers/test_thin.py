"""Thin rows by hand: where clusters begin and end. Random stacks against a pool are in `test_block_order`."""

import pytest

from keyvisor_guest.containers.thin import CLUSTER_BLOCKS, Mapping, ThinRows, device_mapping, rows_for

C = CLUSTER_BLOCKS


def test_a_cluster_is_the_least_that_dm_thin_has():
    assert C * 4096 == 64 << 10


@pytest.mark.parametrize(
    ("changed", "zero", "mapped", "unmapped"),
    [
        ((), (), (), ()),
        (((0, 1),), (), ((0, 1),), ()),
        (((C - 1, 1),), (), ((0, 1),), ()),
        (((C - 1, 2),), (), ((0, 2),), ()),
        (((0, 1), (C - 1, 1)), (), ((0, 1),), ()),
        ((), ((0, C),), (), ((0, 1),)),
        ((), ((0, C - 1),), ((0, 1),), ()),  # part of a cluster: mapped anew, with zeros in it
        ((), ((1, C),), ((0, 2),), ()),
        ((), ((1, 3 * C - 2),), ((0, 1), (2, 1)), ((1, 1),)),
        (((C, 1),), ((C + 1, C - 1),), ((1, 1),), ()),
        (((0, 3 * C),), ((5 * C, 2 * C),), ((0, 3),), ((5, 2),)),
    ],
)
def test_rows_of_a_layer(changed, zero, mapped, unmapped):
    rows = rows_for(changed, zero, 7)
    assert (rows.mapped, rows.unmapped, rows.pool_first) == (mapped, unmapped, 7)
    assert rows.pool_end == 7 + sum(count for _, count in mapped)
    assert sum(row.count for row in rows.rows) == rows.pool_end - 7


def test_a_device_over_another():
    lower = ThinRows(0, ((0, 4), (10, 2)), ())
    upper = ThinRows(6, ((1, 1), (10, 1)), ((3, 1), (20, 5)))
    assert device_mapping([lower]) == (Mapping(0, 0, 4), Mapping(10, 4, 2))
    assert device_mapping([lower, upper]) == (
        Mapping(0, 0, 1),
        Mapping(1, 6, 1),
        Mapping(2, 2, 1),
        Mapping(10, 7, 1),
        Mapping(11, 5, 1),
    )
    assert device_mapping([lower, upper, ThinRows(8, (), ((0, 100),))]) == ()
