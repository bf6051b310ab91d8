"""
Which of many frames to take: numbers per frame go in, places come out, ascending.

Everything here is deterministic; ties go to the earlier frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from kd_perception.bags.motion import change
from kd_perception.frames import evenly

# What noise alone makes of two pictures, in percent (bags/motion.py): no motion.
_NOISE = 2.1
_POOLED = (4, 6)


def travelled(thumbnails: Iterable[np.ndarray | None]) -> np.ndarray:
    """
    Return float64 ``[n]``: how far the picture has changed up to each frame of a recording.

    Changes below what noise makes do not count, so that a standing car goes nowhere.

    :param thumbnails: of ``bags.motion.thumbnail``; None for a frame that cannot be decoded.
    """
    way: list[float] = []
    last: np.ndarray | None = None
    for current in thumbnails:
        step = 0.0
        if current is not None:
            if last is not None:
                step = change(last, current)
                if step < _NOISE:
                    # The last frame stays: slow driving adds up to a change, noise does not.
                    current, step = last, 0.0
            last = current
        way.append((way[-1] if way else 0.0) + step)
    return np.array(way)


def at_equal_steps(way: np.ndarray, count: int) -> np.ndarray:
    """
    Return the first frame at or behind each of ``count`` equal steps of a way.

    Where several steps end at one frame, the frames that follow those taken fill up.

    :param way: float64 ``[n]``, not falling.
    """
    wanted = np.linspace(way[0], way[-1], count)
    places = np.minimum(np.searchsorted(way, wanted - 1e-9), len(way) - 1)
    taken = np.zeros(len(way), bool)
    taken[places] = True
    missing = count - int(taken.sum())
    if missing > 0:
        free = np.flatnonzero(~taken)
        taken[free[evenly(len(free), missing)]] = True
    return np.flatnonzero(taken)


def highest(scores: np.ndarray, count: int, *, times_ns: np.ndarray | None = None,
            recordings: np.ndarray | None = None, apart_s: float = 0.0) -> np.ndarray:
    """
    Return the places of the highest scores.

    :param scores: float ``[n]``; NaN is never taken.
    :param times_ns: int64 ``[n]``, and
    :param recordings: int ``[n]``, the recording of each, for ``apart_s``.
    :param apart_s: frames of one recording that are nearer than this to a higher one are taken
        only when nothing else is left.
    """
    order = np.argsort(-scores, kind='stable')
    order = order[~np.isnan(scores[order])]
    if apart_s > 0 and times_ns is not None and recordings is not None:
        first: list[int] = []
        later: list[int] = []
        for place in order:
            # Frames before this one in the list score higher; few are taken, so this is short.
            near = np.array(first, np.int64)
            near = near[recordings[near] == recordings[place]]
            if len(near) and np.abs(times_ns[near] - times_ns[place]).min() < apart_s * 1e9:
                later.append(int(place))
            else:
                first.append(int(place))
            if len(first) == count:
                break
        order = np.array([*first, *later], np.int64)
    return np.sort(order[:count])


def k_center(features: np.ndarray, count: int, seed: int, *,
             progress: Callable[[int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Return places and distances of a greedy k-center choice.

    Each next centre is the frame farthest from its nearest centre, so that no frame lies far from
    a chosen one: within twice the best radius there is (Sener and Savarese, "Active Learning for
    Convolutional Neural Networks: A Core-Set Approach", ICLR 2018). The first one is drawn.

    :param features: float32 ``[n, d]``; rows with NaN are never taken.
    :param progress: called with the number of centres.
    :returns: int64 ``[count]``, ascending, and float32 ``[count]``: how far each was from the
        nearest centre before it (of the first one 0).
    """
    usable = np.flatnonzero(~np.isnan(features).any(1))
    points = features[usable].astype(np.float32)
    centre = int(np.random.default_rng(seed).integers(len(points)))
    chosen, reached = [centre], [0.0]
    nearest = np.full(len(points), np.inf, np.float32)
    while len(chosen) < min(count, len(points)):
        squared = np.square(points - points[centre]).sum(1)
        nearest = np.minimum(nearest, squared)
        nearest[centre] = -1  # of equal frames none is taken twice
        centre = int(nearest.argmax())
        chosen.append(centre)
        reached.append(float(np.sqrt(max(nearest[centre], 0))))
        if progress is not None:
            progress(len(chosen))
    order = np.argsort(chosen)
    return usable[np.array(chosen)[order]], np.array(reached, np.float32)[order]


def mean_entropy(logits: np.ndarray) -> float:
    """
    Return the mean entropy of the distributions, in nats.

    :param logits: float32 ``[K, h, w]``, NaN where nothing is known.
    """
    p = _known(logits)
    return _mean(-(p * np.log(np.maximum(p, 1e-12))).sum(0))


def mean_doubt(logits: np.ndarray) -> float:
    """Return 1 minus the mean margin between the two likeliest classes; see ``mean_entropy``."""
    p = np.sort(_known(logits), 0)
    return 1 - _mean(p[-1] - p[-2])


def disagreement(teacher: np.ndarray, student: np.ndarray) -> float:
    """
    Return the share of cells whose likeliest classes differ.

    :param teacher: float32 ``[K, h, w]``, NaN where nothing is known.
    :param student: the same on another grid; it is brought to the teacher's.
    """
    known = ~np.isnan(teacher[0])
    other = resized(student, (teacher.shape[1], teacher.shape[2]))
    return _mean((teacher.argmax(0) != other.argmax(0))[known])


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Return the mean KL(teacher ‖ student), in nats; see ``disagreement``."""
    known = ~np.isnan(teacher[0])
    other = resized(student, (teacher.shape[1], teacher.shape[2]))
    p, q = _softmax(teacher[:, known]), _softmax(other[:, known])
    return _mean((p * (np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(q, 1e-12)))).sum(0))


def pooled(logits: np.ndarray) -> np.ndarray:
    """Return float32 ``[K * 24]``: mean probabilities of a grid of 4 x 6 cells of the frame."""
    return resized(np.nan_to_num(_softmax(logits)), _POOLED, cv2.INTER_AREA).ravel()


def resized(planes: np.ndarray, size: tuple[int, int],
            how: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Return float32 ``[K, *size]`` of ``[K, h, w]``."""
    if planes.shape[1:] == size:
        return planes
    return np.stack([cv2.resize(np.ascontiguousarray(p, np.float32), (size[1], size[0]),
                                interpolation=how) for p in planes])


def _known(logits: np.ndarray) -> np.ndarray:
    """Return float64 ``[K, n]``: distributions where something is known."""
    return _softmax(logits[:, ~np.isnan(logits[0])])


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities over the first axis."""
    raised = np.exp(logits.astype(np.float64) - logits.max(0))
    return raised / raised.sum(0)


def _mean(values: np.ndarray) -> float:
    """Return the mean; NaN of nothing."""
    return float(values.mean()) if values.size else float('nan')
