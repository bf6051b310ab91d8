"""A bicycle and who rides it: sizes, tags and ids."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.classes import load_class_map, load_class_set
from kd_perception.simulation.cyclists import add_rider, FEET_HALF_M, RIDER_HALF_M
from kd_perception.simulation.meshes import meshes, MeshId
from kd_perception.simulation.parts import Builder, InstanceTable, Tag


def built(seed: int) -> InstanceTable:
    b = Builder()
    add_rider(b, np.random.default_rng(seed), mover=0)
    return b.table()


def corners(table: InstanceTable, tag: Tag) -> np.ndarray:
    """Return ``[N, 3]`` forward, left and up of all corners of what has that tag."""
    out = []
    for row in np.flatnonzero(table.ids[:, 0] == tag):
        local = meshes()[MeshId(table.mesh[row])].vertices[:, :3] * table.size[row]
        cos, sin = np.cos(table.tilt[row]), np.sin(table.tilt[row])
        x, y, z = local.T
        out.append(np.stack([x * cos + z * sin + table.offset[row, 0], y + table.offset[row, 1],
                             z * cos - x * sin + table.place[row, 2]], axis=1))
    return np.concatenate(out)


@pytest.mark.parametrize('seed', range(12))
def test_they_are_as_large_as_a_person_on_a_bicycle(seed):
    table = built(seed)
    bicycle, rider = corners(table, Tag.BICYCLE), corners(table, Tag.RIDER)
    assert np.ptp(bicycle[:, 0]) == pytest.approx(1.7, abs=.13)
    assert bicycle[:, 2].min() == pytest.approx(0., abs=.02)          # the wheels touch the road
    assert rider[:, 2].max() == pytest.approx(1.75, abs=.14)
    assert .03 < rider[:, 2].min() < .35                              # the feet are on pedals
    both = np.concatenate([bicycle, rider])
    assert np.abs(both[:, 1]).max() <= RIDER_HALF_M
    assert np.abs(both[both[:, 2] < .5, 1]).max() <= FEET_HALF_M


def test_bicycle_and_rider_have_a_tag_and_an_id_each():
    table = built(3)
    assert {tuple(r) for r in table.ids.astype(int)} == {(Tag.BICYCLE, 1), (Tag.RIDER, 2)}
    assert (table.mover == 0).all()
    assert (table.size > 0).all()
    carla, driving = load_class_set('carla'), load_class_set('driving')
    assert (carla.names[Tag.RIDER], carla.names[Tag.BICYCLE]) == ('rider', 'bicycle')
    classes = load_class_map(carla, driving).table
    assert driving.names[classes[Tag.RIDER]] == 'person'
    assert driving.names[classes[Tag.BICYCLE]] == 'vehicle'


@pytest.mark.parametrize('seed', range(6))
def test_legs_are_whole_wherever_the_cranks_stand(seed):
    """Thighs and shanks meet at a knee that lies ahead of hip and pedal."""
    table = built(seed)
    legs = (table.ids[:, 0] == Tag.RIDER) & (table.swing != 0)
    assert legs.sum() == 4
    scale = table.size[legs, 2] / np.array([.42, .43, .42, .43])
    half = table.size[legs, 2] / 2
    middle = np.stack([table.offset[legs, 0], table.place[legs, 2]], axis=1)
    along = np.stack([np.sin(table.tilt[legs]), np.cos(table.tilt[legs])], axis=1)
    top, bottom = middle + half[:, None] * along, middle - half[:, None] * along
    assert bottom[::2] == pytest.approx(top[1::2], abs=.02)
    assert (bottom[::2, 0] > top[::2, 0]).all()
    assert .9 < scale.min() <= scale.max() < 1.06
