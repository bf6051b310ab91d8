"""
The highway: guard rails, bridges, gantries, noise barriers, woods and hills.

Comes in: a plan with three lanes each way. Goes out: rows in the builder, and the ``Life`` of the
road.
"""

from __future__ import annotations

import numpy as np

from kd_perception.simulation.layers import SIDES, stream
from kd_perception.simulation.layouts import HIGHWAY_HALF_M
from kd_perception.simulation.life import add_life, Life, Wishes
from kd_perception.simulation.lookalikes import add_billboard
from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.parts import (
    add_tree,
    Builder,
    KERB_M,
    Material,
    part_of,
    STEEL,
    Tag,
)
from kd_perception.simulation.plan import PERIOD_M, StreetPlan

SEGMENT_M = 4.
CONCRETE = (.56, .55, .53)
BLUE, GREEN = (.04, .16, .5), (.03, .3, .14)


def build_highway(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]],
                  wishes: Wishes) -> Life:
    """Line the road and set the traffic on it."""
    bridges = _bridges(b, plan)
    _rails(b, plan)
    _barriers(b, plan, bridges)
    _signs(b, plan, bridges, wishes)
    _country(b, plan)
    return add_life(b, plan, len(movers), wishes, lorries=.55)


def _rails(b: Builder, plan: StreetPlan) -> None:
    for s in np.arange(0., PERIOD_M, SEGMENT_M):
        for d in (-HIGHWAY_HALF_M - .35, -.35, .35, HIGHWAY_HALF_M + .35):
            low = 0. if abs(d) < 1. else KERB_M
            b.add(MeshId.BOX, (s, d, low + .62), (SEGMENT_M + .06, .07, .31), (.55, .56, .57),
                  Tag.GUARD_RAIL, material=Material.METAL)
            b.add(MeshId.BOX, (s, d + (.09 if d in (-HIGHWAY_HALF_M - .35, .35) else -.09) * -1,
                               low + .36), (.1, .06, .72), STEEL, Tag.GUARD_RAIL)
    for s in np.arange(7., PERIOD_M, 40.):
        for side in SIDES:
            b.add(MeshId.BOX, (s, side * (HIGHWAY_HALF_M + .8), KERB_M + .5), (.1, .12, 1.),
                  (.9, .9, .9), Tag.STATIC)
            b.add(MeshId.BOX, (s, side * (HIGHWAY_HALF_M + .8), KERB_M + .82), (.12, .13, .22),
                  (.06, .06, .06), Tag.STATIC)


def _bridges(b: Builder, plan: StreetPlan) -> np.ndarray:
    """Carry other roads over this one; returns their positions."""
    g = stream(plan, 20)
    places = np.arange(3) * PERIOD_M / 3 + g.uniform(120., 360., 3)
    for s in places:
        wide, tone = g.uniform(8., 14.), g.uniform(.85, 1.1)
        concrete = np.array(CONCRETE) * tone
        span = 2 * HIGHWAY_HALF_M + 22.
        b.add(MeshId.BOX, (s, 0., 6.3), (wide, span, 1.1), concrete, Tag.BRIDGE)
        for edge in (-.5, .5):
            b.add(MeshId.BOX, (s + edge * wide, 0., 7.3), (.25, span, .9), concrete * .9,
                  Tag.BRIDGE)
        b.add(MeshId.BOX, (s, 0., 2.9), (1.2, 1.1, 5.8), concrete * .9, Tag.BRIDGE)
        for side in SIDES:
            b.add(MeshId.BOX, (s, side * (HIGHWAY_HALF_M + 3.), 2.9), (wide * .9, 1.4, 5.8),
                  concrete * .85, Tag.BRIDGE)
            # The ramp that leads up to it.
            b.add(MeshId.BOX, (s, side * (HIGHWAY_HALF_M + 27.), 3.1), (wide + 5., 46., 6.2),
                  (.2, .28, .11), Tag.TERRAIN)
    return places


def _barriers(b: Builder, plan: StreetPlan, bridges: np.ndarray) -> None:
    """Add noise barriers along stretches, each with a tone of its own."""
    g = stream(plan, 21)
    for side in SIDES:
        s = g.uniform(0., 200.)
        while s < PERIOD_M - 120.:
            length, tall = g.uniform(60., 180.), g.uniform(2.6, 4.4)
            tone = np.array(((.42, .47, .40), (.55, .50, .42), (.40, .42, .46)))[g.integers(3)]
            for at in np.arange(s, min(s + length, PERIOD_M - 8.), SEGMENT_M):
                if np.abs(bridges - at).min() > 10.:
                    d = side * (HIGHWAY_HALF_M + 2.2)
                    b.add(MeshId.BOX, (at, d, KERB_M + tall / 2), (SEGMENT_M + .04, .18, tall),
                          tone * g.uniform(.94, 1.06), Tag.WALL)
                    b.add(MeshId.BOX, (at - SEGMENT_M / 2, d - side * .12, KERB_M + tall / 2),
                          (.22, .2, tall + .1), tone * .6, Tag.WALL)
            s += length + g.uniform(80., 260.)


def _signs(b: Builder, plan: StreetPlan, bridges: np.ndarray, wishes: Wishes) -> None:
    """Add gantries over the road and signs beside it."""
    g = stream(plan, 22)
    paint = (BLUE, GREEN)[g.integers(2)]
    for s in np.arange(g.uniform(60., 160.), PERIOD_M - 40., 290.):
        if np.abs(bridges - s).min() < 60.:
            continue
        for side in SIDES:
            _gantry(b, g, s, side, paint)
    for s in np.arange(30., PERIOD_M - 20., 85.):
        side, at = int(g.choice(SIDES)), s + g.uniform(-20., 20.)
        yaw = 0. if side < 0 else np.pi
        if g.uniform() < .3 * wishes.lookalikes:
            add_billboard(b, g, at, side * (HIGHWAY_HALF_M + 6.), -side)
            continue
        d = side * (HIGHWAY_HALF_M + 1.3)
        post = part_of(b, at, d, Tag.POLE)
        post(MeshId.CYLINDER, 0, 0, 1.5, (.05, .05, 2.8), (.5, .5, .5))
        add = part_of(b, at, d, Tag.TRAFFIC_SIGN, yaw=yaw)
        if g.uniform() < .6:
            add(MeshId.DISC, -.08, 0, 2.7, (.05, .5, .5), (.75, .05, .05), Material.SIGN,
                .3 + .34 * g.uniform())
        else:
            add(MeshId.BOX, -.08, 0, 2.6, (.06, 1.9, 1.1), paint)
            add(MeshId.BOX, -.12, .1, 2.8, (.02, 1.2, .14), (.95, .95, .95))
            add(MeshId.BOX, -.12, .2, 2.5, (.02, 1., .14), (.95, .95, .95))


def _gantry(b: Builder, g: np.random.Generator, s: float, side: int,
            paint: tuple[float, float, float]) -> None:
    pole = part_of(b, s, side * HIGHWAY_HALF_M / 2, Tag.POLE)
    reach = HIGHWAY_HALF_M / 2 + 1.2
    for left in (-reach, reach - .6):
        pole(MeshId.CYLINDER, 0, side * left if side > 0 else -left, 3.6, (.16, .16, 7.2), STEEL)
    for z in (6.3, 7.0):
        pole(MeshId.BOX, 0, 0, z, (.14, 2 * reach, .14), STEEL)
    yaw = 0. if side < 0 else np.pi
    for left in (-4.4, 0., 4.2):
        if g.uniform() < .25:
            continue
        wide = g.uniform(2.6, 3.9)
        add = part_of(b, s, side * HIGHWAY_HALF_M / 2, Tag.TRAFFIC_SIGN, yaw=yaw)
        add(MeshId.BOX, -.2, left, 6.7, (.08, wide, 2.2), paint)
        for z, share in ((7.3, .5), (6.85, .7), (6.4, .35)):
            add(MeshId.BOX, -.26, left + .08 * wide, z, (.02, share * wide, .2), (.95, .95, .95))


def _country(b: Builder, plan: StreetPlan) -> None:
    """Add bushes and trees beside the road, woods, hills and a farm now and then."""
    g = stream(plan, 23)
    for side in SIDES:
        for place in np.arange(0., PERIOD_M - 6., 9.):
            s = place + g.uniform(-3., 3.)
            if g.uniform() < plan.green * .7:
                add_tree(b, g, s, side * (HIGHWAY_HALF_M + g.uniform(7., 22.)), plan.conifers)
            if g.uniform() < .5:
                b.add(MeshId.SPHERE, (s + 3., side * (HIGHWAY_HALF_M + g.uniform(3.6, 6.)), .5),
                      (g.uniform(.8, 1.8), .9, .9), (.12, .25, .08), Tag.VEGETATION,
                      material=Material.FOLIAGE, variant=g.uniform())
        for place in np.arange(0., PERIOD_M - 12., 17.):
            if g.uniform() < .8:
                radius = g.uniform(4., 8.)
                b.add(MeshId.SPHERE, (place + g.uniform(-6, 6),
                                      side * (HIGHWAY_HALF_M + g.uniform(28., 70.)), radius * .6),
                      (radius * 1.5, radius * 1.3, radius), (.10, .19 + g.uniform(0, .09), .06),
                      Tag.VEGETATION, material=Material.FOLIAGE, variant=g.uniform())
        for place in np.arange(60., PERIOD_M - 60., 150.):
            radius = g.uniform(45., 70.)
            b.add(MeshId.SPHERE, (place + g.uniform(-40, 40),
                                  side * (HIGHWAY_HALF_M + 75. + radius), -radius * .1),
                  (radius * 1.6, radius, radius * g.uniform(.25, .5)),
                  (.2, .27 + g.uniform(0, .06), .12), Tag.TERRAIN)
            if g.uniform() < .5:
                s, d = place + g.uniform(-30., 30.), side * (HIGHWAY_HALF_M + g.uniform(45., 60.))
                b.add(MeshId.BOX, (s, d, 2.6), (14., 8., 5.2), (.7, .66, .58), Tag.BUILDING,
                      material=Material.FACADE, variant=g.uniform())
                b.add(MeshId.ROOF, (s, d, 6.6), (14.6, 8.8, 2.9), (.45, .18, .12), Tag.BUILDING)
