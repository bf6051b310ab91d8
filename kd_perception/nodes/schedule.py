"""
In which order frames are served to the arms of a comparison.

Plain values, so that a camera can follow the order and a test can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import itertools

import numpy as np

from kd_perception.errors import ConfigError

# Of those that a comparison may name, what a camera can do by itself.
SERVED = ('turns', 'concurrent', 'isolated')


@dataclass(frozen=True)
class Serving:
    """
    One act of publishing.

    :param index: frame in the source, from 0.
    :param arms: arms that get it now, in this order.
    :param turn: place of the arm among those served with this frame one by one; -1 together.
    """

    index: int
    arms: tuple[str, ...]
    turn: int


def servings(frames: int, arms: Sequence[str], placement: str, seed: int) -> Iterator[Serving]:
    """
    Yield what to publish, to whom.

    ``concurrent``: all arms together, the order of the publish calls drawn anew for each frame.
    ``turns``: one arm after the other with the same frame, in random order, so that neither loads
    the other and neither is first more often. ``isolated``: one arm over half of the frames, the
    next over the same half, then the other half in reverse order of the arms, so that a machine
    that warms up or slows down hits all alike.

    :param frames: number of frames; 0 for no end.
    :param arms: namespaces; one empty string for a camera without arms.
    :raises ConfigError: for ``isolated`` without end.
    """
    draw = np.random.default_rng(seed)
    if placement == 'isolated':
        if not frames:
            raise ConfigError('placement isolated needs a number of frames')
        half = (frames + 1) // 2
        for block, order in ((range(half), arms), (range(half, frames), arms[::-1])):
            for arm in order:
                yield from (Serving(i, (arm,), 0) for i in block)
        return
    indices = range(frames) if frames else itertools.count()
    for index, order in zip(indices, _orders(arms, draw)):
        if placement == 'concurrent':
            yield Serving(index, order, -1 if len(order) > 1 else 0)
        else:
            yield from (Serving(index, (arm,), turn) for turn, arm in enumerate(order))


def _orders(arms: Sequence[str], draw: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """
    Yield orders of the arms without end, drawn at random and counterbalanced.

    In as many frames as there are arms each arm has each place once: who is first has colder
    caches (1.3 ms of 100 here), and plain chance gave one arm 460 of 1000 first places.
    """
    n = len(arms)
    while True:
        order = draw.permutation(n)
        for shift in draw.permutation(n):
            yield tuple(arms[i] for i in np.roll(order, shift))
