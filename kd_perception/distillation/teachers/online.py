"""
A teacher in the loop: it looks at the very view that the student sees, light and all.

Exact, and the one way to losses on layers; it costs a forward pass of the teacher at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kd_perception.bundle import ModelBundle
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.teachers.network import TeacherNetwork
from kd_perception.distillation.teachers.stopwatch import Stopwatch
from kd_perception.distillation.teachers.teacher import finer, Lesson, shown


class OnlineTeacher:
    """
    The network of a bundle, asked about every batch.

    :param bundle: any segmentation bundle that gives logits.
    :param layers: names of the teacher's submodules that lessons carry as ``features``.
    :param frame: height and width that whole frames are brought to (``TeacherNetwork``).
    :param crop: height and width of views (``TeacherNetwork``).
    :param spread: over all devices, where one is too small (``TeacherNetwork``).
    :param watch: counts the seconds that it takes.
    :raises KdPerceptionError: as ``TeacherNetwork``.
    """

    def __init__(self, bundle: ModelBundle, *, device: torch.device | str = 'cpu',
                 precision: str = 'fp32', layers: Sequence[str] = (),
                 frame: tuple[int, int] | None = None,
                 crop: tuple[int, int] | None = None, spread: bool = False,
                 memory: Mapping[Any, Any] | None = None, watch: Stopwatch | None = None) -> None:
        self._watch = watch or Stopwatch(torch.device(device))
        self.network = TeacherNetwork(bundle, device=device, precision=precision, layers=layers,
                                      frame=frame, crop=crop, spread=spread, memory=memory)

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return what the teacher says of the views, on the finer grid of both."""
        with self._watch.running():
            logits, features = self.network.look(batch.images)
        logits = finer(logits, grid)
        return Lesson(logits, shown(batch, logits), features)

    def look_inside(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the layers alone: what lies behind the last of them is not computed."""
        with self._watch.running():
            return self.network.look_inside(batch.images)
