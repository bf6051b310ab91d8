"""
The contents of a world: from a seed to numpy arrays of instances and trajectories. Pure.

Comes in: seed, kind of world, content factors. Goes out: a ``World``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from kd_perception.simulation.camera import CameraPose
from kd_perception.simulation.downtown import build_downtown
from kd_perception.simulation.highway import build_highway
from kd_perception.simulation.intersection import build_intersection
from kd_perception.simulation.layers import greenery, houses, parked, people, posts, riders, stream
from kd_perception.simulation.layouts import plan_world
from kd_perception.simulation.life import Life, Wishes
from kd_perception.simulation.motion import camera_pose, MoverPoses, Movers, poses
from kd_perception.simulation.parts import Builder, InstanceTable, Tag
from kd_perception.simulation.plan import EGO_SPEED_MPS, LANE_M, PERIOD_M, StreetPlan
from kd_perception.simulation.settings import CameraSettings, Content
from kd_perception.simulation.suburb import build_suburb
from kd_perception.simulation.vehicles import add_car
from kd_perception.simulation.worlds import load_world, WorldSpec

ONCOMING_MPS = 8.5
_TINTED = (Tag.BUILDING, Tag.WALL, Tag.CAR, Tag.TRUCK, Tag.PEDESTRIAN, Tag.RIDER, Tag.BICYCLE)
TAIL_GAP_M = 13.          # between the last car of a lane and the camera's slot, or the first

_BUILDERS: dict[str, Callable[[Builder, StreetPlan, list[tuple[float, ...]], Wishes], Life]] = {
    'street': build_downtown, 'intersection': build_intersection, 'highway': build_highway,
    'suburb': build_suburb}


@dataclass(frozen=True)
class World:
    """
    A street: its plan, all drawn instances of one period, and what moves.

    :param movers: those with a fixed way; the movers of ``life`` are counted on from them.
    :param life: live traffic, or None where cars roll at one speed.
    :param roles: what is special about an instance, by id.
    """

    plan: StreetPlan
    instances: InstanceTable
    movers: Movers
    life: Life | None = None
    roles: dict[int, str] = field(default_factory=dict)

    def poses(self, time_s: float) -> MoverPoses:
        """Return where everything that moves is at ``time_s``."""
        out = poses(self.movers, time_s)
        return out if self.life is None else self.life.append(out, time_s)

    def camera(self, time_s: float, camera: CameraSettings | None = None) -> CameraPose:
        """Return the pose of the ego camera at ``time_s``."""
        ride = None if self.life is None else self.life.ride(time_s)
        return camera_pose(self.plan, time_s, camera, ride)


def build_world(seed: int, spec: WorldSpec | None = None,
                content: Content | None = None) -> World:
    """
    Return the world of that seed.

    :param spec: which kind of world; the street without. ``content``: as usual without.
    """
    spec, content = spec or load_world('street'), content or Content()
    plan = plan_world(seed, spec, content)
    builder = Builder()
    movers: list[tuple[float, ...]] = []
    if not spec.alive:
        houses(builder, plan)
        greenery(builder, plan)
        posts(builder, plan)
        _traffic(builder, plan, movers)
        parked(builder, plan)
        people(builder, plan, movers)
        riders(builder, plan, movers)
        return World(plan, _tinted(builder.table(), content.palette), Movers.from_rows(movers))
    wishes = Wishes(
        events=spec.amounts.events * content.events,
        lookalikes=spec.amounts.lookalikes * content.lookalikes,
        parked=spec.amounts.parked * content.parked, headway_s=content.headway_s)
    life = _BUILDERS[spec.layout](builder, plan, movers, wishes)
    return World(plan, _tinted(builder.table(), content.palette), Movers.from_rows(movers), life,
                 builder.roles)


def _tinted(table: InstanceTable, palette: float) -> InstanceTable:
    """Return the table with the colours of houses, cars and clothes turned by ``palette``."""
    if palette == 0.:
        return table
    turned = np.isin(table.ids[:, 0], _TINTED)
    look = table.look.copy()
    usual = look[turned, 2:5]
    look[turned, 2:5] = (1 - palette) * usual + palette * usual[:, [2, 0, 1]]
    return replace(table, look=look)


def _traffic(b: Builder, plan: StreetPlan, movers: list[tuple[float, ...]]) -> None:
    g = stream(plan, 4)
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
