"""
Life on the road: the cars and crossing people of live traffic, as things that are drawn.

Comes in: a plan, who will cross, which cars wait at the kerb. Goes out: rows in the builder, and a
``Life`` that says where all of it is at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.simulation.crossing import CrossTraffic, no_cross_traffic
from kd_perception.simulation.layers import stream
from kd_perception.simulation.motion import MoverPoses, Ride
from kd_perception.simulation.parts import add_pedestrian, Builder, KERB_M
from kd_perception.simulation.plan import PERIOD_M, StreetPlan
from kd_perception.simulation.traffic import (
    braking,
    crossing_poses,
    street_s,
    Traffic,
)
from kd_perception.simulation.traffic_setup import NO_LANE, TrafficSetup
from kd_perception.simulation.vehicles import add_car, add_lorry

EGO_LENGTH_M = 4.4
USUAL_HEADWAY_S = 1.3


@dataclass(frozen=True)
class Wishes:
    """What is asked of a world, as factors: see ``worlds.Amounts`` and ``settings.Content``."""

    events: float
    lookalikes: float
    parked: float
    headway_s: float


@dataclass(frozen=True)
class Walker:
    """
    Somebody who will cross the road.

    :param s: where; ``start``: lateral at which they wait; ``span``: way over the road, signed.
    :param trigger: metres of the own car before them at which they go; ``light``: the light whose
        red they wait for instead, or -1; ``role``: what is special about them.
    """

    s: float
    start: float
    span: float
    trigger: float
    light: int = -1
    role: str = 'crossing'


class Life:
    """Everything of a world that does not follow a fixed way."""

    def __init__(self, traffic: Traffic, cross: CrossTraffic, road: tuple[float, float]) -> None:
        self.traffic, self.cross, self.road = traffic, cross, road

    def ride(self, time_s: float) -> Ride:
        """Return where the own car is."""
        state = self.traffic.at(time_s)
        return Ride(float(state.progress[0]), float(state.lateral[0]), float(state.push[0]))

    def append(self, fixed: MoverPoses, time_s: float) -> MoverPoses:
        """Return ``fixed`` followed by cars (without the own), crossing people, cross traffic."""
        setup, state = self.traffic.setup, self.traffic.at(time_s)
        lane = np.maximum(state.lane, 0)
        toward = np.where(state.lane == NO_LANE, 1, setup.lane_direction[lane])
        slant = np.arctan2(state.drift, np.maximum(state.speed, 3.))
        yaw = np.where(toward > 0, slant, np.pi - slant)
        people_d, people_yaw, stride = crossing_poses(setup, state)
        s, d, cross_yaw, cross_brake = self.cross.at(time_s)
        edge = np.where(people_d > 0, *self.road)
        sink = KERB_M * np.clip((edge - np.abs(people_d)) / .3, 0., 1.)
        return MoverPoses(
            s=np.concatenate([fixed.s, street_s(setup, state)[1:], setup.step_s, s]),
            d=np.concatenate([fixed.d, state.lateral[1:], people_d, d]),
            yaw=np.concatenate([fixed.yaw, yaw[1:], people_yaw, cross_yaw]),
            stride=np.concatenate([fixed.stride, np.zeros(len(yaw) - 1), stride,
                                   np.zeros(len(s))]),
            brake=np.concatenate([fixed.brake, braking(state)[1:], np.zeros(len(stride)),
                                  cross_brake]),
            sink=np.concatenate([fixed.sink, np.zeros(len(yaw) - 1), sink, np.zeros(len(s))]))


def add_life(b: Builder, plan: StreetPlan, base: int, wishes: Wishes, *,
             walkers: Sequence[Walker] = (), kerb: Sequence[tuple[float, float]] = (),
             stop_lines: np.ndarray | None = None, lorries: float = 0.,
             cross: CrossTraffic | None = None) -> Life:
    """
    Add live traffic on the lanes of ``plan``.

    :param base: number of movers that the world has already.
    :param kerb: s and lateral of cars that wait at the kerb and will pull out.
    :param stop_lines: ``[2, J]`` for cars with and against the street, with ``plan.cycle``.
    :param lorries: share of articulated lorries in the outer lanes.
    """
    g = stream(plan, 10)
    rows: list[tuple[float, float, float, float]] = [       # lane, progress, lateral, wish
        (0, plan.ego_start, plan.lanes[0].lateral, plan.speed)]
    lengths = [EGO_LENGTH_M]

    def car(lane: int, progress: float, lateral: float, wish: float, lorry: bool) -> None:
        mover = base + len(rows) - 1
        if lorry:
            _, length = add_lorry(b, g, 0., 0., mover=mover, live=True)
        else:
            _, length = add_car(b, g, 0., 0., mover=mover, live=True,
                                role='pulls_out' if lane == NO_LANE else '')
        rows.append((lane, progress, lateral, wish))
        lengths.append(length)

    for number, lane in enumerate(plan.lanes):
        outer = abs(lane.lateral) == max(abs(x.lateral) for x in plan.lanes)
        many = len(plan.lanes) > 2
        pace = plan.speed * ((.84 if outer else 1.14 if abs(lane.lateral) < 5. else 1.)
                             if many else 1.)
        at, end = (22. if number == 0 else g.uniform(0., 30.)), PERIOD_M - 24.
        while at < end:
            lorry = outer and many and g.uniform() < lorries
            car(number, lane.direction * plan.ego_start + at,
                lane.lateral + g.uniform(-.12, .12), pace * g.uniform(.9, 1.08), lorry)
            at += g.uniform(*plan.gap) + (12. if lorry else 0.)
    for s, lateral in kerb:
        car(NO_LANE, s, lateral, plan.speed * g.uniform(.9, 1.05), False)
    for number, walker in enumerate(walkers):
        add_pedestrian(b, g, 0., 0., yaw=0., mover=base + len(rows) - 1 + number,
                       role=walker.role)
    table = np.array(rows)
    headway = np.full(len(rows), USUAL_HEADWAY_S)
    headway[0] = wishes.headway_s or 1.5
    setup = TrafficSetup(
        seed=plan.seed, period=PERIOD_M, lane=table[:, 0].astype(int), progress=table[:, 1],
        lateral=table[:, 2], wish=table[:, 3], length=np.array(lengths), headway=headway,
        lane_lateral=np.array([x.lateral for x in plan.lanes]),
        lane_direction=np.array([x.direction for x in plan.lanes]),
        stop_lines=np.zeros((2, 0)) if stop_lines is None else stop_lines,
        phase=np.zeros(0) if stop_lines is None else plan.cycle,
        step_s=np.array([w.s for w in walkers], float),
        step_from=np.array([w.start for w in walkers], float),
        step_span=np.array([w.span for w in walkers], float),
        trigger=np.array([w.trigger for w in walkers], float),
        light=np.array([w.light for w in walkers], int), events=wishes.events)
    crossing = cross or no_cross_traffic()
    crossing.add_cars(b, g, base + len(rows) - 1 + len(walkers))
    return Life(Traffic(setup), crossing, plan.road)
