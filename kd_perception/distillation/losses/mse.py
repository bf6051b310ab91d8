"""
Mean squared error between the outputs of student and teacher, per pixel.

    L = 1 / sum_i w_i  sum_i w_i 1/K sum_k (f(s)_ik - f(t)_ik)^2

after Ba and Caruana, "Do Deep Nets Really Need to be Deep?" (2014), who compare logits: unlike
probabilities these do not hide what the teacher thinks of unlikely classes. Here ``f`` takes the
mean over the classes of a pixel out of both, which softmax cannot see and soft labels do not
keep; or it is the softmax. Divided by the number of classes K, so that a weight means the same
for any class set (the paper sums over classes and halves).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from kd_perception.distillation.losses.loss import (
    register,
    same_shape,
    Signals,
    weighted_mean,
)
from kd_perception.distillation.losses.outputs import as_form, LOGITS_FORM, OutputLoss


@register('mse')
@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(OutputLoss):
    """Squared differences to the teacher's outputs."""

    per_pixel: ClassVar[bool] = True

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the error, a scalar."""
        teacher, weights = signals.taught()
        return mean_squared_error(signals.student, teacher, self.of, weights=weights)


def mean_squared_error(student: torch.Tensor, teacher: torch.Tensor, of: str = LOGITS_FORM, *,
                       weights: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return the mean squared error, a scalar; 0 where nothing counts.

    :param student: float logits ``[N, K, h, w]``.
    :param teacher: float logits of the same shape; no gradient flows into them.
    :param of: ``logits`` or ``probabilities``.
    :param weights: float ``[N, h, w]``, what each pixel counts; None: all the same.
    :raises ConfigError: when the shapes differ.
    """
    same_shape(student, teacher)
    pixels = (as_form(student, of) - as_form(teacher.detach(), of)).square().mean(dim=1)
    return pixels.mean() if weights is None else weighted_mean(pixels, weights)
