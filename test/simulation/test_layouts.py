from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from kd_perception.simulation.layouts import plan_world
from kd_perception.simulation.plan import PERIOD_M, plan_street
from kd_perception.simulation.settings import Content
from kd_perception.simulation.worlds import load_world

ALIVE = ('downtown', 'intersection', 'highway', 'suburb')


def test_the_plain_street_is_the_street_of_its_seed():
    plan = plan_world(5, load_world('street'), Content())
    assert repr(asdict(plan)) == repr(asdict(plan_street(5)))
    fuller = plan_world(5, load_world('street'), Content(people=3.))
    assert fuller.people == pytest.approx(3 * plan.people)
    ridden = plan_world(5, load_world('street'), Content(riders=2.))
    assert ridden.riders == pytest.approx(2 / 65)
    assert (ridden.people, ridden.gap) == (plan.people, plan.gap)


@pytest.mark.parametrize('name', ALIVE)
def test_a_seed_decides_a_plan(name):
    first, again, other = (plan_world(s, load_world(name), Content()) for s in (5, 5, 6))
    assert repr(asdict(first)) == repr(asdict(again))
    assert repr(asdict(first)) != repr(asdict(other))


@pytest.mark.parametrize('name', ALIVE)
@pytest.mark.parametrize('seed', range(4))
def test_the_round_is_closed_and_lanes_lie_on_the_road(name, seed):
    plan = plan_world(seed, load_world(name), Content())
    s = np.linspace(0, PERIOD_M, 40)
    assert plan.lateral(s + PERIOD_M) == pytest.approx(plan.lateral(s), abs=1e-6)
    assert np.abs(plan.heading(s)).max() < .35
    assert plan.lanes[0].direction == 1
    for lane in plan.lanes:
        assert -plan.road[1] < lane.lateral < plan.road[0]
        assert np.sign(lane.lateral) == -lane.direction        # they keep right


def test_layouts_differ_in_what_they_are_known_by():
    plans = {n: plan_world(3, load_world(n), Content()) for n in ALIVE}
    assert len(plans['highway'].lanes) == 6
    assert plans['highway'].speed > 20
    assert len(plans['intersection'].junctions) >= 10
    assert np.diff(plans['intersection'].junctions).min() > 60
    assert len(plans['intersection'].cycle) == len(plans['intersection'].junctions)
    assert plans['suburb'].set_back[0] > plans['downtown'].set_back[1]
    assert plans['downtown'].junctions.size == 0


def test_content_makes_traffic_denser():
    sparse, dense = (plan_world(3, load_world('downtown'), Content(traffic=t)) for t in (.5, 2.))
    assert sparse.gap > dense.gap
