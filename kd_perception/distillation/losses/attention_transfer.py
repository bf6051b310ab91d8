"""
Attention transfer: the student comes to be active where the teacher is.

    Q(A)_i = sum_c |A_ci|^p,   L = sum_(v, u)  1/2  mean_n || Q(v)/||Q(v)|| - Q(u)/||Q(u)|| ||^2

with Euclidean norms over the cells ``i``; after Zagoruyko and Komodakis, "Paying More Attention to
Attention" (2017), equation 2. The norm of the difference is squared, as its authors compute it,
so that the gradient is smooth where both agree. What comes out is 1 - cos of the angle between
both maps: 0 to 1 for each pair, whatever the size of the view. No adapter is needed: channels are
summed up. Where the maps differ in size, the finer one is brought to the coarser one's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from kd_perception.distillation.features import coarser, FeatureLoss
from kd_perception.distillation.losses.loss import in_range, register, Signals


@register('attention_transfer')
@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(FeatureLoss):
    """
    Maps of activity of the student imitate those of the teacher.

    :param power: exponent ``p`` of activations; the higher, the more the strongest count.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('power', self.power, 1, 8)

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the distance of the maps, summed over the pairs, a scalar."""
        return torch.stack([attention_distance(own, other, self.power)
                            for _, own, other in self.pairs(signals)]).sum()


def attention_distance(student: torch.Tensor, teacher: torch.Tensor,
                       power: float = 2.0) -> torch.Tensor:
    """
    Return half the squared distance of the normalised maps, mean over images, a scalar.

    :param student: float ``[N, C, h, w]``; computed in float32.
    :param teacher: float ``[N, C', h', w']``.
    """
    own, other = coarser(_activity(student, power), _activity(teacher, power))
    own, other = (functional.normalize(x.flatten(1), dim=1) for x in (own, other))
    return 0.5 * (own - other).square().sum(1).mean()


def _activity(features: torch.Tensor, power: float) -> torch.Tensor:
    """Return ``[N, 1, h, w]``, up to a factor for each image: powers would leave the format."""
    active = features.float().abs()
    largest = active.detach().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return (active / largest).pow(power).sum(1, keepdim=True)
