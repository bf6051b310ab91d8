from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_perception.distillation.losses import build_losses
from kd_perception.distillation.losses.attention_transfer import attention_distance
from kd_perception.distillation.losses.loss import Signals
from kd_perception.errors import ConfigError


def independent(student: np.ndarray, teacher: np.ndarray, power: float) -> float:
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        one, two = ((np.abs(x) ** power).sum(0).ravel() for x in (own, other))
        total += ((one / np.linalg.norm(one) - two / np.linalg.norm(two)) ** 2).sum() / 2
    return total / len(student)


def test_a_golden_value_by_hand() -> None:
    # Squares (9, 16) and (1, 0): the cosine of both is 9 / sqrt(81 + 256).
    student = torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    expected = 1 - 9 / np.sqrt(337)
    assert float(attention_distance(student, teacher)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('power', [1.0, 2.0, 4.0])
def test_value_and_gradient_agree_with_an_independent_computation(power: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 2, (2, 3, 4, 5)), rng.normal(0, 2, (2, 6, 4, 5))
    tensor = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = attention_distance(tensor, torch.tensor(teacher, dtype=torch.float32), power)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(independent(student, teacher, power), rel=1e-5)
    for place in ((0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 2)):
        step = np.zeros_like(student)
        step[place] = 1e-5
        slope = (independent(student + step, teacher, power)
                 - independent(student - step, teacher, power)) / 2e-5
        assert float(tensor.grad[place]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_channels_and_strength_do_not_matter_and_sizes_are_brought_together() -> None:
    maps = torch.randn(2, 3, 4, 6)
    assert float(attention_distance(maps, -5 * maps.repeat(1, 2, 1, 1))) == pytest.approx(
        0, abs=1e-6)
    flat = torch.ones(1, 3, 4, 6)
    assert float(attention_distance(flat, torch.ones(1, 2, 8, 12))) == pytest.approx(0, abs=1e-6)
    assert 0 < float(attention_distance(maps, torch.randn(2, 3, 9, 7))) < 1
    nothing = torch.zeros(1, 2, 3, 3, requires_grad=True)
    attention_distance(nothing, torch.rand(1, 2, 3, 3)).backward()
    assert torch.isfinite(nothing.grad).all()


def test_the_setting_reaches_the_loss() -> None:
    loss = build_losses({'attention_transfer': {
        'layers': {'a': 'b', 'c': 'b'}, 'power': 4}})['attention_transfer']
    a, b, c = torch.randn(3, 2, 3, 4, 4)
    nothing = torch.empty(0)
    got = loss(Signals(nothing, nothing, nothing, student_features={'a': a, 'c': c},
                       teacher_features={'b': b}))
    expected = attention_distance(a, b, 4) + attention_distance(c, b, 4)
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    assert loss.adapters({}, {}) is None
    with pytest.raises(ConfigError, match='attention_transfer.power: 9 is not within 1 to 8'):
        build_losses({'attention_transfer': {'layers': {'a': 'b'}, 'power': 9}})
