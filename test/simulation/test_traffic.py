from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kd_perception.simulation.plan import PERIOD_M
from kd_perception.simulation.signals import CYCLE_S, must_stop
from kd_perception.simulation.traffic import (
    braking,
    CHUNK_S,
    crossing_poses,
    RECENT_STARTS,
    Traffic,
)
from kd_perception.simulation.traffic_setup import NO_LANE, TrafficSetup
from kd_perception.simulation.world import build_world
from kd_perception.simulation.worlds import load_world

ALIVE = ('downtown', 'intersection', 'highway', 'suburb')


def no_people() -> dict[str, np.ndarray]:
    """Return the fields of a setup in which nobody crosses."""
    return {name: np.zeros(0, int if name == 'light' else float)
            for name in ('step_s', 'step_from', 'step_span', 'trigger', 'light')}


def one_lane(progress: list[float], **changes: object) -> TrafficSetup:
    """Return cars one behind the other on an empty road of one lane."""
    n = len(progress)
    setup = TrafficSetup(
        seed=1, period=PERIOD_M, lane=np.zeros(n, int), progress=np.array(progress),
        lateral=np.full(n, -1.85), wish=np.full(n, 8.), length=np.full(n, 4.4),
        headway=np.full(n, 1.3), lane_lateral=np.array([-1.85]), lane_direction=np.array([1]),
        stop_lines=np.zeros((2, 0)), phase=np.zeros(0), events=0., **no_people())
    return replace(setup, **changes)


def gaps(setup: TrafficSetup, state) -> np.ndarray:
    """Return all gaps between bumpers in all lanes."""
    out = [np.array([99.])]
    for lane in range(len(setup.lane_lateral)):
        mine = np.flatnonzero(state.lane == lane)
        if len(mine) > 1:
            mine = mine[np.argsort(state.progress[mine] % PERIOD_M)]
            ahead = np.roll(mine, -1)
            apart = (state.progress[ahead] - state.progress[mine]) % PERIOD_M
            out.append(apart - .5 * (setup.length[ahead] + setup.length[mine]))
    return np.concatenate(out)


@pytest.fixture(scope='module', params=ALIVE)
def drive(request) -> tuple[TrafficSetup, list]:
    """Return the setup of a world and its states twice a second for a minute and a half."""
    life = build_world(12, load_world(request.param)).life
    assert life is not None
    return life.traffic.setup, [life.traffic.at(t) for t in np.arange(0., 90., .5)]


def test_cars_never_touch_and_never_go_back(drive):
    setup, states = drive
    assert min(gaps(setup, s).min() for s in states) > 1.
    for a, b in zip(states, states[1:]):
        assert (b.progress >= a.progress - 1e-9).all()
        assert np.isfinite(b.speed).all()
        assert b.speed.max() < 45.
        assert np.abs(b.lateral - a.lateral).max() < 2.5


def test_the_own_car_gets_on_and_meets_life(drive):
    setup, states = drive
    assert states[-1].progress[0] - states[0].progress[0] > 150.
    assert max(braking(s)[1:].sum() for s in states) >= 1


def test_nobody_is_run_over(drive):
    setup, states = drive
    for state in states:
        d, _, _ = crossing_poses(setup, state)
        direction = np.where(state.lane == NO_LANE, 1, setup.lane_direction[state.lane])
        for p in np.flatnonzero(state.way > 0):
            along = (direction * setup.step_s[p] - state.progress + 50.) % PERIOD_M - 50.
            close = np.abs(along) < .5 * setup.length + .2
            assert not (close & (np.abs(state.lateral - d[p]) < .9) & (state.speed > 3.)).any()


def test_time_decides_in_whatever_order_it_is_asked():
    life = build_world(7, load_world('highway')).life
    again = build_world(7, load_world('highway')).life
    assert life is not None
    assert again is not None
    late = life.traffic.at(130.)
    for time_s in (130., 3., 61.7, 130.):
        a, b = life.traffic.at(time_s), again.traffic.at(time_s)
        assert np.array_equal(a.progress, b.progress)
        assert np.array_equal(a.lateral, b.lateral)
    assert np.array_equal(life.traffic.at(130.).progress, late.progress)


def test_a_long_drive_keeps_few_states_and_still_finds_back():
    traffic, fresh = (Traffic(one_lane([0., 30., 300.], events=1.)) for _ in range(2))
    end = (RECENT_STARTS + 40) * CHUNK_S
    traffic.at(end)
    assert len(traffic._starts) < RECENT_STARTS + 12
    assert np.array_equal(traffic.at(CHUNK_S * 7.3).progress, fresh.at(CHUNK_S * 7.3).progress)


def test_the_way_between_two_steps_is_even():
    traffic = Traffic(one_lane([0., 30.]))
    a, b, c = (traffic.at(t).progress[0] for t in (5.0, 5.05, 5.1))
    assert b == pytest.approx((a + c) / 2, abs=1e-6)


def test_a_car_stops_before_a_red_light_and_goes_on_at_green():
    setup = one_lane([0.], stop_lines=np.array([[60.], [60.]]), phase=np.array([.45]))
    traffic = Traffic(setup)
    stood = False
    for time_s in np.arange(0., 2 * CYCLE_S, .2):
        state, front = traffic.at(time_s), traffic.at(time_s).progress[0] + 2.2
        red = must_stop(setup.phase, time_s)[0]
        stood |= bool(red and state.speed[0] < .1 and 54. < front < 60.5)
        assert not (red and 60.6 < front < 61.5 and state.speed[0] < .1)
    assert stood
    assert traffic.at(2 * CYCLE_S).progress[0] > 70.


def test_a_car_brakes_for_a_person_and_lights_up():
    setup = one_lane([0.], step_s=np.array([50.]), step_from=np.array([-4.5]),
                     step_span=np.array([9.]), trigger=np.array([18.]), light=np.array([-1]))
    traffic = Traffic(setup)
    states = [traffic.at(t) for t in np.arange(0., 25., .1)]
    walking = [s for s in states if s.way[0] > 0]
    assert walking
    assert min(s.speed[0] for s in walking) < 3.
    assert any(braking(s)[0] for s in walking)
    assert states[-1].progress[0] > 60.              # and drives on
    assert states[-1].far[0] == 1.                   # the person is on the other side
    in_the_way = [s for s in walking if abs(crossing_poses(setup, s)[0][0] + 1.85) < .8]
    assert all(s.progress[0] + 2.2 < 50. for s in in_the_way)


def test_a_parked_car_pulls_out_when_the_own_one_comes():
    setup = one_lane([0., 60.], lane=np.array([0, NO_LANE]), lateral=np.array([-1.85, -5.]),
                     events=1.)
    traffic = Traffic(setup)
    before, after = traffic.at(1.), traffic.at(20.)
    assert (before.lane[1], before.speed[1], before.progress[1]) == (NO_LANE, 0., 60.)
    assert after.lane[1] == 0
    assert after.lateral[1] == pytest.approx(-1.85, abs=.2)
    assert gaps(setup, after).min() > 1.


def test_cars_cut_in_on_the_highway():
    life = build_world(7, load_world('highway')).life
    assert life is not None
    seen = 0
    for time_s in np.arange(0., 60., .5):
        state = life.traffic.at(time_s)
        ahead = (state.progress - state.progress[0]) % PERIOD_M
        seen += bool(((state.lane == 0) & (state.changing > 2.) & (ahead > 4.)
                      & (ahead < 40.)).any())
    assert seen >= 2
