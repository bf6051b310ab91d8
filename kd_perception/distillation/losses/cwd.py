"""
Channel-wise distillation: where in the picture a class is seen, rather than what a pixel is.

    L = tau^2 / (N K)  sum_n sum_k KL(phi(t_nk) || phi(s_nk))
    phi(z) = softmax over the valid pixels of an image of z / tau

Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (2021). On logits the
authors take tau = 4, and weight 3. Each class has one distribution over the picture: pixels where
the teacher sees it most count most, so small objects are not drowned by the road. N counts the
images that have valid pixels.

The softmax runs over pixels, so it sees what is added to all logits of a pixel: soft labels that
keep only differences between classes cannot serve it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from kd_perception.distillation.losses.loss import (
    LOGITS,
    OUT,
    register,
    same_shape,
    Signals,
    SoftenedLoss,
)


@register('cwd')
@dataclass(frozen=True, kw_only=True)
class ChannelWise(SoftenedLoss):
    """Divergence of the places of each class."""

    looks_at: ClassVar[str] = LOGITS
    temperature: float = 4.0

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the divergence, a scalar."""
        teacher, weights = signals.taught()
        return channel_wise(signals.student, teacher, self.temperature, valid=weights > 0)


def channel_wise(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 4.0, *,
                 valid: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return the divergence over channels, a scalar; 0 where no pixel is valid.

    :param student: float logits ``[N, K, h, w]``; layers of ``K`` channels as well.
    :param teacher: float, of the same shape; no gradient flows into it.
    :param valid: bool ``[N, h, w]``; None: all.
    :raises ConfigError: when the shapes differ.
    """
    same_shape(student, teacher)
    if valid is None:
        valid = torch.ones_like(teacher[:, 0], dtype=torch.bool)
    out = ~valid[:, None]
    log_p, log_q = (
        functional.log_softmax((z.float() / temperature).masked_fill(out, OUT).flatten(2), dim=2)
        for z in (teacher.detach(), student))
    # An image without a valid pixel has an even distribution over what does not count.
    images = ((log_p.exp() * (log_p - log_q)).mean(dim=1) * valid.flatten(1)).sum(dim=1)
    count = valid.flatten(1).any(dim=1).sum().clamp(min=1)
    return images.sum() / count * temperature ** 2
