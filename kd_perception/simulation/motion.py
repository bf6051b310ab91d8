"""
Where moving things are at a time: pure functions of the trajectory and the time.

Cars of one lane share its mean speed and swing about their slots by less than half the gaps, so
they never drive through each other, for however long the drive is. Pedestrians walk along the
sidewalk, stand, or cross the street once per round. Cyclists keep to their line as cars do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.simulation.camera import CameraPose
from kd_perception.simulation.plan import EGO_LATERAL_M, EGO_SPEED_MPS, PERIOD_M, StreetPlan
from kd_perception.simulation.settings import CameraSettings

ROUND_S = PERIOD_M / EGO_SPEED_MPS
WALK_MPS = 1.4
FASTEST_WALK_MPS = 2.5       # who is faster rides
STEPS_RAD_PER_M, PEDALS_RAD_PER_M = 4.8, 1.5


@dataclass(frozen=True)
class Movers:
    """
    Trajectories of M things.

    s = start + speed t + swing sin(rate t + phase); d = lateral, or on the way over the street
    from ``lateral`` to ``lateral + span`` from time ``cross_at`` on.

    :param yaw: ``[M]`` direction against the street in radians.
    """

    start: np.ndarray
    lateral: np.ndarray
    speed: np.ndarray
    swing: np.ndarray
    rate: np.ndarray
    phase: np.ndarray
    span: np.ndarray
    cross_at: np.ndarray
    yaw: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def from_rows(cls, rows: list[tuple[float, ...]]) -> Movers:
        """Build from rows of the nine values in the order of the fields."""
        columns = np.array(rows, np.float64).reshape(-1, 9).T
        return cls(*columns)


@dataclass(frozen=True)
class Ride:
    """Where the own car is: s, d in metres, and its acceleration in m/s2."""

    s: float
    d: float
    push: float


@dataclass(frozen=True)
class MoverPoses:
    """
    Poses of M things: ``s``, ``d`` in metres, ``yaw`` and ``stride`` (phase of gait), rad.

    :param brake: ``[M]`` 1 where brake lights are on; ``sink`` ``[M]`` metres that somebody built
        to stand on the sidewalk is lower, on the road.
    """

    s: np.ndarray
    d: np.ndarray
    yaw: np.ndarray
    stride: np.ndarray
    brake: np.ndarray
    sink: np.ndarray


def poses(movers: Movers, time_s: float) -> MoverPoses:
    """Return where the movers are at ``time_s``."""
    t = time_s
    s = movers.start + movers.speed * t + movers.swing * np.sin(movers.rate * t + movers.phase)
    since = (t - movers.cross_at + ROUND_S / 2) % ROUND_S - ROUND_S / 2
    length = np.abs(movers.span)
    way = np.clip(since * WALK_MPS, 0., length)
    d = movers.lateral + np.sign(movers.span) * way
    walking = np.where(length > 0, (way > 0) & (way < length), np.abs(movers.speed) > 0)
    pace = np.where(length > 0, WALK_MPS, np.abs(movers.speed))
    turns = np.where(pace > FASTEST_WALK_MPS, PEDALS_RAD_PER_M, STEPS_RAD_PER_M)
    stride = np.where(walking, turns * pace * t + movers.phase, 0.)
    # Who swings without a speed walks to and fro and turns at the ends.
    paces = (movers.speed == 0) & (movers.swing > 0)
    back = paces & (np.cos(movers.rate * t + movers.phase) < 0)
    stride = np.where(paces, STEPS_RAD_PER_M * (s - movers.start), stride)
    return MoverPoses(s, d, np.where(back, movers.yaw + np.pi, movers.yaw), stride,
                      np.zeros(len(movers)), np.zeros(len(movers)))


def camera_pose(plan: StreetPlan, time_s: float, camera: CameraSettings | None = None,
                ride: Ride | None = None) -> CameraPose:
    """
    Return the pose of the ego camera at ``time_s``.

    :param camera: how it is mounted; as usual without.
    :param ride: where live traffic has the own car; at a steady speed without.
    """
    mount = camera or CameraSettings()
    if ride is None:
        s = np.asarray(plan.ego_start + EGO_SPEED_MPS * time_s)
        d = np.asarray(EGO_LATERAL_M + .12 * np.sin(.37 * time_s + plan.sun_turn))
    else:
        s, d = np.asarray(ride.s), np.asarray(ride.d + .12 * np.sin(.37 * time_s + plan.sun_turn))
    x, y = plan.world(s, d)
    height = mount.height_m + .012 * mount.jitter * np.sin(5.1 * time_s)
    pitch = mount.pitch_rad + .004 * mount.jitter * np.sin(2.3 * time_s)
    roll = 0.
    if ride is not None:            # the nose dives when the car brakes
        pitch -= .0028 * mount.jitter * ride.push
    if mount.roughness:
        height += .02 * mount.roughness * _rumble(time_s, 1.9)
        pitch += .011 * mount.roughness * _rumble(time_s, 0.)
        roll = .014 * mount.roughness * _rumble(time_s, 4.)
    return CameraPose(s=float(s), eye=np.array([float(x), float(y), height]),
                      heading=float(plan.heading(s)), pitch=float(pitch), roll=float(roll))


def _rumble(time_s: float, phase: float) -> float:
    """Return what a bad road does to a car, about -1 … 1, with the frequencies of its springs."""
    return float(.5 * np.sin(8.3 * time_s + phase) + .3 * np.sin(13.7 * time_s + 2.1 * phase)
                 + .2 * np.sin(27.1 * time_s + 3.7 * phase))


def free_crossing_time(cars: Movers, s: float, first_d: float, span: float,
                       arrival_s: float) -> float | None:
    """
    Return when a pedestrian can start to cross at ``s`` without a car running into them.

    Tried are starts such that the crossing happens in view of the ego camera, which passes at
    ``arrival_s``, and its lane is free again a second before.
    """
    duration = abs(span) / WALK_MPS
    own_lane_free = duration if first_d > 0 else abs(first_d) / WALK_MPS
    ticks = np.arange(0., duration, .25)
    for lead in np.arange(own_lane_free + 1., own_lane_free + 9., .5):
        d = first_d + np.sign(span) * WALK_MPS * ticks
        hit = False
        for tick, lateral in zip(ticks, d):
            where = poses(cars, arrival_s - lead + tick)
            apart = np.abs((where.s - s + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2)
            hit = hit or bool(np.any((apart < 5.5) & (np.abs(where.d - lateral) < 1.7)))
        if not hit:
            return float(arrival_s - lead)
    return None
