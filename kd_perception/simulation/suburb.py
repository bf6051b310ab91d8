"""
The suburb: detached houses with gardens, hedges, fences, drives and bins; children, few cars.

Comes in: a plan. Goes out: rows in the builder, and the ``Life`` of the road.
"""

from __future__ import annotations

import numpy as np

from kd_perception.simulation.downtown import add_kerb
from kd_perception.simulation.layers import people, posts, riders, SIDES, stream
from kd_perception.simulation.life import add_life, Life, Walker, Wishes
from kd_perception.simulation.lookalikes import add_billboard, add_statue
from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.parts import (
    add_building,
    add_tree,
    Builder,
    KERB_M,
    Material,
    Tag,
)
from kd_perception.simulation.plan import PERIOD_M, StreetPlan
from kd_perception.simulation.vehicles import add_car

HEDGE = (.10, .24, .07)


def build_suburb(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]],
                 wishes: Wishes) -> Life:
    """Fill the plots along the road."""
    _plots(b, plan, wishes)
    _woods(b, plan)
    posts(b, plan, lights=False)
    people(b, plan, movers, cross=False)
    riders(b, plan, movers)
    kerb, walkers = add_kerb(b, plan, wishes, lambda s: plan.away_from_crossings(s, 11.))
    g = stream(plan, 17)
    for s in np.arange(40., PERIOD_M - 40., 110.):       # children run out of their gardens
        if g.uniform() < .5 * wishes.events:
            side = int(g.choice(SIDES))
            road, other = plan.side(side)[0], plan.side(-side)[0]
            walkers.append(Walker(s + g.uniform(-20., 20.), side * (road + 1.2),
                                  -side * (road + other + 2.4), trigger=g.uniform(24., 38.)))
    return add_life(b, plan, len(movers), wishes, walkers=walkers, kerb=kerb)


def _plots(b: Builder, plan: StreetPlan, wishes: Wishes) -> None:
    g = stream(plan, 1)
    for side in SIDES:
        edge = sum(plan.side(side))
        s = g.uniform(0., 6.)
        while s < PERIOD_M - 26.:
            length = g.uniform(17., 25.)
            _plot(b, g, plan, s, side, edge, length)
            if g.uniform() < .07 * wishes.lookalikes:
                add_statue(b, g, s + length * .3, side * (edge + 2.2))
            elif g.uniform() < .05 * wishes.lookalikes:
                add_billboard(b, g, s + length * .2, side * (edge + 1.9), -side)
            s += length


def _plot(b: Builder, g: np.random.Generator, plan: StreetPlan, s: float, side: int, edge: float,
          length: float) -> None:
    """Add one house with garage, drive, hedge or fence, trees and a bin."""
    front, wide = edge + g.uniform(*plan.set_back), g.uniform(9., 12.)
    color = plan.palette[g.integers(len(plan.palette))] * g.uniform(.9, 1.15)
    add_building(b, g, s + 4.6, side, front, wide, g.uniform(*plan.heights), True, color)
    garage = s + 2.4
    b.add(MeshId.BOX, (garage, side * (front + 4.5), 1.4), (3.4, 6., 2.8), color * .9,
          Tag.BUILDING)
    b.add(MeshId.BOX, (garage, side * (front + 1.48), 1.2), (2.6, .1, 2.3), (.8, .8, .78),
          Tag.BUILDING)
    drive = front + 1.5 - edge
    b.add(MeshId.BOX, (garage, side * (edge + drive / 2), KERB_M), (3., drive, .05),
          np.array((.42, .40, .38)) * g.uniform(.8, 1.15), Tag.GROUND)
    if g.uniform() < .4:
        add_car(b, g, garage, side * (edge + drive * .55), yaw=side * np.pi / 2, kind=int(
            g.integers(2)))
    _border(b, g, s + 4.4, s + length - .3, side * (edge + .45))
    for _ in range(2):
        add_tree(b, g, s + g.uniform(6., length - 2.), side * (edge + g.uniform(2., 4.)), .25)
    add_tree(b, g, s + g.uniform(0., length), side * (front + 16.), .3)
    for _ in range(3):
        b.add(MeshId.SPHERE, (s + g.uniform(5., length - 1.), side * (front - g.uniform(.6, 1.4)),
                              .5), (.7, .6, g.uniform(.5, .9)),
              (g.uniform(.1, .3), .25, .1), Tag.VEGETATION, material=Material.FOLIAGE,
              variant=g.uniform())
    if g.uniform() < .5:
        for k in range(int(g.integers(1, 4))):
            b.add(MeshId.BOX, (s + 4.6 + .75 * k, side * (edge - .35), KERB_M + .5),
                  (.55, .6, 1.), ((.1, .12, .1), (.1, .2, .45), (.45, .35, .08))[k % 3],
                  Tag.STATIC)


def _border(b: Builder, g: np.random.Generator, first: float, last: float, d: float) -> None:
    """Add a hedge, a low wall or a fence of pickets along the sidewalk."""
    kind = g.choice(3, p=[.45, .2, .35])
    pieces = max(int((last - first) / 3.), 1)
    step = (last - first) / pieces
    tall = (g.uniform(.8, 1.7), g.uniform(.5, .9), g.uniform(.9, 1.2))[kind]
    tone = np.array(((.85, .85, .83), (.4, .28, .17), (.25, .3, .28))[g.integers(3)])
    for k in range(pieces):
        s = first + (k + .5) * step
        if kind == 0:
            b.add(MeshId.BOX, (s, d, KERB_M + tall / 2), (step + .1, .8, tall), HEDGE,
                  Tag.VEGETATION, material=Material.FOLIAGE, variant=g.uniform())
        elif kind == 1:
            b.add(MeshId.BOX, (s, d, KERB_M + tall / 2), (step + .02, .25, tall),
                  (.5, .36, .3), Tag.WALL)
        else:
            for z in (.3, .8):
                b.add(MeshId.BOX, (s, d, KERB_M + tall * z), (step, .04, .1), tone, Tag.FENCE)
            for x in np.arange(-.5, .5, .166):
                b.add(MeshId.BOX, (s + x * step, d, KERB_M + tall / 2), (.09, .05, tall), tone,
                      Tag.FENCE)


def _woods(b: Builder, plan: StreetPlan) -> None:
    g = stream(plan, 2)
    for side in SIDES:
        for place in np.arange(0., PERIOD_M - 9., 12.):
            radius = g.uniform(3.5, 7.)
            b.add(MeshId.SPHERE, (place + g.uniform(-5, 5),
                                  side * (sum(plan.side(side)) + g.uniform(34., 60.)),
                                  radius * .7), (radius * 1.3, radius * 1.3, radius),
                  (.10, .20 + g.uniform(0, .1), .06), Tag.VEGETATION,
                  material=Material.FOLIAGE, variant=g.uniform())
