"""Choice of frames by time, and how frames that cannot be decoded are told of."""

from __future__ import annotations

from dataclasses import dataclass
import logging
import math

import numpy as np

from kd_perception.bags.selection import Selection
from kd_perception.errors import ConfigError, ImageError
from kd_perception.frames import evenly

ORDERS = ('log', 'header')


@dataclass(frozen=True)
class Sampling:
    """
    Which frames of a recording are taken, applied in this order; zeros take all.

    :param selection: keep the frames that it names.
    :param rate_hz: keep about so many frames per second.
    :param motion: skip frames that differ by less than so many percent from the last one kept
        (see ``bags/motion.py``); 2.4 suits driving.
    :param count: keep so many, evenly spaced.
    :param limit: keep the first so many.
    :param order: ``log``: by the time of recording; ``header``: by the time in the header.
    :raises ConfigError: for impossible values.
    """

    rate_hz: float = 0.0
    motion: float = 0.0
    count: int = 0
    limit: int = 0
    order: str = 'log'
    selection: Selection | None = None

    def __post_init__(self) -> None:
        for name in ('rate_hz', 'motion', 'count', 'limit'):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f'{name} {value} must be finite and not negative')
        if self.order not in ORDERS:
            raise ConfigError(f'order {self.order!r} is none of {", ".join(ORDERS)}')

    def by_number(self, positions: np.ndarray) -> np.ndarray:
        """Return what ``count`` and ``limit`` leave of int64 ``[n]``."""
        if 0 < self.count < len(positions):
            positions = positions[evenly(len(positions), self.count)]
        return positions[:self.limit] if self.limit else positions


class LabelError(ImageError):
    """
    Labels have another size than their picture, or ids that mean nothing.

    A defect of the whole recording, so it ends an iteration, whereas one picture that cannot be
    decoded is skipped.
    """


class BadFrames:
    """
    Tells of frames that cannot be decoded: the first as a warning, then one sum.

    A damaged recording has thousands of them; each one is told at the level DEBUG.

    :param logger: where to tell.
    :param name: of the recording.
    :param total: frames of the recording.
    """

    def __init__(self, logger: logging.Logger, name: str, total: int) -> None:
        self._logger, self._name, self._total = logger, name, total
        self.count = 0

    def add(self, position: int, error: ImageError) -> None:
        """Tell of one frame."""
        self.count += 1
        self._logger.log(logging.DEBUG if self.count > 1 else logging.WARNING,
                         '%s: frame %d left out: %s', self._name, position, error)

    def sum_up(self) -> None:
        """Tell how many they were, where the first was not the only one."""
        if self.count > 1:
            self._logger.warning('%s: %d of %d frames left out: they cannot be decoded',
                                 self._name, self.count, self._total)


def at_rate(times_ns: np.ndarray, rate_hz: float) -> np.ndarray:
    """
    Return the positions of about ``rate_hz`` frames per second.

    For every tick of the wanted rate the frame nearest to it is taken, none twice, unless the
    tick lies where the recording has ended. So jitter shifts a frame but loses none.

    :param times_ns: int64 ``[n]``, ascending.
    :param rate_hz: 0 takes all.
    :returns: int64 ``[m]``, ascending.
    """
    positions = np.arange(len(times_ns), dtype=np.int64)
    if rate_hz > 0 and len(times_ns) > 1:
        period = 1e9 / rate_hz
        offset = (times_ns - times_ns[0]).astype(np.float64)
        tick = np.round(offset / period)
        distance = np.abs(offset - tick * period)
        gap = np.diff(offset)
        interval = np.maximum(np.append(gap, 0), np.append(0, gap))
        # Sorted by tick, then distance: the first of each tick is its nearest frame.
        order = np.lexsort((positions, distance, tick))
        first = np.ones(len(order), bool)
        first[1:] = tick[order][1:] != tick[order][:-1]
        # Half an interval is as far as a tick within regular frames can be; jitter adds to it.
        positions = np.sort(order[first & (distance <= 0.75 * interval)[order]])
    return positions
