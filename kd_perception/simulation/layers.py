"""
The layers of a street: houses, greenery, posts, parked cars, people and cyclists.

Each layer draws from its own random stream, so that a change in one layer leaves the others of the
same seed as they were. Comes in: a plan. Goes out: rows in the builder and trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.simulation.cyclists import add_rider, RIDER_HALF_M
from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.motion import free_crossing_time, Movers
from kd_perception.simulation.parts import (
    add_building,
    add_lamp,
    add_pedestrian,
    add_sign,
    add_traffic_light,
    add_tree,
    Builder,
    Material,
    Tag,
)
from kd_perception.simulation.plan import EGO_SPEED_MPS, LAMP_HEAD_M, LANE_M, PERIOD_M, StreetPlan
from kd_perception.simulation.vehicles import add_car

SIDES = (1, -1)
CAR_REACH_M = 1.325         # of the widest car from the middle of its lane
PARKING_M = 5.              # cars park where the half road is wider
PARKED_REACH_M = 2.525      # of the widest parked car from the kerb
RIDER_GAP_M = 4.


@dataclass(frozen=True)
class Front:
    """A house front: from ``s`` on ``length`` metres, ``d`` metres from the middle, its side."""

    s: float
    length: float
    d: float
    side: int
    height: float


def stream(plan: StreetPlan, layer: int) -> np.random.Generator:
    """Return the random stream of one layer."""
    return np.random.default_rng([plan.seed, layer])


def houses(b: Builder, plan: StreetPlan) -> list[Front]:
    """Add a row of houses on each side; returns their fronts."""
    g = stream(plan, 1)
    fronts = []
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
                fronts.append(Front(s, length, front, side, height))
            s += length + (g.uniform(2., 9.) if g.uniform() < .3 + .4 * plan.gabled else .3)
    return fronts


def greenery(b: Builder, plan: StreetPlan) -> None:
    """Add trees, bushes and the wood behind the houses."""
    g = stream(plan, 2)
    for side in SIDES:
        road, walk = plan.side(side)
        for place in np.arange(0., PERIOD_M - 6., 10.):
            s = place + g.uniform(-2., 2.)
            kerb_side = plan.away_from_crossings(s, 7.) and g.uniform() < .6
            d = road + (.75 if kerb_side else walk + g.uniform(.5, 1.6))
            if g.uniform() < plan.green and plan.away_from_junctions(s, 3.):
                add_tree(b, g, s, side * d, plan.conifers if not kerb_side else 0.)
            if g.uniform() < .3 and plan.away_from_junctions(s + 4, 4.):   # a bush on the lawn
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


def posts(b: Builder, plan: StreetPlan, *, lights: bool = True) -> None:
    """Add lamps, signs and the lights at zebra crossings."""
    g = stream(plan, 3)
    for side in SIDES[-plan.lamp_sides:]:
        road, _ = plan.side(side)
        for s in np.arange(plan.lamp_offset, PERIOD_M + plan.lamp_offset - 1, plan.lamp_spacing):
            if plan.away_from_junctions(s, 1.):
                add_lamp(b, s, side * (road + .5), side, road + .5 - LAMP_HEAD_M)
    for side in SIDES:
        road, _ = plan.side(side)
        s = g.uniform(0., 12.)
        while s < PERIOD_M - 8.:
            if plan.away_from_crossings(s + 4 * side, 4.) and plan.away_from_junctions(s, 9.):
                add_sign(b, g, s, side * (road + .5), side)
            s += g.uniform(11., 36.)
        for number, crossing in enumerate(plan.crossings if lights else ()):
            phase = g.uniform(0., .99)
            if plan.cycle.size:             # cars obey these, so both sides show the same
                phase = plan.cycle[number]
            # Stop line and light stand before the zebra.
            add_traffic_light(b, crossing + 2.6 * side, side * (road + .45), side,
                              road - 1.2, phase, plan.board)


def parked(b: Builder, plan: StreetPlan) -> None:
    """Add cars along the kerbs of wide roads."""
    g = stream(plan, 5)
    for side in SIDES:
        road, _ = plan.side(side)
        if road < PARKING_M:
            continue
        s = g.uniform(3., 12.)
        while s < PERIOD_M - 9.:
            if plan.away_from_crossings(s, 11.) and g.uniform() < .75:
                yaw = 0. if (g.uniform() < .9) == (side < 0) else np.pi
                add_car(b, g, s, side * (road - 1.25 + g.uniform(-.1, .1)), yaw=yaw)
            s += g.uniform(8., 10.)


def people(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]], *,
           cross: bool = True) -> None:
    """Add people on the sidewalks, and those who cross when traffic leaves a gap."""
    if not plan.people:
        return
    g = stream(plan, 6)
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
    for crossing in plan.crossings if cross else ():
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


def riders(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]]) -> None:
    """Add cyclists who ride with the traffic, each side at a pace of its own, 3 to 6 m/s."""
    if not plan.riders:
        return
    g = stream(plan, 7)
    for side in SIDES:
        line = rider_line(plan, side)
        places = np.cumsum(RIDER_GAP_M + g.exponential(
            max(1 / plan.riders - RIDER_GAP_M, 0.), int(PERIOD_M / RIDER_GAP_M)))
        places = places[places < PERIOD_M]
        if line is None or not places.size:
            continue
        pace = g.uniform(3.6, 5.2)
        # As cars of a lane: who swings less than half the gap never meets the next one.
        gaps = np.diff(places, append=places[0] + PERIOD_M)
        slack = np.minimum(gaps, np.roll(gaps, 1)) - RIDER_GAP_M + 1.
        yaw = 0. if side < 0 else np.pi
        for s, room in zip(places, slack):
            rate = 2 * np.pi / g.uniform(25., 60.)
            movers.append((s, side * line, -side * pace, min(.45 * room, .15 * pace / rate), rate,
                           g.uniform(0, 2 * np.pi), 0., 0., yaw))
            add_rider(b, g, mover=len(movers) - 1)


def rider_line(plan: StreetPlan, side: int) -> float | None:
    """
    Return metres from the middle of the road at which cyclists of a side ride.

    That is halfway between the cars of the lane and the kerb, or the cars parked there; None where
    these leave less room than a cyclist is wide.
    """
    road, _ = plan.side(side)
    inner = LANE_M + CAR_REACH_M
    outer = road if road < PARKING_M else road - PARKED_REACH_M
    return (inner + outer) / 2 if outer - inner > 1.99 * RIDER_HALF_M else None
