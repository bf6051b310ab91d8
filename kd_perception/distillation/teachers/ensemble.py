r"""
Several teachers that teach one student.

For the distributions ``p_i = softmax(t_i)`` of the teachers and weights ``w_i`` (``mean``)::

    p(x) = sum_i g_i(x) p_i(x),   g_i(x) = w_i / sum_j w_j

after You et al., "Learning from Multiple Teacher Networks" (2017). ``confident`` lets each pixel
be taught by who is sure of it::

    g_i(x) = w_i c_i(x) / sum_j w_j c_j(x),   c_i(x) = 1 - H(p_i(x)) / ln K

with the entropy ``H``: that the entropy of teachers should weigh them is from Kwon et al.,
"Adaptive Knowledge Distillation Based on Entropy" (2020); the gate is linear here, so that it has
no pole where a teacher is certain. A teacher that says nothing of a pixel has no say there. The
lesson is ``log p``; the loss then softens the joint distribution, not those of the teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch.nn import functional

from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.teachers.teacher import Lesson, Teacher
from kd_perception.networks.upsample import upsample

MEAN, CONFIDENT = 'mean', 'confident'
# Of a teacher that knows nothing: where all are like that, all count the same again.
_LEAST = 1e-4


class Ensemble:
    """
    Teachers of the same classes.

    :param combine: ``mean`` or ``confident``.
    :param weights: one per teacher; empty: all the same.
    """

    def __init__(self, teachers: Sequence[Teacher], combine: str = MEAN,
                 weights: Sequence[float] = ()) -> None:
        self._teachers = tuple(teachers)
        self._confident = combine == CONFIDENT
        self._weights = tuple(weights) or (1.0,) * len(self._teachers)

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return what they say together, on the finest of their grids; layers of the first."""
        lessons = [teacher.teach(batch, grid) for teacher in self._teachers]
        size = (max(x.logits.shape[2] for x in lessons), max(x.logits.shape[3] for x in lessons))
        said = [functional.log_softmax(upsample(x.logits.float(), size), 1) for x in lessons]
        valid = torch.stack([_valid(x.valid, size) for x in lessons])
        logits = together(torch.stack(said), valid, self._weights, self._confident)
        return Lesson(logits, valid.any(0), lessons[0].features)


def together(said: torch.Tensor, valid: torch.Tensor, weights: Sequence[float],
             confident: bool) -> torch.Tensor:
    """
    Return the logarithm of the joint distribution, float32 ``[N, K, h, w]``.

    :param said: float32 ``[T, N, K, h, w]``, log probabilities by teacher.
    :param valid: bool ``[T, N, h, w]``; where nobody says anything all count.
    """
    gates = torch.as_tensor(weights, dtype=said.dtype, device=said.device).view(-1, 1, 1, 1)
    gates = gates.expand(valid.shape)
    if confident:
        entropy = -(said.exp() * said).sum(2)
        gates = gates * (1 - entropy / math.log(max(2, said.shape[2]))).clamp(min=_LEAST)
    heard = gates * valid
    gates = torch.where(valid.any(0), heard, gates)
    return torch.logsumexp(said + (gates / gates.sum(0)).log()[:, :, None], 0)


def _valid(valid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(valid.shape[1:]) == size:
        return valid
    return functional.interpolate(valid[:, None].float(), size=size, mode='nearest-exact')[
        :, 0].bool()
