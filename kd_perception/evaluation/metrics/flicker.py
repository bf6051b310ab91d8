"""
Temporal flicker: pixels whose predicted class changes although what they show does not.

Two consecutive frames are brought together, and pixels are compared whose ground truth is the
same thing in both: a mask that is right everywhere never flickers, and one that is wrong but
steady does not either. Three ways of bringing them together, of falling worth:

- ``reprojected``: depth and camera pose of both frames say where the surface of a pixel was
  before; what was hidden then and what may move by itself (people, vehicles) is left out. Exact.
- ``optical flow``: estimated from the pictures (DIS, Kroeger et al., ECCV 2016) for a recording
  without depth.
- ``same pixel``: nothing is compensated; only where the truth of a pixel stays the same.

Figures of different ways must not be compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.bootstrap import (
    block_length,
    bootstrap,
    CONFIDENCE,
    Interval,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.shares import (
    drawn_sums,
    measured_pairs,
    PairedShare,
)
from kd_perception.frames import CameraPlace

REPROJECTED, FLOW, SAME_PIXEL = 'reprojected', 'optical flow', 'same pixel'
METHODS = (REPROJECTED, FLOW, SAME_PIXEL)
STRIDE = 2        # every second pixel of every second row
_FAR_M = 1e5      # where the sky is put: it turns with the camera, but has no parallax
_NEAR_M = 0.05
# The surface found in the frame before may be off by half a pixel, which on a road far away is
# metres; things that hide it stand farther off than that, or are another class.
_DEPTH_TOLERANCE = 0.05
_MOVABLE = ('pedestrian', 'pedestrians', 'person', 'human', 'rider', 'bicyclist', 'vehicle', 'car',
            'truck', 'bus', 'train', 'motorcycle', 'bicycle', 'dynamic')


@dataclass(frozen=True, eq=False)
class View:
    """
    What is known of one frame's geometry.

    :param depth: float32 ``[H, W]`` metres along the optical axis, infinite for the sky.
    :param lens: fx, fy, cx, cy in pixels; pixel (0, 0) has its middle at (0.5, 0.5).
    """

    depth: np.ndarray
    place: CameraPlace
    lens: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Matches:
    """
    Pixels of two frames that show the same.

    :param now: int64 ``[M]``, positions in the flattened frame; ``before``: in the one before.
    """

    method: str
    now: np.ndarray
    before: np.ndarray


@dataclass(frozen=True)
class Flicker:
    """
    Flicker of one arm.

    :param method: one of ``METHODS``.
    :param n: pairs of consecutive frames.
    :param share: pixels that changed among those compared, 0 … 1.
    :param compared: mean number of pixels compared in a pair, of every second one of every second
        row.
    """

    arm: str
    method: str
    n: int
    share: Interval
    compared: float

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one row: method, n, share, share_low, share_high, compared."""
        return [{'method': self.method, 'n': self.n, 'share': self.share.estimate,
                 'share_low': self.share.low, 'share_high': self.share.high,
                 'compared': self.compared}]


def reproject(now: View, before: View, stride: int = STRIDE) -> Matches:
    """Return which pixels of ``before`` show the surfaces of ``now``, as if nothing moved."""
    height, width = now.depth.shape
    rows = np.arange(stride // 2, height, stride)
    columns = np.arange(stride // 2, width, stride)
    depth = _finite(now.depth[rows[0]::stride, columns[0]::stride])
    fx, fy, cx, cy = now.lens
    right = ((columns + 0.5 - cx) / fx).astype(np.float32)[None]
    down = ((rows + 0.5 - cy) / fy).astype(np.float32)[:, None]
    # One matrix for the ray and one vector for the parallax.
    to_before = before.place.rotation
    turn = (to_before @ now.place.rotation.T).astype(np.float32)
    shift = (to_before @ (now.place.eye - before.place.eye)).astype(np.float32)
    x, y, ahead = ((t[0] * right + (t[1] * down + t[2])) * depth + s
                   for t, s in zip(turn, shift))
    front = ahead > _NEAR_M
    safe = np.where(front, ahead, np.float32(1))
    gx, gy, hx, hy = before.lens
    tall, wide = before.depth.shape
    x, y = x / safe * np.float32(gx) + np.float32(hx), y / safe * np.float32(gy) + np.float32(hy)
    inside = front & (x >= 0) & (x < wide) & (y >= 0) & (y < tall)
    at = y[inside].astype(np.int64) * wide + x[inside].astype(np.int64)
    ahead = ahead[inside]
    same = np.abs(_finite(before.depth.ravel()[at]) - ahead) <= _DEPTH_TOLERANCE * ahead
    flat = (rows[:, None] * width + columns)[inside]
    return Matches(REPROJECTED, flat[same], at[same])


def _finite(depth: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(depth), depth, np.float32(_FAR_M)).astype(np.float32, copy=False)


def follow(now: np.ndarray, before: np.ndarray, stride: int = STRIDE) -> Matches:
    """
    Return matches by optical flow.

    :param now: uint8 ``[H, W, 3]`` RGB; ``before``: the picture before it.
    """
    gray, gray_before = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (now, before))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    found = flow.calc(gray, gray_before, None)  # type: ignore[call-overload]
    height, width = gray.shape
    rows, columns = np.mgrid[stride // 2:height:stride, stride // 2:width:stride]
    rows, columns = rows.ravel(), columns.ravel()
    x = np.rint(columns + found[rows, columns, 0]).astype(np.int64)
    y = np.rint(rows + found[rows, columns, 1]).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Matches(FLOW, (rows * width + columns)[inside], (y * width + x)[inside])


def stay(shape: tuple[int, int], stride: int = STRIDE) -> Matches:
    """Return every looked at pixel matched with itself."""
    rows, columns = np.mgrid[stride // 2:shape[0]:stride, stride // 2:shape[1]:stride]
    flat = (rows * shape[1] + columns).ravel()
    return Matches(SAME_PIXEL, flat, flat)


def movable(names: Sequence[str]) -> np.ndarray:
    """Return bool ``[256]``: ids of classes that may move by themselves."""
    table = np.zeros(256, bool)
    for ident, name in enumerate(names[:256]):
        table[ident] = name.lower().replace(' ', '_') in _MOVABLE
    return table


def steady(matches: Matches, truth: np.ndarray, before: np.ndarray,
           moving: np.ndarray | None = None) -> Matches:
    """
    Keep the matches whose ground truth is one class in both frames.

    :param truth: uint8 ``[H, W]``, 255 for pixels that do not count; ``before``: of the frame
        before.
    :param moving: bool ``[256]``, classes to leave out, in the ids of ``truth``.
    """
    now = truth.ravel()[matches.now]
    kept = (now == before.ravel()[matches.before]) & (now != UNLABELLED)
    if moving is not None:
        kept &= ~moving[now]
    return Matches(matches.method, matches.now[kept], matches.before[kept])


def count_flicker(matches: Matches, mask: np.ndarray, before: np.ndarray) -> np.ndarray:
    """
    Return int32 ``[2]``: matched pixels whose predicted class changed, and matched pixels.

    :param mask: uint8 ``[H, W]``; ``before``: of the frame before.
    """
    changed = mask.ravel()[matches.now] != before.ravel()[matches.before]
    return np.array([np.count_nonzero(changed), changed.size], np.int32)


def flicker_share(arm: str, method: str, counts: Sequence[np.ndarray], *,
                  resamples: int = RESAMPLES, seed: int = 0) -> Flicker | None:
    """
    Return the flicker over pairs of frames, or None when no pixel could be compared.

    :param counts: in time order, ``[2]`` of ``count_flicker``.
    """
    by_pair = np.array([c for c in counts if c[1] > 0], float).reshape(-1, 2)
    if not len(by_pair):
        return None
    series = by_pair[:, 0] / by_pair[:, 1]
    found = bootstrap(lambda i: _ratio(by_pair, i), len(by_pair), block_length(series),
                      resamples=resamples, seed=seed, bounds=(0.0, 1.0))
    return Flicker(arm, method, len(by_pair), found, float(by_pair[:, 1].mean()))


def paired_flicker(rows: Iterable[FrameRow], reference: str, other: str, *,
                   resamples: int = RESAMPLES, seed: int = 0,
                   confidence: float = CONFIDENCE) -> PairedShare | None:
    """Return the difference of two arms; positive: the other flickers more."""
    pairs = measured_pairs(rows, reference, other, 'flicker')
    first, second = (np.array([p[k] for p in pairs], float).reshape(-1, 2) for k in (0, 1))
    if not (first[:, 1].any() and second[:, 1].any()):
        return None
    series = [c[:, 0] / np.maximum(c[:, 1], 1) for c in (first, second)]
    return PairedShare(reference, other, len(pairs), bootstrap(
        lambda i: _ratio(second, i) - _ratio(first, i), len(pairs),
        block_length(series[1] - series[0]), resamples=resamples, seed=seed,
        confidence=confidence, bounds=(-1.0, 1.0)))


def _ratio(counts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    total = drawn_sums(counts, indices)
    return total[:, 0] / np.maximum(total[:, 1], 1)
