from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_perception.distillation.losses.cross_entropy import (
    class_weights_from_pixels,
    cross_entropy,
)


def independent(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray,
                smoothing: float) -> float:
    """Return the loss by the formula of the module, pixel by pixel in float64."""
    classes = logits.shape[1]
    above = below = 0.0
    for n, row, column in np.argwhere(labels != 255):
        z = logits[n, :, row, column]
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        truth = labels[n, row, column]
        above -= (1 - smoothing) * weights[truth] * log_p[truth]
        above -= smoothing / classes * (weights * log_p).sum()
        below += weights[truth]
    return above / below


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('weighted', [False, True])
def test_agrees_with_an_independent_computation(smoothing: float, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (2, 4, 5, 3))
    labels = rng.integers(0, 4, (2, 5, 3)).astype(np.uint8)
    labels[0, 0] = 255
    weights = np.array([1.0, 2.0, 0.5, 4.0]) if weighted else np.ones(4)
    got = cross_entropy(torch.tensor(logits, dtype=torch.float32), torch.from_numpy(labels),
                        class_weights=torch.tensor(weights, dtype=torch.float32)
                        if weighted else None, label_smoothing=smoothing)
    assert float(got) == pytest.approx(independent(logits, labels, weights, smoothing), rel=1e-5)


def test_the_gradient_is_that_of_the_values() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (1, 4, 4), dtype=torch.uint8)
    labels[0, 0, 0] = 255
    cross_entropy(logits, labels).backward()
    direction = torch.randn_like(logits)
    with torch.no_grad():
        step = 1e-2
        slope = (cross_entropy(logits + step * direction, labels)
                 - cross_entropy(logits - step * direction, labels)) / (2 * step)
    assert float((logits.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-2)
    assert not logits.grad[0, :, 0, 0].any()


def test_nothing_labelled_is_zero_and_not_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert float(loss) == 0
    assert not logits.grad.any()


def test_coarse_logits_are_brought_to_the_labels() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0, :, 0] = logits[:, 1, :, 1] = 20.0
    labels = torch.tensor([[0, 0, 1, 1]] * 4, dtype=torch.uint8)[None]
    assert float(cross_entropy(logits, labels)) < 0.01


def test_class_weights() -> None:
    pixels = np.array([900, 90, 10, 0])
    assert class_weights_from_pixels(pixels, 'none') is None
    assert class_weights_from_pixels(np.zeros(4), 'log') is None
    log = class_weights_from_pixels(pixels, 'log')
    assert log is not None
    raw = 1 / np.log(1.02 + np.array([0.9, 0.09, 0.01]))
    np.testing.assert_allclose(log[:3] / log[0], raw / raw[0], rtol=1e-5)
    assert log[3] == log[2]
    median = class_weights_from_pixels(pixels, 'median')
    assert median is not None
    # Median frequency would be 1 : 10 : 90; the ratio is bounded to 50.
    np.testing.assert_allclose(median[:3] / median[0], [1, 10, 50], rtol=1e-5)
    for weights in (log, median):
        assert (weights * pixels).sum() / pixels.sum() == pytest.approx(1)
