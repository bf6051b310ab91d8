from __future__ import annotations

import numpy as np
import pytest

from kd_perception.simulation.motion import camera_pose, free_crossing_time, Movers, poses
from kd_perception.simulation.plan import (
    EGO_LATERAL_M,
    EGO_SPEED_MPS,
    LANE_M,
    PERIOD_M,
    plan_street,
)
from kd_perception.simulation.world import build_world, World


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return distances along the closed street."""
    return np.abs((a - b + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2)


def cars(world: World, direction: int) -> np.ndarray:
    on_lane = np.abs(world.movers.lateral + direction * LANE_M) < .3
    return np.flatnonzero(on_lane & (np.sign(world.movers.speed) == direction)
                          & (np.abs(world.movers.speed) > 3))


@pytest.mark.parametrize('seed', [*range(12), 2100, 3000])
@pytest.mark.parametrize('direction', [1, -1])
def test_cars_of_a_lane_never_touch(seed, direction):
    world = build_world(seed)
    lane = cars(world, direction)
    assert len(lane) > 15
    for time_s in np.linspace(0, 150, 31):
        s = np.sort(poses(world.movers, time_s).s[lane] % PERIOD_M)
        assert np.diff(np.r_[s, s[0] + PERIOD_M]).min() > 8.    # the longest is 7.5 m


@pytest.mark.parametrize('seed', [*range(12), 2100, 3000])
def test_no_car_is_where_the_camera_is(seed):
    world = build_world(seed)
    lane = cars(world, 1)
    for time_s in np.linspace(0, 150, 61):
        ego = camera_pose(world.plan, time_s).s
        assert apart(poses(world.movers, time_s).s[lane], ego).min() > 6.


def test_things_near_the_camera_move_without_jumps(world):
    step = 1 / 30
    for time_s in np.linspace(0, 130, 40):
        before, after = poses(world.movers, time_s), poses(world.movers, time_s + step)
        near = apart(before.s, np.asarray(camera_pose(world.plan, time_s).s)) < 300.
        assert near.sum() > 10
        assert np.abs(after.s - before.s)[near].max() < 20 * step
        assert np.abs(after.d - before.d)[near].max() < 2 * step


def test_pedestrians_cross_ahead_of_the_camera_and_no_car_hits_them(world):
    movers = world.movers
    crossing = np.flatnonzero(movers.span != 0)
    assert len(crossing) > 5
    traffic = np.r_[cars(world, 1), cars(world, -1)]
    seen = 0
    for who in crossing:
        duration = abs(movers.span[who]) / 1.4
        for since in np.arange(0., duration, .5):
            time_s = movers.cross_at[who] + since
            now = poses(movers, time_s)
            close = apart(now.s[traffic], now.s[who]) < 4.
            assert not (close & (np.abs(now.d[traffic] - now.d[who]) < 1.2)).any()
            ego = camera_pose(world.plan, time_s).s
            ahead = (now.s[who] - ego + 100.) % PERIOD_M - 100.
            on_own_lane = abs(now.d[who] - EGO_LATERAL_M) < 1.2
            assert not (on_own_lane and -3. < ahead < 5.)
            seen += 5. < ahead < 60. and abs(now.d[who]) < 4.
    assert seen > 20


def test_who_finds_no_gap_does_not_cross():
    wall = Movers.from_rows([(x, -LANE_M, 0., 0., 0., 0., 0., 0., 0.)
                             for x in np.arange(0., PERIOD_M, 5.)])
    assert free_crossing_time(wall, 100., -5., 10., 30.) is None
    nobody = Movers.from_rows([])
    start = free_crossing_time(nobody, 100., -5., 10., 30.)
    assert start is not None
    assert start + 5 / 1.4 < 30.         # off the camera's lane before it is there


def test_legs_swing_only_while_walking(world):
    movers = world.movers
    now = poses(movers, 20.)
    standing = (movers.speed == 0) & (movers.span == 0)
    assert standing.any()
    assert (now.stride[standing] == 0).all()
    assert (now.stride[np.abs(movers.speed) > .5] != 0).all()


def test_pedals_turn_once_in_four_metres():
    rider = Movers.from_rows([(0., 3., 4., 0., 0., 0., 0., 0., 0.)])
    turns = (poses(rider, 11.).stride - poses(rider, 10.).stride) / (2 * np.pi)
    assert 1 / 5 < turns[0] / 4. < 1 / 3.5


def test_the_camera_drives_in_the_right_lane():
    plan = plan_street(7)
    a, b = camera_pose(plan, 10.), camera_pose(plan, 11.)
    assert b.s - a.s == pytest.approx(EGO_SPEED_MPS)
    x, y = plan.world(np.asarray(a.s), np.asarray(0.))
    left = np.array([-np.sin(a.heading), np.cos(a.heading)])
    assert (a.eye[:2] - [x, y]) @ left == pytest.approx(EGO_LATERAL_M, abs=.13)
    assert 1.4 < a.eye[2] < 1.7
