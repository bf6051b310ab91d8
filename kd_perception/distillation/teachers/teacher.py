"""What every teacher is: something that says, for a batch, what the student should have said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from kd_perception.distillation.dataset import Batch


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


class Teacher(Protocol):
    """Gives a lesson; one of the modules beside this one."""

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """
        Return the lesson of a batch, on its device.

        :param grid: rows and columns of the student's logits; the lesson's may be finer.
        """
        ...
