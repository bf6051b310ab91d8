"""
Plans of the worlds that are more than the street: downtown, intersection, highway, suburb.

Comes in: a seed, a world's specification and the content factors. Goes out: a ``StreetPlan``, made
of the street's plan for that seed by changing what the layout is known by.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kd_perception.simulation.plan import Lane, LANE_M, PERIOD_M, plan_street, StreetPlan
from kd_perception.simulation.settings import Content
from kd_perception.simulation.worlds import WorldSpec

HIGHWAY_LANES_M = (4.4, 8.0, 11.6)     # laterals of the lanes; lines at 2.6, 6.2, 9.8 and 13.4
HIGHWAY_HALF_M = 16.2
ZEBRA_M = 2.6                          # from the edge of a side street to the middle of a zebra
NO_LAMPS_M = 1e5
RIDERS_PER_M = 1 / 65.


def plan_world(seed: int, spec: WorldSpec, content: Content) -> StreetPlan:
    """Return the plan of that seed in that kind of world."""
    plan = replace(plan_street(seed), riders=content.riders * RIDERS_PER_M)
    amounts = spec.amounts
    if not spec.alive:
        factor = max(content.traffic * amounts.traffic, .3)
        return plan if factor == 1. and content.people == amounts.people == 1. else replace(
            plan, people=plan.people * content.people * amounts.people,
            gap=(plan.gap[0] / min(factor, 1.), plan.gap[1] / factor))
    g = np.random.default_rng([seed, 40])
    density = max(content.traffic * amounts.traffic, .05)
    people = plan.people * content.people * amounts.people
    plan = replace(plan, layout=spec.layout, speed=amounts.speed_mps, people=people,
                   gap=(9. + 9. / density, 16. + 34. / density))
    if spec.layout == 'intersection':
        return _intersection(plan, g)
    if spec.layout == 'highway':
        return _highway(plan, g, density)
    if spec.layout == 'suburb':
        return _suburb(plan, g)
    crossings = plan.crossings[::2]
    return replace(plan, road=(6.1, 6.1), heights=((6., 13.), (8., 22.))[g.integers(2)],
                   gabled=.35, built=.93, set_back=(.3, 2.), crossings=crossings,
                   cycle=g.uniform(0., .99, len(crossings)))


def _intersection(plan: StreetPlan, g: np.random.Generator) -> StreetPlan:
    count = int(g.integers(10, 13))
    junctions = (np.arange(count) + .5) * PERIOD_M / count + g.uniform(-9., 9., count)
    return replace(
        plan, junctions=junctions, side_half=float(g.uniform(4.2, 5.)), crossings=np.zeros(0),
        cycle=g.uniform(0., 1., count), road=(6.1, 6.1),
        walk=(float(g.uniform(3.2, 4.4)), float(g.uniform(3.2, 4.4))),
        heights=((8., 20.), (10., 28.))[g.integers(2)], gabled=.1, built=.95, set_back=(.3, 1.5),
        green=plan.green * .6)


def _highway(plan: StreetPlan, g: np.random.Generator, density: float) -> StreetPlan:
    curves = np.array([[g.uniform(8., 22.), 2 * np.pi * 2 / PERIOD_M, g.uniform(0, 2 * np.pi)],
                       [g.uniform(0., 5.), 2 * np.pi * 3 / PERIOD_M, g.uniform(0, 2 * np.pi)]])
    own = tuple(Lane(-d, 1) for d in (HIGHWAY_LANES_M[1], HIGHWAY_LANES_M[0], HIGHWAY_LANES_M[2]))
    other = tuple(Lane(d, -1) for d in HIGHWAY_LANES_M)
    return replace(
        plan, curves=curves, lanes=own + other, road=(HIGHWAY_HALF_M, HIGHWAY_HALF_M),
        walk=(.5, .5), crossings=np.zeros(0), gap=(34. / density, 90. / density), riders=0.,
        lamp_spacing=NO_LAMPS_M, lamp_offset=NO_LAMPS_M / 2, lamp_sides=1,
        green=float(g.uniform(.5, 1.)),
        marking=(18., .34, float(g.uniform(.85, 1.3)), float(g.uniform(-.3, .4))))


def _suburb(plan: StreetPlan, g: np.random.Generator) -> StreetPlan:
    waves = g.choice([5, 6, 7])
    curves = plan.curves.copy()
    curves[0, :2] = g.uniform(6., 11.), 2 * np.pi * waves / PERIOD_M
    few = plan.crossings[::4]
    return replace(
        plan, curves=curves, crossings=few, road=(4., 5.6), heights=(4.2, 6.6), gabled=1.,
        lanes=(Lane(-LANE_M, 1), Lane(LANE_M, -1)), walk=(1.9, 1.9), set_back=(6., 11.),
        built=.95, green=.8, conifers=.3, lamp_spacing=PERIOD_M / 30., lamp_sides=1)
