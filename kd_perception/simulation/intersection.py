"""
The intersection world: blocks of houses, side streets with lights, queues and crossing traffic.

Comes in: a plan with ``junctions``. Goes out: rows in the builder, and the ``Life`` of the road.
"""

from __future__ import annotations

import numpy as np

from kd_perception.simulation.crossing import side_queues
from kd_perception.simulation.downtown import add_kerb, at_zebra, ZEBRA_STOP_M
from kd_perception.simulation.layers import Front, greenery, posts, riders, SIDES, stream
from kd_perception.simulation.layouts import ZEBRA_M
from kd_perception.simulation.life import add_life, Life, Wishes
from kd_perception.simulation.lookalikes import add_lookalikes
from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.parts import (
    add_building,
    add_pedestrian,
    add_sign,
    add_traffic_light,
    Builder,
    Material,
    Tag,
)
from kd_perception.simulation.plan import PERIOD_M, StreetPlan

CORNER_M = 3.6             # from the edge of a side street to the houses along it
LONGEST_SIDE_M = 92.


def build_intersection(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]],
                       wishes: Wishes) -> Life:
    """Fill the blocks and their junctions."""
    fronts = _blocks(b, plan)
    _side_streets(b, plan)
    greenery(b, plan)
    posts(b, plan, lights=False)
    _lights(b, plan)
    _people(b, plan, movers)
    riders(b, plan, movers)
    if wishes.lookalikes:
        add_lookalikes(b, stream(plan, 12), plan, fronts, wishes.lookalikes)
    kerb, walkers = add_kerb(b, plan, wishes, lambda s: plan.away_from_junctions(s, 14.))
    for number, junction in enumerate(plan.junctions):
        for sign in SIDES:
            walkers += at_zebra(plan, junction + sign * (plan.side_half + ZEBRA_M), number)
    out = plan.side_half + ZEBRA_M + ZEBRA_STOP_M
    cross = side_queues(stream(plan, 14), plan.junctions, plan.cycle,
                        (sum(plan.side(1)) + 1.5, sum(plan.side(-1)) + 1.5), 1.)
    return add_life(b, plan, len(movers), wishes, walkers=walkers, kerb=kerb, cross=cross,
                    stop_lines=np.stack([plan.junctions - out, plan.junctions + out]))


def _blocks(b: Builder, plan: StreetPlan) -> list[Front]:
    """Close each block with houses up to its corners; returns the fronts."""
    g = stream(plan, 1)
    fronts = []
    keep = plan.side_half + CORNER_M
    for side in SIDES:
        edge = sum(plan.side(side))
        ends = np.append(plan.junctions[1:], plan.junctions[0] + PERIOD_M)
        for first, last in zip(plan.junctions, ends):
            s, end = first + keep, last - keep
            while end - s > 7.:
                length = min(g.uniform(10., 20.), end - s)
                if end - s - length < 7.:           # no sliver at the corner
                    length = end - s
                height, back = g.uniform(*plan.heights), g.uniform(*plan.set_back)
                color = plan.palette[g.integers(len(plan.palette))] * g.uniform(.8, 1.12)
                if g.uniform() < plan.built or end - s == length:
                    add_building(b, g, s, side, edge + back, length, height, False, color)
                    fronts.append(Front(s, length, edge + back, side, height))
                s += length + .2
    return fronts


def _side_streets(b: Builder, plan: StreetPlan) -> None:
    """Line the side streets with houses, and close their far ends."""
    g = stream(plan, 15)
    for junction in plan.junctions:
        for side in SIDES:
            start = sum(plan.side(side)) + 15.
            for sign in SIDES:
                d = start
                while d < LONGEST_SIDE_M:
                    wide, deep = g.uniform(9., 16.), g.uniform(9., 13.)
                    tall = g.uniform(*plan.heights)
                    color = plan.palette[g.integers(len(plan.palette))] * g.uniform(.8, 1.12)
                    s = junction + sign * (plan.side_half + CORNER_M + deep / 2)
                    b.add(MeshId.BOX, (s, side * (d + wide / 2), tall / 2), (deep, wide, tall),
                          color, Tag.BUILDING, material=Material.FACADE, variant=g.uniform())
                    d += wide + .2
            b.add(MeshId.BOX, (junction, side * (LONGEST_SIDE_M + 14.), 7.), (26., 10., 14.),
                  plan.palette[0], Tag.BUILDING, material=Material.FACADE, variant=g.uniform())


def _lights(b: Builder, plan: StreetPlan) -> None:
    g = stream(plan, 16)
    for junction, phase in zip(plan.junctions, plan.cycle):
        for side in SIDES:
            road, _ = plan.side(side)
            before = plan.side_half + ZEBRA_M
            add_traffic_light(b, junction + side * (before + 2.4), side * (road + .45), side,
                              road - 1.2, phase, plan.board)
            # The side street's own light, seen from behind and aside.
            add_traffic_light(b, junction - side * (plan.side_half + .6), side * (road + .6), side,
                              .4, phase, plan.board)
            add_sign(b, g, junction + side * (before + 9.), side * (road + .5), side)


def _people(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]]) -> None:
    """People walk to and fro within their block, so that nobody walks into cross traffic."""
    g = stream(plan, 6)
    keep = plan.side_half + CORNER_M
    ends = np.append(plan.junctions[1:], plan.junctions[0] + PERIOD_M)
    for side in SIDES:
        road, walk = plan.side(side)
        for first, last in zip(plan.junctions, ends):
            for _ in range(g.poisson(plan.people * (last - first))):
                middle = g.uniform(first + keep + 6., last - keep - 6.)
                swing = min(g.uniform(6., 40.), middle - first - keep, last - keep - middle)
                if g.uniform() < .15:
                    swing = 0.
                yaw = 0. if swing else g.uniform(0, 2 * np.pi)
                movers.append((middle, side * g.uniform(road + 1.25, road + walk - .3), 0., swing,
                               g.uniform(.9, 1.4) / max(swing, 1.), g.uniform(0, 6.28), 0., 0.,
                               yaw))
                add_pedestrian(b, g, 0., 0., yaw=yaw, mover=len(movers) - 1)
