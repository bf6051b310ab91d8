"""What every teacher is: something that says, for a batch, what the student should have said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from kd_perception.classes import UNLABELLED
from kd_perception.distillation.dataset import Batch
from kd_perception.networks.upsample import upsample


@dataclass(frozen=True)
class Lesson:
    """
    What a teacher says of a batch of views.

    :param logits: float32 ``[N, K, h, w]`` in the student's classes; finite everywhere.
    :param valid: bool ``[N, h, w]``, false where nothing is known.
    :param features: layers of the teacher by name, where it was asked for some.
    """

    logits: torch.Tensor
    valid: torch.Tensor
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def decision(self) -> np.ndarray:
        """Return uint8 ``[N, h, w]``: the likeliest class, 255 where nothing is known."""
        ids = self.logits.argmax(1).masked_fill(~self.valid, UNLABELLED)
        return ids.to(torch.uint8).cpu().numpy()


class Teacher(Protocol):
    """Gives a lesson; one of the modules beside this one."""

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """
        Return the lesson of a batch, on its device.

        :param grid: rows and columns of the student's logits; the lesson's may be finer.
        """
        ...


class Guide(Protocol):
    """Shows layers of a teacher's network; ``OnlineTeacher`` does."""

    def look_inside(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return what the teacher's layers say of the views, float ``[N, C, h, w]`` by name."""
        ...


def finer(logits: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return ``logits`` (``[N, K, h, w]``) on the finer of their own grid and ``grid``."""
    rows, columns = logits.shape[-2:]
    return upsample(logits, (max(rows, grid[0]), max(columns, grid[1])))


def view_grid(theta: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Return where in the frame the cells of views lie, float32 ``[N, *size, 2]``; its border is 1.

    :param theta: float32 ``[N, 2, 3]`` (``View.theta``).
    """
    return functional.affine_grid(theta, [len(theta), 1, *size], align_corners=False)


def inside(grid: torch.Tensor) -> torch.Tensor:
    """Return where views show the frame, bool ``[N, h, w]`` of a ``view_grid``."""
    return (grid.abs() <= 1).all(-1)


def shown(batch: Batch, logits: torch.Tensor) -> torch.Tensor:
    """Return where a batch's views show the frame, bool ``[N, h, w]`` like ``logits``."""
    return inside(view_grid(batch.theta, (logits.shape[2], logits.shape[3])))
