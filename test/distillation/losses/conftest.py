"""Outputs to compare, small enough for loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kd_perception.distillation.losses.loss import Signals

Make = Callable[..., Signals]


@pytest.fixture
def make_signals() -> Make:
    """Return a factory of signals: 3 images of 4 classes on a grid of 4 x 6, stride 2."""
    def make(*, masked: bool = False, labelled: bool = False, seed: int = 0) -> Signals:
        rng = np.random.default_rng(seed)
        student = torch.tensor(rng.normal(0, 2, (3, 4, 4, 6)), dtype=torch.float32)
        teacher = torch.tensor(rng.normal(0, 3, (3, 4, 4, 6)), dtype=torch.float32)
        valid = np.ones((3, 4, 6), np.float32)
        if masked:
            valid[0, :3] = 0
            valid[1, 2, 4] = 0
            valid[2] = 0
        labels = np.full((3, 8, 12), 255, np.uint8)
        if labelled:
            labels[:2] = np.kron(rng.integers(0, 4, (2, 4, 6)), np.ones((2, 2)))
        return Signals(student=student.requires_grad_(), own=student, teacher=teacher,
                       weights=torch.from_numpy(valid), labels=torch.from_numpy(labels))
    return make


@pytest.fixture
def in_numpy() -> Callable[[Signals], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return student, teacher (float64 ``[N, K, h, w]``) and validity (bool ``[N, h, w]``)."""
    def convert(signals: Signals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        teacher, weights = signals.taught()
        return (signals.student.detach().double().numpy(), teacher.double().numpy(),
                weights.numpy() > 0)
    return convert
