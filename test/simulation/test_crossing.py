from __future__ import annotations

import numpy as np

from kd_perception.simulation.crossing import CrossTraffic, no_cross_traffic, side_queues
from kd_perception.simulation.signals import CYCLE_S, must_stop, position


def queue() -> CrossTraffic:
    g = np.random.default_rng(3)
    return side_queues(g, np.array([100., 240., 380.]), np.array([0., .3, .8]), (11., 10.), 1.)


def test_side_streets_have_their_green_within_the_main_roads_red():
    cars = queue()
    assert len(cars.s) > 5
    crossed = 0
    for time_s in np.arange(0., 2 * CYCLE_S, .1):
        _, d, _, _ = cars.at(time_s)
        on_main = np.abs(d) < 6.
        assert must_stop(cars.phase[on_main], time_s).all()
        crossed += on_main.sum()
    assert crossed > 50


def test_cars_roll_without_jumps_where_they_can_be_seen():
    cars = queue()
    for time_s in np.arange(0., CYCLE_S, .1):
        before, after = cars.at(time_s)[1], cars.at(time_s + .1)[1]
        seen = (np.abs(before) < 70.) & (np.abs(after) < 70.)
        assert np.abs(after - before)[seen].max(initial=0.) < 1.7


def test_cars_of_one_queue_do_not_touch():
    cars = queue()
    for time_s in np.arange(0., CYCLE_S, .3):
        _, d, _, _ = cars.at(time_s)
        for s in np.unique(cars.s):
            mine = np.sort(d[(cars.s == s) & (np.abs(d) < 100.)])
            assert np.diff(mine).min(initial=99.) > 4.7


def test_a_cycle_later_it_is_the_same_and_nobody_is_an_empty_world():
    cars = queue()
    assert np.allclose(cars.at(5.)[1], cars.at(5. + CYCLE_S)[1])
    assert len(no_cross_traffic().at(5.)[0]) == 0
    assert 0 <= position(np.array(.9), 1e4) < 1
