"""
Which frames of a drive are worth keeping: the highest scores, few of them, no two alike.

Comes in: the scores of frames. Goes out: which to keep and what for. ``Miner`` decides while the
frames come, ``choose`` when all are known; both rank each score among the others, so that no score
needs a threshold of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kd_perception.bags.motion import DRIVING
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.disagreement import FrameScores

# What a frame may be kept for, and the score behind it.
CRITERIA = {'disagreement': 'balanced', 'confidence': 'low_confidence', 'novelty': 'novelty'}
# Fewer scores do not tell what is high.
_FEWEST = 20
_WINDOW = 1000
# Kept pictures that a new one is compared with: some minutes of keeping.
_REMEMBERED = 200


@dataclass(frozen=True)
class MiningOptions:
    """
    How much is kept, and of what.

    :param share: of the compared frames that may be chosen, and of all frames that may be
        written, context included.
    :param context: frames before and after a chosen one that are written with it.
    :param criteria: of ``CRITERIA``.
    :param near_percent: a frame that differs by less from a kept one (``bags/motion.py``) is not
        chosen; 0 lets all through.
    """

    share: float = 0.1
    context: int = 2
    criteria: tuple[str, ...] = tuple(CRITERIA)
    near_percent: float = DRIVING

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f'share {self.share:g}: must be above 0 and at most 1')
        if self.context < 0 or not self.near_percent >= 0:
            raise ConfigError('context and near_percent must be numbers that are not negative')
        unknown = [c for c in self.criteria if c not in CRITERIA]
        if unknown or not self.criteria:
            raise ConfigError(f'frames can be kept for {", ".join(CRITERIA)}, not for '
                              f'{", ".join(unknown) or "nothing"}')


@dataclass(frozen=True)
class Choice:
    """
    What became of a frame.

    :param kept: whether it is worth keeping.
    :param reasons: the criteria by which it is high, the highest first; empty where none is.
    :param rank: share of the frames that lie below it, by its highest score.
    :param threshold: what the rank had to exceed; NaN before anything can be told.
    :param refused: why a frame of high rank is not kept; empty for any other.
    """

    kept: bool
    reasons: tuple[str, ...] = ()
    rank: float = float('nan')
    threshold: float = float('nan')
    refused: str = ''

    def values(self) -> dict[str, str | float]:
        """Return why the frame is kept, as key-value pairs."""
        return {'reason': ', '.join(self.reasons), 'rank': self.rank,
                'threshold': self.threshold}


class Room:
    """
    What the chosen frames may take up on a disk.

    :param max_bytes: of all together; 0: no limit.
    :param size: returns how many bytes a frame takes up at most, by its place.
    """

    def __init__(self, max_bytes: int, size: Callable[[int], int]) -> None:
        self._free, self._limited = max_bytes, bool(max_bytes)
        self._size = lru_cache(None)(size)
        self.refused = 0

    def take(self, places: Collection[int]) -> bool:
        """Return whether there is room for a chosen frame and its context, which is then taken."""
        if not self._limited:
            return True
        needed = sum(map(self._size, places))
        fits = needed <= self._free
        self._free -= needed if fits else 0
        self.refused += not fits
        return fits


class Miner:
    """
    Decides frame by frame; for a stream that has no end.

    The threshold is a quantile of the last thousand frames, so it follows the drive; the share
    holds from the first frame on: what was not used is left for later.
    """

    def __init__(self, options: MiningOptions) -> None:
        self._options = options
        self._window: deque[np.ndarray] = deque(maxlen=_WINDOW)
        self._kept: deque[np.ndarray] = deque(maxlen=_REMEMBERED)
        self.compared = self.chosen = 0

    def offer(self, scores: FrameScores, small: np.ndarray, *, received: int, written: int,
              cost: int, gone: bool = False) -> Choice:
        """
        Decide on the next frame.

        :param small: ``thumbnail`` of the picture.
        :param received: frames of the camera so far.
        :param written: of these, frames that are written or promised.
        :param cost: frames that keeping this one would add to them.
        :param gone: whether it is written already, as the context of another one.
        """
        self.compared += 1
        self._window.append(vector(scores, self._options.criteria))
        if len(self._window) < _FEWEST:
            return Choice(False)
        ranks = ranked(np.array(self._window))
        own, threshold = ranks[-1], limit(ranks, self._options.share)
        rank = float(np.fmax.reduce(own))
        high = self._reasons(own, threshold)
        if not high:
            return Choice(False, (), rank, threshold)
        refused = ''
        if gone:
            refused = 'in the context of a kept frame'
        elif self.chosen + 1 > self._options.share * self.compared:
            refused = 'share of compared frames'
        elif written + cost > self._options.share * received:
            refused = 'share of all frames'
        elif is_near(small, self._kept, self._options.near_percent):
            refused = 'like a kept frame'
        if not refused:
            self.chosen += 1
            self._kept.append(small)
        return Choice(not refused, high, rank, threshold, refused)

    def _reasons(self, ranks: np.ndarray, threshold: float) -> tuple[str, ...]:
        return reasons(ranks, threshold, self._options.criteria)


def choose(scores: Sequence[FrameScores | None], options: MiningOptions,
           small: Callable[[int], np.ndarray | None],
           ends: Sequence[int] = (), room: Room | None = None) -> dict[int, Choice]:
    """
    Choose among all frames of recordings at once: the highest ranks first.

    :param scores: of each frame in order; None for one that could not be compared.
    :param small: returns the thumbnail of a frame; None where it cannot be read.
    :param ends: places behind the last frame of each recording; context does not cross them.
    :param room: asked for every frame that is chosen, with what of its context is not yet to be
        written; where there is none, the frame is left out. What is returned is part of what is
        chosen without it.
    :returns: the chosen frames by place, ascending.
    """
    known = [i for i, s in enumerate(scores) if s is not None]
    if not known:
        return {}
    ranks = ranked(np.array([vector(s, options.criteria) for s in scores if s is not None]))
    threshold = limit(ranks, options.share)
    tops = np.fmax.reduce(ranks, axis=1)  # NaN only where all are
    planned: set[int] = set()  # to be written, were there room for all
    written: set[int] = set()
    kept: list[np.ndarray] = []
    chosen: dict[int, Choice] = {}
    for row in np.argsort(-tops, kind='stable'):
        place, why = known[row], reasons(ranks[row], threshold, options.criteria)
        if not why or len(kept) + 1 > options.share * len(known):
            break
        near = set(surroundings(place, options.context, len(scores), ends))
        if len(planned | near) > options.share * len(scores):
            continue  # another one may share its context with those that are kept
        picture = small(place)
        if picture is None or is_near(picture, kept, options.near_percent):
            continue
        kept.append(picture)
        planned |= near
        if room is not None and not room.take(near - written):
            continue  # one with a smaller picture, or less new context, may fit
        written |= near
        chosen[place] = Choice(True, why, float(tops[row]), threshold)
    return dict(sorted(chosen.items()))


def require_room(options: MiningOptions, ends: Sequence[int]) -> None:
    """
    Refuse what cannot choose a single frame, before any is looked at.

    :param ends: as for ``choose``, of all recordings.
    :raises ConfigError: when the share of all frames is less than one with its context.
    """
    total = ends[-1]
    lengths = np.diff([0, *ends])
    least = min(1 + options.context, int(lengths[lengths > 0].min(initial=total)))
    if options.share * total < max(1, least):
        raise ConfigError(
            f'a share of {options.share:g} of {total} frames is {options.share * total:.3g}, less '
            f'than one frame with its context of {options.context}; raise --share, lower '
            '--context, or mine more recordings at once')


def surroundings(place: int, context: int, total: int, ends: Sequence[int] = ()) -> range:
    """Return the places from ``context`` before to ``context`` after, within one recording."""
    first = max((e for e in ends if e <= place), default=0)
    last = min((e for e in ends if e > place), default=total)
    return range(max(first, place - context), min(last, place + context + 1))


def vector(scores: FrameScores, criteria: Sequence[str]) -> np.ndarray:
    """Return float64 ``[len(criteria)]``, NaN where a score is not known."""
    return np.array([getattr(scores, CRITERIA[c]) for c in criteria], np.float64)


def ranked(values: np.ndarray) -> np.ndarray:
    """
    Return the share of the rows that lie below each value, of equal ones the half.

    :param values: float64 ``[n, d]``; NaN stays NaN.
    """
    out = np.full(values.shape, np.nan)
    for column, ranks in zip(values.T, out.T, strict=True):
        there = ~np.isnan(column)
        ordered = np.sort(column[there])
        if ordered.size:
            below = np.searchsorted(ordered, column[there], 'left')
            upto = np.searchsorted(ordered, column[there], 'right')
            ranks[there] = (below + upto) / 2 / ordered.size
    return out


def limit(ranks: np.ndarray, share: float) -> float:
    """Return what the highest rank must exceed, so that about ``share`` of the frames do."""
    tops = np.fmax.reduce(ranks, axis=1)
    tops = tops[~np.isnan(tops)]
    return float(np.quantile(tops, 1 - share)) if tops.size else float('nan')


def reasons(ranks: np.ndarray, threshold: float, criteria: Sequence[str]) -> tuple[str, ...]:
    """Return the criteria whose rank exceeds the threshold, the highest first."""
    # Strictly: where all frames are alike, none is high.
    order = np.argsort(-np.nan_to_num(ranks), kind='stable')
    return tuple(criteria[i] for i in order if ranks[i] > threshold)


def is_near(small: np.ndarray, kept: Sequence[np.ndarray] | deque[np.ndarray],
            percent: float) -> bool:
    """Return whether a thumbnail differs by less than ``percent`` from one of the kept."""
    same = [k for k in kept if k.shape == small.shape] if percent else []
    if not same:
        return False
    # What ``bags.motion.change`` gives, of all at once.
    return bool((100 * np.abs(np.stack(same) - small).mean((1, 2))).min() < percent)
