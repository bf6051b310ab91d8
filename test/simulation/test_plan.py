from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kd_perception.simulation.plan import PERIOD_M, plan_street

SEEDS = range(12)


def as_text(seed: int) -> str:
    return repr(dataclasses.asdict(plan_street(seed)))


def test_a_seed_is_a_street_and_another_seed_another():
    assert as_text(3) == as_text(3)
    plans = [plan_street(seed) for seed in SEEDS]
    assert len({p.heights for p in plans}) >= 3
    assert len({p.road for p in plans}) >= 3
    assert len({round(p.curves[0, 0], 3) for p in plans}) == len(plans)
    assert len({tuple(p.crossings.round(1)) for p in plans}) == len(plans)


@pytest.mark.parametrize('seed', SEEDS)
def test_the_street_closes_on_itself(seed):
    plan = plan_street(seed)
    s = np.linspace(0, PERIOD_M, 50)
    assert plan.lateral(s + PERIOD_M) == pytest.approx(plan.lateral(s), abs=1e-6)
    assert plan.heading(s + PERIOD_M) == pytest.approx(plan.heading(s), abs=1e-9)
    gaps = np.diff(np.r_[plan.crossings, plan.crossings[0] + PERIOD_M])
    assert (gaps > 30).all()


def test_heading_is_the_slope_and_d_is_at_right_angles():
    plan = plan_street(5)
    s, step = np.linspace(0, 500, 20), 1e-4
    slope = (plan.lateral(s + step) - plan.lateral(s - step)) / (2 * step)
    assert np.tan(plan.heading(s)) == pytest.approx(slope, abs=1e-5)
    x, y = plan.world(s, np.full(20, 3.))
    assert np.hypot(x - s, y - plan.lateral(s)) == pytest.approx(3.)
    assert ((y - plan.lateral(s)) > 0).all()        # left is positive


def test_distance_from_crossings_wraps_around():
    plan = plan_street(0)
    first = float(plan.crossings[0])
    assert not plan.away_from_crossings(first + 3., 5.)
    assert not plan.away_from_crossings(first - PERIOD_M + 3., 5.)
    assert plan.away_from_crossings(first + 10., 5.)
