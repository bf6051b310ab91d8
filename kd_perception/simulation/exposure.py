"""
Automatic exposure: the gain of a camera that follows the light with a lag.

It meters a model of the light along the way driven (the sun in sight, street lamps passed), not
the pictures, so that a frame depends on scenario, seed and time alone. Comes in: world, scenario
and time. Goes out: a factor.
"""

from __future__ import annotations

import numpy as np

from kd_perception.simulation.scenario import Scenario
from kd_perception.simulation.world import World

SAMPLES = 6
SLOWEST, FASTEST = .6, 1.6


def exposure_gain(world: World, scenario: Scenario, time_s: float) -> float:
    """Return the factor on the exposure at ``time_s``; 1 for a fixed exposure."""
    settings = scenario.camera
    if not settings.auto_exposure:
        return 1.
    lag = max(settings.exposure_lag_s, 1e-3)
    past = np.linspace(0., 3. * lag, SAMPLES)
    weight = np.exp(-past / lag)
    light = np.array([_light(world, scenario, max(time_s - p, 0.)) for p in past])
    gain = 1. / np.sum(light * weight / weight.sum())
    return float(1. + settings.auto_exposure * (np.clip(gain, SLOWEST, FASTEST) - 1.))


def _light(world: World, scenario: Scenario, time_s: float) -> float:
    """Return how bright the view is against the scenario's usual one."""
    plan, pose = world.plan, world.camera(time_s)
    sun = np.array(scenario.sun[:2]) / np.linalg.norm(scenario.sun)
    bearing = pose.heading - plan.sun_turn - np.arctan2(sun[1], sun[0])
    low = np.hypot(*sun)
    strength = float(np.mean(scenario.sun_color))
    glare = .5 * strength * low * max(np.cos(bearing), 0.)**6
    to_lamp = (pose.s - plan.lamp_offset + plan.lamp_spacing / 2) % plan.lamp_spacing \
        - plan.lamp_spacing / 2
    lamp = .45 * scenario.night * np.exp(-(to_lamp / 7.)**2)
    # A slow drift, as of clouds: no meter is quite at rest.
    return float(.85 + glare + lamp + .08 * np.sin(.31 * time_s + plan.sun_turn))
