"""
Cached soft labels: of numbered views, or of whole frames warped into what the student sees.

Warping is an approximation: a teacher that looked at the view itself would say something slightly
different. Numbered views are exact up to the codec.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from kd_perception.classes import UNLABELLED
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.teachers.teacher import finer, inside, Lesson, shown, view_grid

# How far the teacher's decision is lifted above the blurred one's, in logits. Larger values say
# more than the teacher did: on a trained teacher the divergence is smallest near a quarter.
_LIFT = 0.25


class CachedTeacher:
    """
    The logits that come with a batch.

    :param frame_size: height and width that frames are brought to.
    :param which: of which of the batch's teachers.
    """

    def __init__(self, frame_size: tuple[int, int], which: int = 0) -> None:
        self._frame_size = frame_size
        self._which = which

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return the cached logits as the views show them, on the finer grid of both."""
        soft, winners = batch.cached(self._which)
        rows, columns = (
            min(crop, max(own, round(crop * cached / frame)))
            for crop, own, cached, frame in zip(batch.images.shape[1:3], grid, soft.shape[-2:],
                                                self._frame_size, strict=True))
        cells = view_grid(batch.theta, (rows, columns))
        logits, valid = warp_logits(soft, cells)
        if winners is not None:
            logits = settle(logits, warp_ids(winners, cells))
        return Lesson(logits, valid)


class ViewTeacher:
    """
    The logits that come with a batch of numbered views, which the teacher has seen.

    :param which: of which of the batch's teachers.
    """

    def __init__(self, which: int = 0) -> None:
        self._which = which

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return the cached logits on the finer grid of both."""
        soft, winners = batch.cached(self._which)
        logits = finer(soft, grid)
        size = (logits.shape[2], logits.shape[3])
        if winners is not None:
            ids = functional.interpolate(winners[:, None].float(), size=size, mode='nearest-exact')
            logits = settle(logits, ids[:, 0].long())
        return Lesson(logits, shown(batch, logits))


def settle(logits: torch.Tensor, winners: torch.Tensor) -> torch.Tensor:
    """
    Return logits that decide as the teacher did.

    Logits kept at a stride are blurred where one class ends and the next begins. The winner is
    lifted just above what the blurred ones decide for; elsewhere nothing changes.

    :param logits: float32 ``[N, K, h, w]``.
    :param winners: integers ``[N, h, w]``; 255 where nothing is known.
    """
    known = (winners != UNLABELLED)[:, None]
    index = torch.where(known, winners[:, None].long(), 0)
    top, own = logits.amax(1, keepdim=True), logits.gather(1, index)
    return logits.scatter(1, index, torch.where(known & (own < top), top + _LIFT, own))


def warp_ids(ids: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """
    Return ids of whole frames as views show them, int64 ``[N, h, w]``.

    :param ids: uint8 ``[N, H, W]``.
    :param grid: float32 ``[N, h, w, 2]`` (``view_grid``).
    """
    return functional.grid_sample(ids[:, None].float(), grid, mode='nearest',
                                  padding_mode='border', align_corners=False)[:, 0].long()


def warp_logits(logits: torch.Tensor,
                grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return logits of whole frames as views show them.

    :param logits: float32 ``[N, K, H, W]`` of whole frames.
    :param grid: float32 ``[N, h, w, 2]`` (``view_grid``).
    :returns: float32 ``[N, K, h, w]`` and bool ``[N, h, w]``, false beyond the frame and where
        the logits are NaN (nothing is known).
    """
    warped = functional.grid_sample(logits, grid, mode='bilinear', padding_mode='border',
                                    align_corners=False)
    unknown = warped[:, 0].isnan()
    return warped.nan_to_num(nan=0.0), inside(grid) & ~unknown
