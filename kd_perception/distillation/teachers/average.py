"""
A student that is taught by the average of its own weights.

After Tarvainen and Valpola, "Mean teachers are better role models" (2017): the teacher is the
exponential moving average of the student (``optimization.ema_decay``, the network that is also
validated and shipped), and sees the same view before its light was changed. Ground truth must
teach beside it, or both would agree on anything. Let the loss begin late (``start``): in the
first steps the average knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.precision import autocast
from kd_perception.distillation.teachers.stopwatch import Stopwatch
from kd_perception.distillation.teachers.teacher import finer, Lesson, shown
from kd_perception.errors import TrainingError


class AverageTeacher:
    """
    The averaged network of a run that is about to begin; :meth:`follow` names it.

    :param precision: ``fp32``, ``bf16`` or ``fp16``: what it computes in.
    :param watch: counts the seconds that it takes.
    """

    def __init__(self, precision: str = 'fp32', watch: Stopwatch | None = None) -> None:
        self._precision = precision
        self._watch = watch or Stopwatch(torch.device('cpu'))
        self._network: nn.Module | None = None

    def follow(self, network: nn.Module,
               normalise: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """
        Teach what ``network`` says from now on, whatever its weights become.

        :param normalise: from uint8 ``[N, H, W, 3]`` to what it sees.
        """
        self._network, self._normalise = network, normalise

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return what the average says of the views in their own light."""
        if self._network is None or batch.calm is None:
            raise TrainingError('the averaged teacher has no network or no views to look at')
        with torch.no_grad(), autocast(self._precision, batch.calm.device), \
                self._watch.running():
            logits = self._network(self._normalise(batch.calm)).float()
        logits = finer(logits, grid)
        return Lesson(logits, shown(batch, logits))
