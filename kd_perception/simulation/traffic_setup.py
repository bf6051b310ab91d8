"""
What live traffic is given and what it is at an instant: plain values.

Comes in: nothing. Goes out: ``TrafficSetup`` and ``TrafficState`` for ``traffic``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_LANE = -1                           # parked at the kerb


@dataclass(frozen=True)
class TrafficSetup:
    """
    C cars (the own one is number 0), L lanes, J lights and P people who will cross.

    :param lane: ``[C]`` lane at the start, ``NO_LANE`` for a car at the kerb that will pull out
        into lane 0; ``progress`` ``[C]`` metres driven along the own direction.
    :param lateral: ``[C]`` where it starts; ``wish`` ``[C]`` m/s; ``length`` ``[C]`` m;
        ``headway`` ``[C]`` s.
    :param lane_lateral, lane_direction: ``[L]``.
    :param stop_lines: ``[2, J]`` where cars driving with and against the street stop, s in metres;
        ``phase`` ``[J]`` of the lights.
    :param step_s: ``[P]`` where people cross, ``step_from`` and ``step_span`` their way over the
        road, ``trigger`` ``[P]`` metres of the own car before them at which they go, ``light``
        ``[P]`` the light whose red they wait for instead, or -1.
    :param events: how often the car ahead brakes hard and cars change into the own lane.
    """

    seed: int
    period: float
    lane: np.ndarray
    progress: np.ndarray
    lateral: np.ndarray
    wish: np.ndarray
    length: np.ndarray
    headway: np.ndarray
    lane_lateral: np.ndarray
    lane_direction: np.ndarray
    stop_lines: np.ndarray
    phase: np.ndarray
    step_s: np.ndarray
    step_from: np.ndarray
    step_span: np.ndarray
    trigger: np.ndarray
    light: np.ndarray
    events: float


@dataclass(frozen=True)
class TrafficState:
    """
    All cars and crossing people at a time.

    :param lane: ``[C]``; ``progress``, ``speed``, ``push`` (acceleration), ``lateral`` ``[C]``.
    :param drift: ``[C]`` lateral speed; ``changing`` ``[C]`` seconds left of a change of lanes.
    :param way: ``[P]`` metres walked over the road; ``far`` ``[P]`` 1 where the next way leads
        back; ``braker``: who has to brake hard, ``until``: till when.
    """

    lane: np.ndarray
    progress: np.ndarray
    speed: np.ndarray
    push: np.ndarray
    lateral: np.ndarray
    drift: np.ndarray
    changing: np.ndarray
    way: np.ndarray
    far: np.ndarray
    braker: int
    until: float
