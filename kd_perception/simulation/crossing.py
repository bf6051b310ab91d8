"""
Cross traffic of junctions: cars that wait in the side streets and go when they have green.

A pure function of the lights' cycle, so it fits any time. A car comes from out of sight, queues,
crosses the main road and leaves out of sight, once per cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.simulation.parts import Builder
from kd_perception.simulation.signals import side_clock
from kd_perception.simulation.vehicles import add_car

OUT_OF_SIGHT_M = 900.
START_MPS2, CROSS_MPS = 2.2, 9.
COMING_M, COMING_S, COME_AT_S = 62., 9., 13.


@dataclass(frozen=True)
class CrossTraffic:
    """
    X cars of side streets.

    :param s: ``[X]`` where they cross; ``direction`` +1 to the street's left, -1 to its right.
    :param line: ``[X]`` distance of their waiting place from the middle of the main road.
    :param rank: ``[X]`` place in the queue; ``phase`` of the main road's lights.
    """

    s: np.ndarray
    direction: np.ndarray
    line: np.ndarray
    rank: np.ndarray
    phase: np.ndarray

    def add_cars(self, b: Builder, g: np.random.Generator, base: int) -> None:
        """Add one drawn car for each, with movers from ``base`` on."""
        for number in range(len(self.s)):
            add_car(b, g, 0., 0., mover=base + number, live=True, kind=int(g.integers(3)),
                    role='cross_traffic')

    def at(self, time_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return s, d, yaw and brake lights, ``[X]`` each."""
        clock = side_clock(self.phase, time_s)
        going = np.maximum(clock - .6 - 1.2 * self.rank, 0.)
        ramp = np.minimum(going, CROSS_MPS / START_MPS2)
        way = .5 * START_MPS2 * ramp**2 + CROSS_MPS * (going - ramp)
        coming = (clock - COME_AT_S - .6 * self.rank) / COMING_S
        way = np.where(coming > 0, -COMING_M * (1 - np.minimum(coming, 1.))**2, way)
        gone = (coming <= 0) & (way > self.line + 75.)
        d = self.direction * np.where(gone, OUT_OF_SIGHT_M, way - self.line)
        brake = ((coming > .45) | (going == 0.)).astype(float)
        return self.s, d, self.direction * np.pi / 2, brake


def no_cross_traffic() -> CrossTraffic:
    """Return a world without side streets."""
    none = np.zeros(0)
    return CrossTraffic(none, none, none, none, none)


def side_queues(g: np.random.Generator, junctions: np.ndarray, phase: np.ndarray,
                line: tuple[float, float], density: float) -> CrossTraffic:
    """
    Return up to three cars in each arm of each junction.

    :param line: waiting places' distance from the middle of the main road, left and right.
    """
    rows = []
    for s, light in zip(junctions, phase):
        for direction in (1, -1):
            # They keep right: who drives to the left of the street does so on its far side.
            for rank in range(int(g.choice(4, p=[.2, .3, .3, .2]) * min(density, 1.) + .5)):
                first = line[1] if direction > 0 else line[0]
                rows.append((s + 1.9 * direction, direction, first + 2.6 + 6.6 * rank, rank,
                             light))
    return CrossTraffic(*np.array(rows, float).reshape(-1, 5).T)


