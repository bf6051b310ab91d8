from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_perception.distillation.losses.kl import kl_divergence
from kd_perception.errors import ConfigError


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def independent(student: np.ndarray, teacher: np.ndarray, tau: float,
                valid: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the loss and its gradient by the student's logits, in float64, by hand."""
    p, q = softmax(teacher / tau), softmax(student / tau)
    total = 0.0
    for n, row, column in np.argwhere(valid):
        for k in range(student.shape[1]):
            total += p[n, k, row, column] * np.log(p[n, k, row, column] / q[n, k, row, column])
    # d KL / d s = (q - p) / tau; times tau squared leaves tau.
    gradient = tau * (q - p) * valid[:, None] / valid.sum()
    return tau ** 2 * total / valid.sum(), gradient


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (2, 5, 4, 3)), rng.normal(0, 3, (2, 5, 4, 3))


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('masked', [False, True])
def test_value_and_gradient_agree_with_an_independent_computation(
        logits: tuple[np.ndarray, np.ndarray], tau: float, masked: bool) -> None:
    student, teacher = logits
    valid = np.ones((2, 4, 3), bool)
    if masked:
        valid[0, :2] = False
        valid[1, 3, 1] = False
    expected, expected_gradient = independent(student, teacher, tau, valid)
    tensor = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = kl_divergence(tensor, torch.tensor(teacher), tau,
                         weights=torch.from_numpy(valid).float() if masked else None)
    loss.backward()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(tensor.grad, expected_gradient, atol=1e-6)


def test_a_golden_value_by_hand() -> None:
    # p = (0.8, 0.2), q = (0.5, 0.5): 0.8 ln 1.6 + 0.2 ln 0.4 = 0.192745
    teacher = torch.tensor([np.log(4.0), 0.0]).view(1, 2, 1, 1)
    student = torch.zeros(1, 2, 1, 1)
    assert float(kl_divergence(student, teacher, 1.0)) == pytest.approx(0.192745, abs=1e-6)
    # At temperature 2: p = (2/3, 1/3), so 2/3 ln 4/3 + 1/3 ln 2/3 = 0.056633, times 4.
    assert float(kl_divergence(student, teacher, 2.0)) == pytest.approx(0.226532, abs=1e-6)


def test_does_not_depend_on_the_size_of_the_view(logits: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = map(torch.tensor, logits)
    once = kl_divergence(student, teacher, 2.0)
    twice = kl_divergence(student.repeat(1, 1, 2, 2), teacher.repeat(1, 1, 2, 2), 2.0)
    assert float(once) == pytest.approx(float(twice))


def test_extreme_logits_stay_finite_even_in_half_precision() -> None:
    teacher = torch.tensor([0.0, -200.0, -90.0]).view(1, 3, 1, 1).half()
    student = torch.tensor([-100.0, 0.0, 50.0]).view(1, 3, 1, 1).half().requires_grad_()
    loss = kl_divergence(student, teacher, 1.0)
    loss.backward()
    assert float(loss) == pytest.approx(150.0, rel=1e-3)
    assert torch.isfinite(student.grad).all()


def test_nothing_valid_is_zero_with_a_zero_gradient() -> None:
    student = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = kl_divergence(student, torch.randn(1, 3, 2, 2), 1.0,
                         weights=torch.zeros(1, 2, 2))
    loss.backward()
    assert float(loss) == 0
    assert not student.grad.any()


def test_no_gradient_flows_into_the_teacher() -> None:
    teacher = torch.randn(1, 3, 2, 2, requires_grad=True)
    kl_divergence(torch.randn(1, 3, 2, 2, requires_grad=True), teacher, 1.0).backward()
    assert teacher.grad is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match='must have one shape'):
        kl_divergence(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 1), 1.0)
