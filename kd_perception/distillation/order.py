"""
Which frame each sample of a run shows: a function of its number and of the seed alone.

So a run that is resumed, or that is divided among other processes, sees the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from kd_perception.errors import TrainingError

_WHOLE = 1_000_000


class FrameOrder:
    """
    An endless sequence of places of frames, by sample number.

    :param labelled: for each frame whether it has labels, or, without a share, how many there are.
    :param share: of labelled frames, which are drawn from a pile of their own; 0: one pile. Each
        pile is gone through before a frame of it comes again.
    :raises TrainingError: when a share is asked for of frames of which there are none.
    """

    def __init__(self, labelled: Sequence[bool] | int, seed: int, share: float = 0.0) -> None:
        self._seed = seed
        # Whole numbers: sample n is labelled where the multiples of the share pass an integer.
        self._millionths = round(share * _WHOLE)
        if isinstance(labelled, int):
            self._piles: tuple[np.ndarray, ...] = (np.arange(labelled),)
            return
        require_share(share, labelled)
        has = np.array(labelled, bool)
        self._piles = (np.flatnonzero(~has), np.flatnonzero(has))

    def draw(self, number: int) -> tuple[int, int]:
        """Return the place of the frame of sample ``number``, and how often it came before."""
        labelled = number * self._millionths // _WHOLE
        if (number + 1) * self._millionths // _WHOLE > labelled:
            return self._drawn(1, labelled)
        return self._drawn(0, number - labelled)

    def _drawn(self, pile: int, number: int) -> tuple[int, int]:
        frames = self._piles[pile]
        epoch, place = divmod(number, len(frames))
        order = _permutation(self._seed, (0, 2)[pile], epoch, len(frames))
        return int(frames[order[place]]), epoch


@lru_cache(maxsize=4)  # this epoch and the next one of two piles; of millions it takes a second
def _permutation(seed: int, pile: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, pile, epoch)).permutation(length)


def require_share(share: float, labelled: Sequence[bool]) -> None:
    """
    Refuse a share of frames of which there are none.

    :param share: ``data.labelled_share``; 0 for frames as they come.
    :param labelled: whether each frame, or the frames of each recording, have labels.
    :raises TrainingError: which says what there is none of.
    """
    for wanted, there, kind in ((0 < share < 1, not all(labelled), 'without'),
                                (share > 0, any(labelled), 'with')):
        if wanted and not there:
            raise TrainingError(f'data.labelled_share {share:g}: there are no frames {kind} '
                                'labels; set it to 0')
