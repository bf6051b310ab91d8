"""
Downtown: the street with live traffic, look-alikes, and people who step out between parked cars.

Comes in: a plan. Goes out: rows in the builder, walkers, and the ``Life`` of the road.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kd_perception.simulation.layers import (
    greenery,
    houses,
    people,
    posts,
    riders,
    SIDES,
    stream,
)
from kd_perception.simulation.life import add_life, Life, Walker, Wishes
from kd_perception.simulation.lookalikes import add_lookalikes, add_van_picture
from kd_perception.simulation.parts import Builder
from kd_perception.simulation.plan import PERIOD_M, StreetPlan
from kd_perception.simulation.vehicles import add_car

ZEBRA_STOP_M = 3.9         # from the middle of a zebra to where bumpers stop


def build_downtown(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]],
                   wishes: Wishes) -> Life:
    """Fill the street."""
    fronts = houses(b, plan)
    greenery(b, plan)
    posts(b, plan)
    people(b, plan, movers, cross=False)
    riders(b, plan, movers)
    if wishes.lookalikes:
        add_lookalikes(b, stream(plan, 12), plan, fronts, wishes.lookalikes)
    kerb, walkers = add_kerb(b, plan, wishes, lambda s: plan.away_from_crossings(s, 11.))
    for number, crossing in enumerate(plan.crossings):
        walkers += at_zebra(plan, float(crossing), number)
    lines = np.stack([plan.crossings - ZEBRA_STOP_M, plan.crossings + ZEBRA_STOP_M])
    return add_life(b, plan, len(movers), wishes, walkers=walkers, kerb=kerb, stop_lines=lines)


def add_kerb(b: Builder, plan: StreetPlan, wishes: Wishes,
             free: Callable[[float], bool]) -> tuple[list[tuple[float, float]], list[Walker]]:
    """
    Add parked cars, some with pictures on them.

    :returns: places of cars that will pull out, and the people who step out between cars.
    """
    g = stream(plan, 11)
    kerb: list[tuple[float, float]] = []
    walkers: list[Walker] = []
    for side in SIDES:
        road, _ = plan.side(side)
        if road < 5.:
            continue
        s = g.uniform(3., 12.)
        while s < PERIOD_M - 9.:
            d = side * (road - 1.22 + g.uniform(-.08, .08))
            dice, kind, again = g.uniform(), g.choice(3, p=[.52, .3, .18]), g.uniform()
            gap = g.uniform(7.4, 9.)
            if free(s) and dice < .8 * wishes.parked:
                yaw = 0. if (g.uniform() < .94) == (side < 0) else np.pi
                if side < 0 and again < .07 * wishes.events and s > 30.:
                    kerb.append((s, d))
                else:
                    ident, _ = add_car(b, g, s, d, yaw=yaw, kind=int(kind))
                    if kind == 2 and again < .5 * wishes.lookalikes:
                        add_van_picture(b, g, ident, s, d, yaw)
                if again > 1. - .07 * wishes.events:
                    # Beyond the parked car as the own car sees it, so that it hides them.
                    walkers.append(Walker(s + gap / 2, side * (road + .35),
                                          -side * (plan.side(-side)[0] + road + .7),
                                          trigger=float(g.uniform(15., 23.) * plan.speed / 8.),
                                          role='step_out'))
            s += gap
    return kerb, walkers


def at_zebra(plan: StreetPlan, s: float, light: int, most: int = 4) -> list[Walker]:
    """Return people who cross at a zebra when the cars there have red."""
    if not plan.people:
        return []
    g = np.random.default_rng([plan.seed, 13, round(10 * s)])
    out = []
    for _ in range(int(g.integers(0, most) + (plan.people > .25) * 2)):
        side = int(g.choice(SIDES))
        road, other = plan.side(side)[0], plan.side(-side)[0]
        out.append(Walker(s + g.uniform(-1.3, 1.3), side * (road + g.uniform(.7, 1.5)),
                          -side * (road + other + 2.), 0., light))
    return out
