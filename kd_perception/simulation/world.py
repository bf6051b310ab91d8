"""
The contents of a street: from a seed to numpy arrays of instances and trajectories. Pure.

Each layer (houses, trees, poles, traffic, people) draws from its own random stream, so that a
change in one layer leaves the others of the same seed as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.motion import free_crossing_time, Movers
from kd_perception.simulation.parts import (
    add_building,
    add_car,
    add_lamp,
    add_pedestrian,
    add_sign,
    add_traffic_light,
    add_tree,
    Builder,
    InstanceTable,
    Material,
    Tag,
)
from kd_perception.simulation.plan import (
    EGO_SPEED_MPS,
    LAMP_HEAD_M,
    LANE_M,
    PERIOD_M,
    plan_street,
    StreetPlan,
)

SIDES = (1, -1)
ONCOMING_MPS = 8.5
TAIL_GAP_M = 13.          # between the last car of a lane and the camera's slot, or the first


@dataclass(frozen=True)
class World:
    """A street: its plan, all drawn instances of one period, and what moves."""

    plan: StreetPlan
    instances: InstanceTable
    movers: Movers


def build_world(seed: int) -> World:
    """Return the street of that seed."""
    plan = plan_street(seed)
    builder = Builder()
    movers: list[tuple[float, ...]] = []
    _houses(builder, plan)
    _greenery(builder, plan)
    _posts(builder, plan)
    _traffic(builder, plan, movers)
    _parked(builder, plan)
    _people(builder, plan, movers)
    return World(plan, builder.table(), Movers.from_rows(movers))


def _stream(plan: StreetPlan, layer: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, layer])


def _houses(b: Builder, plan: StreetPlan) -> None:
    g = _stream(plan, 1)
    for side in SIDES:
        edge = sum(plan.side(side))
        s = 0.
        while s < PERIOD_M - 22.:
            length = g.uniform(8., 19.)
            height = g.uniform(*plan.heights)
            front = edge + g.uniform(*plan.set_back)
            gabled = height < 14. and g.uniform() < plan.gabled
            color = plan.palette[g.integers(len(plan.palette))] * g.uniform(.8, 1.12)
            if g.uniform() < plan.built:
                add_building(b, g, s, side, front, length, height, gabled, color)
            s += length + (g.uniform(2., 9.) if g.uniform() < .3 + .4 * plan.gabled else .3)


def _greenery(b: Builder, plan: StreetPlan) -> None:
    g = _stream(plan, 2)
    for side in SIDES:
        road, walk = plan.side(side)
        for place in np.arange(0., PERIOD_M - 6., 10.):
            s = place + g.uniform(-2., 2.)
            kerb_side = plan.away_from_crossings(s, 7.) and g.uniform() < .6
            d = road + (.75 if kerb_side else walk + g.uniform(.5, 1.6))
            if g.uniform() < plan.green:
                add_tree(b, g, s, side * d, plan.conifers if not kerb_side else 0.)
            if g.uniform() < .3:            # a bush on the lawn
                b.add(MeshId.SPHERE, (s + 4, side * (road + walk + g.uniform(.8, 1.6)), .5),
                      (g.uniform(.7, 1.3), .7, .75), (.12, .25, .08), Tag.VEGETATION,
                      material=Material.FOLIAGE, variant=g.uniform())
        for place in np.arange(0., PERIOD_M - 9., 14.):      # the wood behind the houses
            if g.uniform() < .75:
                radius = g.uniform(3., 6.)
                b.add(MeshId.SPHERE, (place + g.uniform(-5, 5),
                                      side * (road + walk + g.uniform(22., 45.)), radius * .8),
                      (radius * 1.3, radius * 1.3, radius), (.10, .20 + g.uniform(0, .1), .06),
                      Tag.VEGETATION, material=Material.FOLIAGE, variant=g.uniform())


def _posts(b: Builder, plan: StreetPlan) -> None:
    g = _stream(plan, 3)
    for side in SIDES[-plan.lamp_sides:]:
        road, _ = plan.side(side)
        for s in np.arange(plan.lamp_offset, PERIOD_M + plan.lamp_offset - 1, plan.lamp_spacing):
            add_lamp(b, s, side * (road + .5), side, road + .5 - LAMP_HEAD_M)
    for side in SIDES:
        road, _ = plan.side(side)
        s = g.uniform(0., 12.)
        while s < PERIOD_M - 8.:
            if plan.away_from_crossings(s + 4 * side, 4.):
                add_sign(b, g, s, side * (road + .5), side)
            s += g.uniform(11., 36.)
        for crossing in plan.crossings:     # stop line and light stand before the zebra
            add_traffic_light(b, crossing + 2.6 * side, side * (road + .45), side,
                              road - 1.2, g.uniform(0., .99), plan.board)


def _traffic(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]]) -> None:
    g = _stream(plan, 4)
    for direction, speed in ((1, EGO_SPEED_MPS), (-1, -ONCOMING_MPS)):
        # Positions ahead of the ego camera, which keeps a slot of its own at zero.
        slots = [0.]
        while slots[-1] < PERIOD_M - 45.:
            slots.append(slots[-1] + g.uniform(*plan.gap) + (9. if len(slots) == 1 else 0.))
        if slots[-1] > PERIOD_M - TAIL_GAP_M:
            slots.pop()  # the street is a round: this one would drive into the camera
        gaps = np.diff(slots, append=PERIOD_M)
        for i in range(1, len(slots)):
            slack = min(gaps[i - 1], gaps[i]) - 10.
            mover = len(movers)
            movers.append((plan.ego_start + slots[i], -direction * LANE_M + g.uniform(-.15, .15),
                           speed, .45 * max(slack, 0.), 2 * np.pi / g.uniform(25., 60.),
                           g.uniform(0, 2 * np.pi), 0., 0., 0. if direction > 0 else np.pi))
            add_car(b, g, 0., 0., mover=mover)


def _parked(b: Builder, plan: StreetPlan) -> None:
    g = _stream(plan, 5)
    for side in SIDES:
        road, _ = plan.side(side)
        if road < 5.:
            continue
        s = g.uniform(3., 12.)
        while s < PERIOD_M - 9.:
            if plan.away_from_crossings(s, 11.) and g.uniform() < .75:
                yaw = 0. if (g.uniform() < .9) == (side < 0) else np.pi
                add_car(b, g, s, side * (road - 1.25 + g.uniform(-.1, .1)), yaw=yaw)
            s += g.uniform(8., 10.)


def _people(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]]) -> None:
    g = _stream(plan, 6)
    cars = Movers.from_rows(movers)
    for side in SIDES:
        road, walk = plan.side(side)
        s = 0.
        while s < PERIOD_M - 8.:
            s += g.exponential(1 / plan.people)
            speed = g.uniform(.8, 1.6) * (1 if g.uniform() < .5 else -1)
            if g.uniform() < .15:
                speed = 0.
            yaw = np.pi if speed < 0 else 0.
            if speed == 0.:
                yaw = g.uniform(0, 2 * np.pi)
            d = side * g.uniform(road + 1.25, road + walk - .3)
            for _ in range(2 if g.uniform() < .2 else 1):
                movers.append((s, d, speed, 0., 0., g.uniform(0, 6.28), 0., 0., yaw))
                add_pedestrian(b, g, 0., 0., yaw=yaw, mover=len(movers) - 1)
                d += .55 if d < 0 else -.55
    for crossing in plan.crossings:
        for _ in range(g.integers(0, 4)):
            side = int(g.choice(SIDES))
            road, _ = plan.side(side)
            other, _ = plan.side(-side)
            s = crossing + g.uniform(-1.3, 1.3)
            span = -side * (road + other + 1.8)
            arrival = (s - plan.ego_start) % PERIOD_M / EGO_SPEED_MPS
            start = free_crossing_time(cars, s, side * (road + .9), span, arrival)
            if start is None:
                start, span = 0., 0.
            yaw = -side * np.pi / 2
            movers.append((s, side * (road + .9), 0., 0., 0., g.uniform(0, 6.28), span, start,
                           yaw))
            add_pedestrian(b, g, 0., 0., yaw=yaw, mover=len(movers) - 1)
