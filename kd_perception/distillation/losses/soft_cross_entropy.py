"""
Cross-entropy against the teacher's distribution, per pixel: ground truth that is not certain.

    L = tau^2 / sum_i w_i  sum_i w_i sum_k p_ik (-log q_ik)
    p = softmax(t / tau),  q = softmax(s / tau)

The soft-target term of Hinton et al. (2015). Beside ``cross_entropy`` on ground truth y it makes
CE(y, s) + lambda CE(s, t), with lambda the ``weight`` of this one. It has the gradient of ``kl``
at the same temperature and is larger by the teacher's entropy, so its value says less: it does
not go to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from kd_perception.distillation.losses.loss import (
    register,
    same_shape,
    Signals,
    SoftenedLoss,
    weighted_mean,
)


@register('soft_cross_entropy')
@dataclass(frozen=True, kw_only=True)
class SoftCrossEntropy(SoftenedLoss):
    """The teacher's distribution as the target of a cross-entropy."""

    per_pixel: ClassVar[bool] = True

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the cross-entropy, a scalar."""
        teacher, weights = signals.taught()
        return soft_cross_entropy(signals.student, teacher, self.temperature, weights=weights)


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, *,
                       weights: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return the cross-entropy of ``student`` against ``teacher``; 0 where nothing counts.

    :param student: float logits ``[N, K, h, w]``; computed in float32 whatever comes in.
    :param teacher: float logits of the same shape; no gradient flows into them.
    :param weights: float ``[N, h, w]``, what each pixel counts; None: all the same.
    :raises ConfigError: when the shapes differ.
    """
    same_shape(student, teacher)
    p = functional.softmax(teacher.detach().float() / temperature, dim=1)
    log_q = functional.log_softmax(student.float() / temperature, dim=1)
    pixels = -(p * log_q).sum(dim=1)
    mean = pixels.mean() if weights is None else weighted_mean(pixels, weights)
    return mean * temperature ** 2
