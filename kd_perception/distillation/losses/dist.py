"""
DIST: keep the relations between predictions, not the predictions themselves.

    L = beta (1 - mean_i r(q_i., p_i.)) + gamma (1 - mean_k r(q_.k, p_.k))
    p = softmax(t / tau),  q = softmax(s / tau),  r: Pearson's correlation

The first part relates the classes within each pixel i, the second the pixels of the whole batch
for each class k; means and correlations run over valid pixels alone. A correlation does not see
scale and shift, so a small student need not be as sure as a strong teacher.

Huang et al., "Knowledge Distillation from A Stronger Teacher" (2022). For segmentation the authors
take every pixel of the batch as a sample, beta = gamma = 1 and tau = 1, as the defaults here. With
several processes each relates the pixels of its own part of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from kd_perception.distillation.losses.loss import (
    in_range,
    register,
    same_shape,
    Signals,
    SoftenedLoss,
    weighted_mean,
)
from kd_perception.errors import ConfigError

_EPSILON = 1e-8


@register('dist')
@dataclass(frozen=True, kw_only=True)
class Dist(SoftenedLoss):
    """
    Correlation with the teacher, between classes and within them.

    :param beta: weight of the relations between the classes of a pixel.
    :param gamma: weight of the relations between the pixels of a class.
    """

    beta: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('beta', self.beta, 0, 1e6)
        in_range('gamma', self.gamma, 0, 1e6)
        if not self.beta and not self.gamma:
            raise ConfigError('beta: is 0 and so is gamma, which leaves nothing to learn')

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the sum of both parts, a scalar."""
        teacher, weights = signals.taught()
        return dist(signals.student, teacher, self.temperature, self.beta, self.gamma,
                    valid=weights > 0)


def dist(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0,
         beta: float = 1.0, gamma: float = 1.0, *,
         valid: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return what correlations lack to 1, a scalar; 0 where no pixel is valid.

    :param student: float logits ``[N, K, h, w]``.
    :param teacher: float logits of the same shape; no gradient flows into them.
    :param valid: bool ``[N, h, w]``; None: all.
    :raises ConfigError: when the shapes differ.
    """
    same_shape(student, teacher)
    if valid is None:
        valid = torch.ones_like(teacher[:, 0], dtype=torch.bool)
    counts = valid.float()
    q = functional.softmax(student.float() / temperature, dim=1)
    p = functional.softmax(teacher.detach().float() / temperature, dim=1)
    # The mean of a distribution over its classes is known.
    between = 1 - _correlation(q - 1 / q.shape[1], p - 1 / p.shape[1], (1,))
    mask, count = counts[:, None], counts.sum().clamp(min=1)
    q, p = (z - (z * mask).sum((0, 2, 3), keepdim=True) / count for z in (q, p))
    within = 1 - _correlation(q * mask, p * mask, (0, 2, 3)).mean()
    # Without a valid pixel there is nothing to correlate, which is no fault of the student.
    return beta * weighted_mean(between, counts) + gamma * within * counts.amax()


def _correlation(a: torch.Tensor, b: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Return Pearson's correlation of what has mean 0 along ``axes``; 0 where one is constant."""
    # One root of both, or its slope would be infinite where one of them does not vary.
    lengths = (a.square().sum(axes) * b.square().sum(axes) + _EPSILON ** 2).sqrt()
    return (a * b).sum(axes) / lengths
