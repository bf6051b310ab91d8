"""
Kullback-Leibler divergence from the teacher, per pixel, with temperature.

    L = tau^2 / sum_i w_i  sum_i w_i sum_k p_ik (log p_ik - log q_ik)
    p = softmax(t / tau),  q = softmax(s / tau)

after Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). Everything stays in log
space: ``softmax().log()`` underflows. The mean is over valid pixels (w = 0 elsewhere), so that
the loss does not depend on the size of the view; tau squared keeps the gradient's size
independent of tau.
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


@register('kl')
@dataclass(frozen=True, kw_only=True)
class KullbackLeibler(SoftenedLoss):
    """Divergence of the student from the teacher."""

    per_pixel: ClassVar[bool] = True
    temperature: float = 2.0

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the divergence, a scalar."""
        teacher, weights = signals.taught()
        return kl_divergence(signals.student, teacher, self.temperature, weights=weights)


def kl_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float, *,
                  weights: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return the divergence of ``student`` from ``teacher``, a scalar; 0 where nothing counts.

    :param student: float logits ``[N, K, h, w]``; computed in float32 whatever comes in.
    :param teacher: float logits of the same shape; no gradient flows into them.
    :param weights: float ``[N, h, w]``, what each pixel counts; None: all the same.
    :raises ConfigError: when the shapes differ.
    """
    same_shape(student, teacher)
    log_p = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_q = functional.log_softmax(student.float() / temperature, dim=1)
    pixels = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    mean = pixels.mean() if weights is None else weighted_mean(pixels, weights)
    return mean * temperature ** 2
