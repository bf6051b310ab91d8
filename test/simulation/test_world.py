from __future__ import annotations

import numpy as np
import pytest

from kd_perception.simulation.parts import InstanceTable, Tag
from kd_perception.simulation.plan import PERIOD_M
from kd_perception.simulation.world import build_world

COUNTED = {Tag.POLE, Tag.TRAFFIC_LIGHT, Tag.TRAFFIC_SIGN, Tag.PEDESTRIAN, Tag.CAR, Tag.TRUCK}


def arrays(table: InstanceTable) -> list[np.ndarray]:
    return list(vars(table).values())


def test_a_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = build_world(world.plan.seed), build_world(world.plan.seed + 1)
    for a, b in zip(arrays(world.instances), arrays(again.instances)):
        assert np.array_equal(a, b)
    assert np.array_equal(world.movers.start, again.movers.start)
    assert len(other.instances) != len(world.instances)


@pytest.mark.parametrize('seed', range(6))
def test_all_classes_are_there_all_along_the_street(seed):
    table = build_world(seed).instances
    assert len(table) > 4000
    for tag in (Tag.BUILDING, Tag.POLE, Tag.TRAFFIC_LIGHT, Tag.TRAFFIC_SIGN, Tag.VEGETATION):
        s = np.sort(table.place[table.ids[:, 0] == tag, 0])
        # Crossings, which bring the lights, leave one longer stretch at the seam.
        longest = 280. if tag == Tag.TRAFFIC_LIGHT else 70.
        assert np.diff(np.r_[s, s[0] + PERIOD_M]).max() < longest, tag
    tags = set(table.ids[:, 0])
    assert {Tag.CAR, Tag.TRUCK, Tag.PEDESTRIAN} <= tags


def test_each_thing_has_an_id_of_its_own_and_stuff_has_none(world):
    table = world.instances
    tags, ids = table.ids.astype(int).T
    counted = np.isin(tags, list(COUNTED))
    assert (ids[counted] > 0).all()
    assert (ids[~counted] == 0).all()
    assert ids.max() < 2**16
    for ident in np.unique(ids[ids > 0]):
        mine = ids == ident
        assert len(np.unique(tags[mine])) == 1
        assert len(np.unique(table.mover[mine])) == 1
        if table.mover[mine][0] < 0:          # parts of a fixed thing share its place
            assert np.ptp(table.place[mine, :2], axis=0) == pytest.approx([0, 0])


def test_movers_are_all_drawn_and_parts_refer_to_existing_ones(world):
    used = world.instances.mover[world.instances.mover >= 0]
    assert set(used) == set(range(len(world.movers)))


def test_sizes_are_positive_and_nothing_floats_in_the_ground(world):
    table = world.instances
    assert (table.size > 0).all()
    assert (table.place[:, 2] > 0).all()
    assert np.isfinite(table.look).all()


def test_fixed_things_leave_the_lanes_free(world):
    table = world.instances
    standing = (table.mover < 0) & (table.place[:, 2] < 2.5)
    assert np.abs(table.place[standing, 1]).min() > 3.6
