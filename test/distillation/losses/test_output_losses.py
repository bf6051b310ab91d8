"""What holds for every loss on outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kd_perception.distillation.losses import build_losses, loss_kinds
from kd_perception.distillation.losses.loss import (
    FEATURES,
    LOGITS,
    Loss,
    OTHERS,
    RELATIVE,
    Signals,
    SOFTMAX,
)
from kd_perception.errors import ConfigError

Make = Callable[..., Signals]
LOSSES = ({'kl': {}}, {'mse': {}}, {'mse': {'of': 'probabilities'}}, {'soft_cross_entropy': {}},
          {'dkd': {}}, {'dist': {}}, {'cwd': {}}, {'pairwise': {}}, {'pairwise': {'cells': 8}},
          {'pairwise': {'of': 'probabilities'}}, {'cross_image': {}},
          {'cross_image': {'cells': 24, 'of': 'probabilities'}})


@pytest.fixture(params=LOSSES, ids=lambda s: '-'.join(map(str, [*s, *next(iter(s.values()))])))
def loss(request: pytest.FixtureRequest) -> Loss:
    return next(iter(build_losses(request.param).values()))


def test_no_loss_on_outputs_is_left_out() -> None:
    on_outputs = {n for n, k in loss_kinds().items() if k.looks_at != FEATURES
                  and build_losses({n: {}})[n].looks_at in (SOFTMAX, OTHERS, RELATIVE, LOGITS)}
    assert on_outputs == {name for settings in LOSSES for name in settings}


@pytest.mark.parametrize('masked', [False, True])
def test_the_gradient_is_that_of_the_values(loss: Loss, make_signals: Make, masked: bool) -> None:
    signals = make_signals(masked=masked, labelled=True)
    loss(signals).backward()
    torch.manual_seed(0)
    direction = torch.randn_like(signals.student)
    direction /= direction.norm()

    def at(step: float) -> float:
        with torch.no_grad():
            return float(loss(replace(signals, student=signals.student + step * direction)))
    slope = (at(0.05) - at(-0.05)) / 0.1
    finer = (at(0.025) - at(-0.025)) / 0.05
    # Two step sizes take out the error of second order.
    expected = (4 * finer - slope) / 3
    assert float((signals.student.grad * direction).sum()) == pytest.approx(
        expected, rel=2e-2, abs=1e-4)


def test_invalid_pixels_count_nowhere(loss: Loss, make_signals: Make) -> None:
    signals = make_signals(masked=True, labelled=True)
    before = loss(signals)
    before.backward()
    out = (signals.weights == 0)[:, None]
    assert not signals.student.grad[out.expand_as(signals.student)].any()
    torch.manual_seed(1)
    other = replace(
        signals, student=torch.where(out, 40 * torch.randn(signals.student.shape),
                                     signals.student.detach()),
        teacher=torch.where(out, 40 * torch.randn(signals.student.shape), signals.teacher))
    assert float(loss(other)) == pytest.approx(float(before), rel=1e-5)


def test_nothing_valid_is_zero_with_a_zero_gradient(loss: Loss, make_signals: Make) -> None:
    signals = make_signals()
    value = loss(replace(signals, weights=torch.zeros_like(signals.weights)))
    value.backward()
    assert float(value) == 0
    assert not signals.student.grad.any()


def test_no_gradient_flows_into_the_teacher(loss: Loss, make_signals: Make) -> None:
    signals = make_signals()
    teacher = signals.teacher.clone().requires_grad_()
    loss(replace(signals, teacher=teacher)).backward()
    assert teacher.grad is None


def test_what_the_teacher_says_is_the_best_answer(loss: Loss, make_signals: Make) -> None:
    signals = make_signals(masked=True)
    same = signals.teacher.clone().requires_grad_()
    best = loss(replace(signals, student=same))
    best.backward()
    assert float(best) < 0.5 * float(loss(signals))
    assert float(same.grad.abs().max()) < 1e-3


def test_sees_of_the_logits_what_it_says(loss: Loss, make_signals: Make) -> None:
    signals = make_signals()
    torch.manual_seed(2)
    shifts = torch.randn(3, 1, 4, 6) * 5
    shifted = replace(signals, teacher=signals.teacher + shifts)
    blind = float(loss(shifted)) == pytest.approx(float(loss(signals)), rel=1e-4)
    assert blind == (loss.looks_at != LOGITS)


def test_extreme_logits_stay_finite(loss: Loss, make_signals: Make) -> None:
    signals = make_signals()
    hard = torch.full_like(signals.teacher, -1e4)
    hard[:, 0] = 0.0
    wrong = torch.zeros_like(hard)
    wrong[:, 1] = 500.0
    for student in (wrong, torch.zeros_like(hard), hard):
        student = student.clone().requires_grad_()
        value = loss(replace(signals, teacher=hard, student=student))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


def test_other_shapes_are_refused_where_classes_are_compared(make_signals: Make) -> None:
    signals = make_signals()
    for name in ('kl', 'mse', 'soft_cross_entropy', 'dkd', 'dist', 'cwd'):
        with pytest.raises(ConfigError, match='must have one shape') as caught:
            build_losses({name: {}})[name](replace(signals, student=signals.student[:, :, 1:]))
        assert '\n' not in str(caught.value)
