"""
Decoupled knowledge distillation, per pixel.

The divergence from the teacher falls into two parts: how sure one may be of the target class c,
and how the other classes compare among themselves. In plain ``kl`` the second counts by 1 - p_c
only, so next to nothing where the teacher is sure; here both are weighed freely::

    L = tau^2 / sum_i w_i  sum_i w_i [alpha KL(b(t) || b(s)) + beta KL(o(t) || o(s))]_i
    b(z) = (p_c, 1 - p_c),  p = softmax(z / tau)
    o(z) = softmax over the classes other than c of z / tau

Zhao et al., "Decoupled Knowledge Distillation" (2022); alpha, beta and tau are those of the
authors for CIFAR-100. The target class of a pixel is its ground truth where it is labelled, as
in the paper, and the teacher's decision elsewhere: bags have no labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from kd_perception.distillation.losses.loss import (
    in_range,
    OTHERS,
    OUT,
    register,
    same_shape,
    Signals,
    SoftenedLoss,
    weighted_mean,
)
from kd_perception.distillation.losses.weighting import decisions
from kd_perception.errors import ConfigError


@register('dkd')
@dataclass(frozen=True, kw_only=True)
class DecoupledDistillation(SoftenedLoss):
    """
    Sureness of the target class and comparison of all others, weighed apart.

    :param alpha: weight of the target class against all others.
    :param beta: weight of the other classes among themselves.
    """

    looks_at: ClassVar[str] = OTHERS
    per_pixel: ClassVar[bool] = True
    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('alpha', self.alpha, 0, 1e6)
        in_range('beta', self.beta, 0, 1e6)
        if not self.alpha and not self.beta:
            raise ConfigError('alpha: is 0 and so is beta, which leaves nothing to learn')

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the sum of both parts, a scalar."""
        teacher, weights = signals.taught()
        return decoupled(signals.student, teacher, decisions(teacher, signals.labels),
                         self.temperature, self.alpha, self.beta, weights=weights)


def decoupled(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor,
              temperature: float, alpha: float, beta: float, *,
              weights: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return the decoupled divergence, a scalar; 0 where nothing counts.

    :param student: float logits ``[N, K, h, w]`` of at least two classes.
    :param teacher: float logits of the same shape; no gradient flows into them.
    :param target: int64 ``[N, h, w]``, the target class of each pixel.
    :param weights: float ``[N, h, w]``, what each pixel counts; None: all the same.
    :raises ConfigError: when the shapes differ or there is but one class.
    """
    same_shape(student, teacher)
    if student.shape[1] < 2:
        raise ConfigError('dkd: needs at least two classes')
    chosen = target[:, None]
    sure_t, among_t = _parts(teacher.detach().float() / temperature, chosen)
    sure_s, among_s = _parts(student.float() / temperature, chosen)
    pixels = (alpha * (sure_t.exp() * (sure_t - sure_s)).sum(dim=1)
              + beta * (among_t.exp() * (among_t - among_s)).sum(dim=1))
    mean = pixels.mean() if weights is None else weighted_mean(pixels, weights)
    return mean * temperature ** 2


def _parts(z: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the logs of both distributions of a pixel.

    :param z: float ``[N, K, h, w]``, logits over temperature.
    :param chosen: int64 ``[N, 1, h, w]``, the target class.
    :returns: ``[N, 2, h, w]`` (target, all others together) and ``[N, K, h, w]`` (among the
        others; far below 0 at the target).
    """
    others = z.scatter(1, chosen, OUT)
    both = torch.cat([z.gather(1, chosen), others.logsumexp(dim=1, keepdim=True)], dim=1)
    return functional.log_softmax(both, dim=1), functional.log_softmax(others, dim=1)
