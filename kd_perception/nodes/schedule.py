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
    the other and neither is always first. ``isolated``: one arm over half of the frames, the next
    over the same half, then the other half in reverse order of the arms, so that a machine that
    warms up or slows down hits all alike.

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
    for index in range(frames) if frames else itertools.count():
        order = tuple(arms[i] for i in draw.permutation(len(arms)))
        if placement == 'concurrent':
            yield Serving(index, order, -1 if len(order) > 1 else 0)
        else:
            yield from (Serving(index, (arm,), turn) for turn, arm in enumerate(order))
