"""
Cached soft labels of whole frames, warped into the view that the student sees.

An approximation: a teacher that looked at the view itself would say something slightly different.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.teachers.teacher import Lesson


class CachedTeacher:
    """
    The logits that come with a batch.

    :param frame_size: height and width that frames are brought to.
    """

    def __init__(self, frame_size: tuple[int, int]) -> None:
        self._frame_size = frame_size

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return the cached logits as the views show them, on the finer grid of both."""
        assert batch.soft is not None
        rows, columns = (
            min(crop, max(own, round(crop * cached / frame)))
            for crop, own, cached, frame in zip(batch.images.shape[1:3], grid,
                                                batch.soft.shape[-2:], self._frame_size,
                                                strict=True))
        return Lesson(*warp_logits(batch.soft, batch.theta, (rows, columns)))


def warp_logits(logits: torch.Tensor, theta: torch.Tensor,
                size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return logits of whole frames as a view shows them.

    :param logits: float32 ``[N, K, h, w]`` of whole frames.
    :param theta: float32 ``[N, 2, 3]`` (``View.theta``).
    :param size: rows and columns that come out.
    :returns: float32 ``[N, K, *size]`` and bool ``[N, *size]``, false beyond the frame and
        where the logits are NaN (nothing is known).
    """
    count, classes = logits.shape[:2]
    grid = functional.affine_grid(theta, [count, classes, *size], align_corners=False)
    warped = functional.grid_sample(logits, grid, mode='bilinear', padding_mode='border',
                                    align_corners=False)
    valid = (grid.abs() <= 1).all(-1)
    unknown = warped[:, 0].isnan()
    return warped.nan_to_num(nan=0.0), valid & ~unknown
