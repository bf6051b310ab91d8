"""The side of a source that all recordings share: chosen positions, and the walk over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
import hashlib
import logging
from typing import Any

import numpy as np

from kd_perception.bags.drives import Drive, recorded_drive
from kd_perception.bags.motion import moving, thumbnail
from kd_perception.bags.sampling import at_rate, BadFrames, LabelError, Sampling
from kd_perception.bags.selection import Selection
from kd_perception.errors import BagError, ImageError
from kd_perception.frames import Frame, Progress

_log = logging.getLogger(__name__)


class FrameSequence(ABC):
    """
    Base of the sources: a sequence of the chosen frames.

    A source calls ``_choose`` when it is opened, and gives ``_frame``. Iteration skips frames that
    cannot be decoded and counts them in ``bad_frames``.
    """

    name: str = ''
    fingerprint: str = ''
    topic: str = ''
    bad_frames: int = 0
    chosen: str = ''
    _positions: np.ndarray = np.zeros(0, np.int64)
    _times_ns: np.ndarray = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Frame:
        return self._frame(self.position(index))

    def __iter__(self) -> Iterator[Frame]:
        self.bad_frames = 0
        bad = BadFrames(_log, self.name, len(self))
        for position in self._positions:
            try:
                frame = self._frame(int(position))
            except LabelError:
                raise
            except ImageError as error:
                bad.add(int(position), error)
                self.bad_frames = bad.count
                continue
            yield frame
        bad.sum_up()

    @property
    def frames(self) -> int:
        """Return how many frames the recording has, chosen or not."""
        return len(self._times_ns)

    def position(self, index: int) -> int:
        """
        Return the place in the recording of the chosen frame ``index``.

        :raises IndexError: when there are not so many.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f'frame {index} of {len(self)}')
        return int(self._positions[index])

    @property
    def times_ns(self) -> np.ndarray:
        """Return int64 ``[n]``: the times by which the chosen frames are ordered, ascending."""
        return self._times_ns[self._positions]

    @property
    def labelled(self) -> np.ndarray | None:
        """
        Return bool ``[n]``: which of the chosen frames have labels.

        None where only reading tells, or where keys are not by place in one recording.
        """
        return None

    @property
    def stamps_ns(self) -> np.ndarray:
        """
        Return int64 ``[n]``: the stamps of the chosen frames; -1 for one that cannot be read.

        Of a bag they are read from the headers at each call, and may be zero or repeat.
        """
        return self.times_ns

    def drives(self) -> Sequence[Drive]:
        """Return the drive of each chosen frame."""
        return [recorded_drive(self.name, self.fingerprint)] * len(self)

    def _choose(self, times_ns: np.ndarray, sampling: Sampling | None,
                progress: Progress | None = None) -> None:
        """
        Set the positions.

        :param times_ns: int64 ``[n]``, of all frames by position, in any order.
        :param sampling: all frames by default.
        :param progress: called with (done, total, note) while frames are looked at for motion.
        """
        sampling = sampling or Sampling()
        order = np.argsort(times_ns, kind='stable')
        if sampling.selection is not None:
            order = order[np.isin(order, self._selected(sampling.selection, len(times_ns)))]
        positions = order[at_rate(times_ns[order], sampling.rate_hz)]
        if sampling.motion:
            found = len(positions)
            seen = _told(self._thumbnails(positions), found, progress)
            positions = positions[moving(seen, sampling.motion)]
            _log.info('%s: %d of %d frames show motion', self.name, len(positions), found)
        self._times_ns = times_ns
        self._positions = sampling.by_number(positions)
        if sampling.motion or sampling.count or sampling.order != 'log' or sampling.selection:
            self.chosen = hashlib.sha256(self._positions.astype('<i8').tobytes()).hexdigest()[:16]

    def _selected(self, selection: Selection, frames: int) -> np.ndarray:
        """Return the places that a selection names here."""
        places = selection.of(self.fingerprint, self.topic, self.name)
        if len(places) and places[-1] >= frames:
            raise BagError(f'{selection.path}: selects frame {places[-1]} of {self.name}, which '
                           f'has {frames}')
        return places

    def thumbnails(self) -> Iterator[np.ndarray | None]:
        """Yield what motion is seen by of each chosen frame; None where one is damaged."""
        return self._thumbnails(self._positions)

    def _reopened(self, make: Callable[[], FrameSequence]) -> tuple[Any, ...]:
        """Return how another process opens this source, without choosing anew."""
        return make, (), {'_positions': self._positions, '_times_ns': self._times_ns,
                          'chosen': self.chosen}

    @abstractmethod
    def _frame(self, position: int) -> Frame:
        """
        Return the frame at a place of the recording.

        :raises ImageError: when it cannot be decoded.
        """

    def _thumbnails(self, positions: np.ndarray) -> Iterator[np.ndarray | None]:
        """Yield what motion is seen by; None for a frame that cannot be decoded."""
        for position in positions:
            try:
                yield thumbnail(self._frame(int(position)).image)
            except ImageError:
                yield None


def _told(thumbnails: Iterable[np.ndarray | None], total: int,
          progress: Progress | None) -> Iterator[np.ndarray | None]:
    """Yield thumbnails and tell how far they are."""
    for done, seen in enumerate(thumbnails, 1):
        if progress is not None:
            progress(done, total, 'looking for motion')
        yield seen
