"""
Kullback-Leibler divergence from the teacher, per pixel, with temperature.

    L = tau^2 / |V| sum_V sum_k p_k (log p_k - log q_k)
    p = softmax(t / tau),  q = softmax(s / tau)

after Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). Everything stays in log
space: ``softmax().log()`` underflows. The mean is over valid pixels, so that the loss does not
depend on the size of the view; tau squared keeps the gradient's size independent of tau.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from kd_perception.errors import ConfigError


def kl_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float, *,
                  valid: torch.Tensor | None = None) -> torch.Tensor:
    """
    Return the divergence of ``student`` from ``teacher``, a scalar; 0 where nothing is valid.

    :param student: float logits ``[N, K, h, w]``; computed in float32 whatever comes in.
    :param teacher: float logits of the same shape; no gradient flows into them.
    :param valid: bool ``[N, h, w]``; None takes all pixels.
    :raises ConfigError: when the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ConfigError(f'student logits {tuple(student.shape)} and teacher logits '
                          f'{tuple(teacher.shape)} must have one shape')
    log_p = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_q = functional.log_softmax(student.float() / temperature, dim=1)
    pixels = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    if valid is None:
        return pixels.mean() * temperature ** 2
    weight = valid.to(pixels.dtype)
    return (pixels * weight).sum() / weight.sum().clamp(min=1.0) * temperature ** 2
