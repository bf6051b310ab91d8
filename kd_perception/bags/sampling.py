"""Choice of frames by time, and the walk over them that gets past bad ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import logging
from typing import Protocol

import numpy as np

from kd_perception.errors import ImageError
from kd_perception.frames import Frame

_log = logging.getLogger(__name__)


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


class CountsBadFrames(Protocol):
    """What ``walk`` needs of a source."""

    bad_frames: int


def walk(source: CountsBadFrames, positions: np.ndarray,
         read: Callable[[int], Frame]) -> Iterator[Frame]:
    """
    Yield ``read(position)`` for each position; skip frames that cannot be decoded and count them.

    :param source: its ``bad_frames`` starts at 0 and counts up.
    :raises LabelError: from ``read``.
    """
    source.bad_frames = 0
    for position in positions:
        try:
            frame = read(int(position))
        except LabelError:
            raise
        except ImageError as error:
            source.bad_frames += 1
            _log.log(logging.DEBUG if source.bad_frames > 1 else logging.WARNING,
                     'skipped: %s', error)
            continue
        yield frame
    if source.bad_frames > 1:
        _log.warning('skipped %d of %d frames that cannot be decoded', source.bad_frames,
                     len(positions))


def select(times_ns: np.ndarray, rate_hz: float = 0.0, limit: int = 0) -> np.ndarray:
    """
    Return the positions of about ``rate_hz`` frames per second, at most ``limit`` of them.

    For every tick of the wanted rate the frame nearest to it is taken, none twice, unless the
    tick lies where the recording has ended. So jitter shifts a frame but loses none.

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
        gap = np.diff(offset)
        interval = np.maximum(np.append(gap, 0), np.append(0, gap))
        # Sorted by tick, then distance: the first of each tick is its nearest frame.
        order = np.lexsort((positions, distance, tick))
        first = np.ones(len(order), bool)
        first[1:] = tick[order][1:] != tick[order][:-1]
        # Half an interval is as far as a tick within regular frames can be; jitter adds to it.
        positions = np.sort(order[first & (distance <= 0.75 * interval)[order]])
    return positions[:limit] if limit else positions
