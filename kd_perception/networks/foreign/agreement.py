"""
A foreign graph against the graphs made of it, on the same frame.

The foreign outputs are decoded here in numpy, apart from our nodes: what agrees was computed
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from kd_perception.bundle import DEPLOY, LOGITS
from kd_perception.errors import BundleError
from kd_perception.networks.foreign.compose import (
    PROBABILITIES,
    SMALLEST_PROBABILITY,
)
from kd_perception.networks.foreign.facts_output import OutputFacts

# Pixels surer than this are no matter of rounding.
_CLEAR = 0.02
# Values that are judged at a time, in double precision.
_BAND = 1 << 24
_LEAST_AGREEMENT = 0.999
_LARGEST_DIFFERENCE = 2e-3


@dataclass(frozen=True)
class Agreement:
    """
    How one runtime's run of our graphs compares.

    :param pixels: share of clear pixels (or frames) of the same class.
    :param clear: share of pixels that are clear, so that this means something.
    :param scores: largest difference of logits or probabilities over their spread; 0 of ids.
    """

    runtime: str
    pixels: float
    clear: float
    scores: float

    def __str__(self) -> str:
        told = f'{self.runtime}: same class on {self.pixels:.3%} of clear pixels'
        if self.clear < 0.5:
            told += f' (only {self.clear:.0%} are clear: show it a real frame with --image)'
        return told + (f', scores within {self.scores:.1e}' if self.scores else '')


def expected_logits(value: np.ndarray, out: OutputFacts) -> np.ndarray:
    """Return float64 ``[K, h, w]`` (or ``[K]``) of a foreign output of scores."""
    x = value[0].astype(np.float64)
    if out.task == 'classification':
        x = x.reshape(-1)
    elif x.ndim == 2:
        x = x[None]
    elif out.layout == 'nhwc':
        x = np.moveaxis(x, -1, 0)
    if out.values == 'logits':
        return np.concatenate([np.zeros_like(x), x]) if out.binary else x
    if out.binary:
        x = np.concatenate([1 - x, x])
    return np.log(np.maximum(x, SMALLEST_PROBABILITY))


def compared(runtime: str, value: np.ndarray, ours: Mapping[str, Mapping[str, np.ndarray]],
             out: OutputFacts, size: tuple[int, int], where: str) -> Agreement:
    """
    Compare, and refuse graphs that do not say what the foreign one says.

    :param value: the foreign output.
    :param ours: outputs by file name and by name.
    :raises BundleError: where they differ.
    """
    if out.values == 'ids':
        truth = _ids(value, out, size)
        same = float((truth == ours[DEPLOY]['mask'][0]).mean())
        found = Agreement(runtime, same, 1.0, 0.0)
        clear = np.ones(size, bool)
    else:
        logits = expected_logits(value, out)
        got = np.asarray(ours[LOGITS]['logits'][0], np.float64)
        if got.shape != logits.shape:
            raise BundleError(f'{where}: logits of {list(logits.shape)} came out as '
                              f'{list(got.shape)}')
        # The logarithm of almost nothing is no measure of agreement: probabilities are compared.
        wanted, given = ((np.exp(logits), np.exp(got)) if out.values == 'probabilities'
                          else (logits, got))
        spread = max(float(np.ptp(wanted)), 1e-6)
        difference = float(np.abs(given - wanted).max()) / spread
        if out.task == 'classification':
            truth, clear = _judged(logits)
        else:
            # In bands: a large picture of many classes at once takes all memory.
            parts = [_judged(_upsampled(logits, size, rows)) for rows in np.array_split(
                np.arange(size[0]), -(-len(logits) * size[0] * size[1] // _BAND))]
            truth, clear = (np.concatenate(p) for p in zip(*parts, strict=True))
        answer = (ours[DEPLOY][PROBABILITIES][0].argmax() if out.task == 'classification'
                  else ours[DEPLOY]['mask'][0])
        same = float((answer == truth)[clear].mean()) if clear.any() else 1.0
        found = Agreement(runtime, same, float(clear.mean()), difference)
    limit = 10 * _LARGEST_DIFFERENCE if value.dtype == np.float16 else _LARGEST_DIFFERENCE
    if found.pixels < _LEAST_AGREEMENT or found.scores > limit:
        raise BundleError(f'{where}: our graph does not say what the foreign one says: {found}')
    return found


def _ids(value: np.ndarray, out: OutputFacts, size: tuple[int, int]) -> np.ndarray:
    ids = value.reshape(out.grid).astype(np.int64)
    ids = np.where((ids >= 0) & (ids < len(out.classes)), ids, 255).astype(np.uint8)
    if out.grid == size:
        return ids
    return cv2.resize(ids, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _judged(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best class of logits ``[K, ...]``, and where it is clear."""
    share = _softmax(logits)
    second = np.partition(share, -2, 0)[-2] if len(share) > 1 else 0 * share[0]
    return share.argmax(0), share.max(0) - second > _CLEAR


def _upsampled(logits: np.ndarray, size: tuple[int, int], rows: np.ndarray) -> np.ndarray:
    """Return some rows of logits ``[K, h, w]`` at a size; bilinear, centres at halves."""
    for axis, source, target, wanted in ((1, logits.shape[1], size[0], rows),
                                         (2, logits.shape[2], size[1], np.arange(size[1]))):
        if source == target:
            logits = logits[:, wanted] if axis == 1 else logits
            continue
        at = np.clip((wanted + 0.5) * source / target - 0.5, 0, source - 1)
        low = np.floor(at).astype(np.int64)
        share = (at - low)[:, None] if axis == 1 else at - low
        logits = (np.take(logits, low, axis) * (1 - share)
                  + np.take(logits, np.minimum(low + 1, source - 1), axis) * share)
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    share = np.exp(logits - logits.max(0, keepdims=True))
    return share / share.sum(0, keepdims=True)
