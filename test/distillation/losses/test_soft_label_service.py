"""What codecs serve: losses on decoded labels have nearly the gradient of the teacher's logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from kd_perception.distillation.losses import build_losses
from kd_perception.distillation.losses.loss import Signals
from kd_perception.tasks.soft_labels import SoftLabelCodec

LABELS = torch.full((1, 30, 40), 255, dtype=torch.uint8)


def smooth(spread: float, seed: int) -> torch.Tensor:
    """Return logits [1, 11, 30, 40] with regions; at a spread of 8 their depth is 18."""
    generator = torch.Generator().manual_seed(seed)
    coarse = spread * torch.randn(1, 11, 5, 7, generator=generator)
    return functional.interpolate(coarse, (30, 40), mode='bilinear', align_corners=True)


def gradient(name: str, settings: dict[str, Any], teacher: torch.Tensor,
             student: torch.Tensor) -> torch.Tensor:
    student = student.clone().requires_grad_()
    build_losses({name: settings})[name](
        Signals(student=student, own=student, labels=LABELS, teacher=teacher)).backward()
    assert student.grad is not None
    return student.grad


def error(codec: SoftLabelCodec, name: str, temperature: float, spread: float) -> float:
    """Return how far the gradient is off, as a share of its length."""
    teacher = smooth(spread, 1)
    student = teacher + smooth(spread / 4, 2)
    back = torch.from_numpy(codec.decode(codec.encode(teacher[0].numpy())))[None]
    settings = {'temperature': temperature}
    true = gradient(name, settings, teacher, student)
    return float((gradient(name, settings, back, student) - true).norm() / true.norm())


@pytest.mark.parametrize('spread', [8.0, 16.0])
@pytest.mark.parametrize(('name', 'looks_at', 'temperature'), [
    ('kl', 'softmax', 0.5), ('kl', 'softmax', 4.0), ('kl', 'softmax', 16.0),
    ('dist', 'softmax', 4.0), ('dkd', 'the other classes', 1.0),
    ('dkd', 'the other classes', 4.0), ('dkd', 'the other classes', 16.0)])
def test_what_is_served_is_near(name: str, looks_at: str, temperature: float,
                                spread: float) -> None:
    served = [c for c in ('fp16', 'u8', 'packed')
              if SoftLabelCodec(c).serves(looks_at, temperature)]
    assert served[:2] == ['fp16', 'u8']
    for codec in served:
        assert error(SoftLabelCodec(codec, 1), name, temperature, spread) < 0.1, codec


@pytest.mark.parametrize(('codec', 'name', 'looks_at', 'temperature'), [
    (SoftLabelCodec(stride=1), 'kl', 'softmax', 8.0),
    (SoftLabelCodec(stride=1), 'kl', 'softmax', 100.0),
    (SoftLabelCodec(stride=1), 'dkd', 'the other classes', 4.0),
    (SoftLabelCodec('topk', 1, temperature=4.0), 'kl', 'softmax', 4.0),
    (SoftLabelCodec('topk', 1, temperature=4.0), 'dkd', 'the other classes', 4.0)])
def test_what_is_far_off_is_not_served(codec: SoftLabelCodec, name: str, looks_at: str,
                                       temperature: float) -> None:
    assert max(error(codec, name, temperature, spread) for spread in (8.0, 24.0)) > 0.2
    assert not codec.serves(looks_at, temperature)
