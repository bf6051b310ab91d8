"""Choice of frames by time."""

from __future__ import annotations

import numpy as np


def select(times_ns: np.ndarray, rate_hz: float = 0.0, limit: int = 0) -> np.ndarray:
    """
    Return the positions of about ``rate_hz`` frames per second, at most ``limit`` of them.

    For every tick of the wanted rate the frame nearest to it is taken, none twice. So jitter
    shifts a frame but loses none, and a gap in the recording stays one gap.

    :param times_ns: int64 ``[n]``, ascending.
    :param rate_hz: 0 takes all.
    :param limit: 0 takes all.
    :returns: int64 ``[m]``, ascending.
    """
    positions = np.arange(len(times_ns), dtype=np.int64)
    if rate_hz > 0 and len(times_ns) > 1:
        period = 1e9 / rate_hz
        offset = (times_ns - times_ns[0]).astype(np.float64)
        tick = np.round(offset / period)
        distance = np.abs(offset - tick * period)
        # Sorted by tick, then distance: the first of each tick is its nearest frame.
        order = np.lexsort((positions, distance, tick))
        first = np.ones(len(order), bool)
        first[1:] = tick[order][1:] != tick[order][:-1]
        positions = np.sort(order[first])
    return positions[:limit] if limit else positions
