from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kd_perception.simulation.exposure import exposure_gain
from kd_perception.simulation.scenario import load_scenario


def test_a_fixed_exposure_has_no_gain(world):
    assert exposure_gain(world, load_scenario('clear'), 10.) == 1.


def test_the_gain_follows_the_light_slowly_with_a_lag(world):
    glare = load_scenario('glare')
    gains = {}
    for lag in (.05, 3.):
        scenario = replace(glare, camera=replace(glare.camera, exposure_lag_s=lag,
                                                 auto_exposure=1.))
        gains[lag] = np.array([exposure_gain(world, scenario, t) for t in np.arange(0., 90., .5)])
        assert gains[lag].min() >= .6
        assert gains[lag].max() <= 1.6
        assert np.ptp(gains[lag]) > .03
    assert np.abs(np.diff(gains[3.])).max() < np.abs(np.diff(gains[.05])).max()


def test_half_an_automatic_goes_half_the_way(world):
    glare = load_scenario('glare')
    full, half = (exposure_gain(world, replace(glare, camera=replace(
        glare.camera, auto_exposure=share)), 20.) for share in (1., .5))
    assert half - 1. == pytest.approx((full - 1.) / 2)
