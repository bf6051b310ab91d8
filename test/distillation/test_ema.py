from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_perception.distillation.ema import WeightAverage


def test_follows_the_recursion_and_copies_counters() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, 0.5)
    expected = network[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            network[0].weight.add_(1.0)
            network[1].num_batches_tracked.add_(1)
            network[1].running_mean.fill_(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
        average.update(network, step)
    torch.testing.assert_close(average.network[0].weight, expected)
    assert int(average.network[1].num_batches_tracked) == 5
    assert float(average.network[1].running_mean[0]) == pytest.approx(
        float(average.network[1].running_mean[1]))
    assert 3 < float(average.network[1].running_mean[0]) < 5
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
