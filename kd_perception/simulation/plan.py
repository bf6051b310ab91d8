"""
The plan of one street: everything that a seed decides once for its whole length.

The street repeats after ``PERIOD_M``, far more than is ever in view, so a drive never ends and an
instance id is never seen twice in one picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

PERIOD_M = 1440.0
EGO_SPEED_MPS = 7.5
EGO_LATERAL_M = -1.85
LANE_M = 1.85
LAMP_HEAD_M = 2.7           # lateral of the head of a street lamp


@dataclass(frozen=True)
class Lane:
    """One lane: lateral of its middle in metres, and +1 along the street or -1 against it."""

    lateral: float
    direction: int


@dataclass(frozen=True)
class StreetPlan:
    """
    Layout of a street; lateral distances in metres, left is positive.

    :param curves: two rows (amplitude, wave number, phase) of the centre line.
    :param road: half width of the road, left and right; 4 m, or 6.1 m with parked cars.
    :param walk: width of the sidewalk, left and right.
    :param heights: lowest and highest building; ``gabled``: share of roofs with a ridge.
    :param built: probability that a lot has a building; ``set_back``: its distance range.
    :param green: probability of a tree per place; ``conifers``: share of conifers.
    :param crossings: sorted positions ``[C]`` along the street.
    :param lamp_spacing: metres between street lamps; they stand on ``lamp_sides`` sides.
    :param gap: shortest and longest gap between cars of one lane.
    :param people: pedestrians per metre and side; ``riders``: people on bicycles, the same.
    :param marking: dash length, share of it painted, asphalt tone, dryness of grass.
    :param sun_turn: rotation of the sun about z in radians.
    :param lanes: from the own one on; ``speed``: what cars wish to drive, metres per second.
    :param junctions: sorted positions ``[J]`` of side streets, ``side_half`` their half width,
        ``cycle`` ``[J]`` the phase of their traffic lights, 0 … 1.
    """

    seed: int
    curves: np.ndarray
    road: tuple[float, float]
    walk: tuple[float, float]
    heights: tuple[float, float]
    gabled: float
    built: float
    set_back: tuple[float, float]
    palette: np.ndarray
    green: float
    conifers: float
    crossings: np.ndarray
    board: bool
    lamp_spacing: float
    lamp_offset: float
    lamp_sides: int
    gap: tuple[float, float]
    people: float
    marking: tuple[float, float, float, float]
    sun_turn: float
    ego_start: float
    layout: str = 'street'
    lanes: tuple[Lane, ...] = (Lane(-1.85, 1), Lane(1.85, -1))
    speed: float = EGO_SPEED_MPS
    junctions: np.ndarray = field(default_factory=lambda: np.zeros(0))
    side_half: float = 0.
    cycle: np.ndarray = field(default_factory=lambda: np.zeros(0))
    riders: float = 0.

    def side(self, sign: int) -> tuple[float, float]:
        """Return half road and sidewalk width of the left (+1) or right (-1) side."""
        index = 0 if sign > 0 else 1
        return self.road[index], self.walk[index]

    def lateral(self, s: np.ndarray) -> np.ndarray:
        """Return y of the centre line at x = ``s`` (any shape)."""
        (a, k, p), (b, m, q) = self.curves
        return a * np.sin(k * s + p) + b * np.sin(m * s + q)

    def heading(self, s: np.ndarray) -> np.ndarray:
        """Return the direction of the street at ``s`` in radians."""
        (a, k, p), (b, m, q) = self.curves
        return np.arctan(a * k * np.cos(k * s + p) + b * m * np.cos(m * s + q))

    def world(self, s: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of street coordinates (any shape)."""
        h = self.heading(s)
        return s - d * np.sin(h), self.lateral(s) + d * np.cos(h)

    def away_from_crossings(self, s: float, clear: float) -> bool:
        """Tell whether ``s`` is more than ``clear`` metres from every crossing."""
        apart = np.abs((self.crossings - s + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2)
        return bool(np.all(apart > clear))

    def away_from_junctions(self, s: float, clear: float) -> bool:
        """Tell whether ``s`` is more than ``clear`` metres from the edges of all side streets."""
        apart = np.abs((self.junctions - s + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2)
        return bool(np.all(apart > self.side_half + clear))


def plan_street(seed: int) -> StreetPlan:
    """Return the plan of that seed."""
    g = np.random.default_rng([seed, 0])
    waves = g.choice([4, 5, 6]), g.choice([7, 9, 11])
    curves = np.array([
        [g.uniform(3., 11.), 2 * np.pi * waves[0] / PERIOD_M, g.uniform(0, 2 * np.pi)],
        [g.uniform(0., 2.), 2 * np.pi * waves[1] / PERIOD_M, g.uniform(0, 2 * np.pi)]])
    town = g.integers(4)                      # suburb, small town, city, high-rise
    heights = ((4.5, 8.), (6., 13.), (8., 22.), (12., 34.))[town]
    gaps = g.uniform(48., 92., 64)
    crossings = g.uniform(20., 60.) + np.cumsum(gaps)
    crossings = crossings[crossings < PERIOD_M - 30.]
    hues = np.array([(.62, .36, .27), (.70, .63, .52), (.55, .56, .58), (.75, .72, .66),
                     (.40, .33, .29), (.66, .50, .38), (.80, .78, .74), (.48, .52, .50),
                     (.72, .56, .30), (.52, .28, .24)])
    busy = g.uniform(0, 1)
    return StreetPlan(
        seed=seed,
        curves=curves,
        road=(float(g.choice([4., 4., 6.1])), float(g.choice([4., 4., 6.1]))),
        walk=(float(g.uniform(2.6, 4.4)), float(g.uniform(2.6, 4.4))),
        heights=heights,
        gabled=(.9, .6, .2, 0.)[town],
        built=float((.7, .8, .88, .82)[town] + g.uniform(-.12, .08)),
        set_back=((2., 7.), (.3, 4.), (.3, 2.5), (.5, 5.))[town],
        palette=hues[g.permutation(len(hues))[:5]],
        green=float(g.uniform(.45, 1.)),
        conifers=float(g.choice([0., 0., .2, .6])),
        crossings=crossings,
        board=bool(g.uniform() < .5),
        lamp_spacing=PERIOD_M / float(g.choice([36, 40, 48, 60])),
        lamp_offset=float(g.uniform(0, 20)),
        lamp_sides=int(g.choice([1, 2, 2])),
        gap=(13. + 6. * (1 - busy), 28. + 40. * (1 - busy)),
        people=float(g.uniform(.07, .15)),
        marking=(float(g.choice([6., 9., 12.])), float(g.uniform(.35, .5)),
                 float(g.uniform(.75, 1.25)), float(g.uniform(-.3, .3))),
        sun_turn=float(g.uniform(-.5, .5)),
        ego_start=float(g.uniform(0., PERIOD_M)))
