"""
Hints: layers inside of the student come to say what layers inside of the teacher say.

    L = sum_(v, u)  1/2  mean_(n, c, i) (u_nci - r(v)_nci)^2

with a layer ``v`` of the student, its layer ``u`` of the teacher and ``r``, a 1x1 convolution to
the teacher's channels that is trained along and thrown away; after Romero et al., "FitNets: Hints
for Thin Deep Nets" (2015), equation 3. The mean over images, channels and cells stands where the
paper has a sum, so that the loss does not depend on the size of the view. Where the maps differ in
size, the finer one is brought to the coarser one's bilinearly.

The paper's two stages are two phases here: ``hint: {end: 0.3, ...}``, ``kl: {start: 0.3}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from kd_perception.distillation.features import coarser, FeatureLoss
from kd_perception.distillation.losses.loss import register, Signals
from kd_perception.networks.taps import Shape


@register('hint')
@dataclass(frozen=True, kw_only=True)
class Hint(FeatureLoss):
    """Layers of the student imitate layers of the teacher."""

    def adapters(self, student: Mapping[str, Shape],
                 teacher: Mapping[str, Shape]) -> nn.ModuleDict:
        """Return a 1x1 convolution for each layer, from its channels to the teacher's."""
        return nn.ModuleDict({
            _key(own): nn.Conv2d(student[own][0], teacher[other][0], 1)
            for own, other in self.layers.items()})

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the half mean square, summed over the pairs, a scalar."""
        assert isinstance(signals.adapter, nn.ModuleDict)
        return torch.stack([
            half_mean_square(signals.adapter[_key(name)](own), other)
            for name, own, other in self.pairs(signals)]).sum()


def half_mean_square(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """
    Return the half mean squared difference, a scalar; computed in float32.

    :param student: float ``[N, C, h, w]``.
    :param teacher: float ``[N, C, h', w']``.
    """
    own, other = coarser(student.float(), teacher.float())
    return 0.5 * (own - other).square().mean()


def _key(name: str) -> str:
    return name.replace('.', '/')  # torch allows no dots in the names of modules
