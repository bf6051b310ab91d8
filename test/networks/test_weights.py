"""Weights as safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kd_perception.errors import BundleError, ConfigError
from kd_perception.networks.weights import load_weights, weights_to_bytes


def net(channels: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    first, second = net(), net()
    first(torch.rand(2, 3, 4, 4))  # moves the running statistics
    (tmp_path / 'w.safetensors').write_bytes(weights_to_bytes(first))
    load_weights(second, tmp_path / 'w.safetensors')
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_fp16_is_half_as_large_and_loads_as_fp32() -> None:
    first, second = net(4000), net(4000)
    full, half = weights_to_bytes(first), weights_to_bytes(first, 'fp16')
    assert len(half) < 0.55 * len(full)
    load_weights(second, half)
    assert second[0].weight.dtype == torch.float32
    assert torch.equal(second[0].weight, first[0].weight.half().float())
    assert second[1].num_batches_tracked.dtype == torch.int64


def test_fp16_keeps_what_it_cannot_hold() -> None:
    first, second = net(), net()
    with torch.no_grad():
        first[1].running_var[:2] = torch.tensor([1e-9, 1e6])
    load_weights(second, weights_to_bytes(first, 'fp16'))
    assert torch.equal(second[1].running_var, first[1].running_var)


def test_tied_tensors_are_saved() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    content, before = weights_to_bytes(module), module[0].weight.detach().clone()
    with torch.no_grad():
        module[0].weight.zero_()
    load_weights(module, content)
    assert torch.equal(module[1].weight, before)


@pytest.mark.parametrize('damage', ['truncate', 'garbage', 'empty'])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / 'w.safetensors'
    content = weights_to_bytes(net())
    path.write_bytes({'truncate': content[:-7], 'garbage': b'\xff' * 99, 'empty': b''}[damage])
    with pytest.raises(BundleError, match='damaged') as caught:
        load_weights(net(), path)
    assert '\n' not in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r'has shape .*the network needs'):
        load_weights(net(5), weights_to_bytes(net(4)), 'somewhere')
    with pytest.raises(BundleError, match='lacks 7 tensors'):
        load_weights(net(), weights_to_bytes(nn.Conv2d(3, 4, 1)))
    with pytest.raises(BundleError, match='not readable'):
        load_weights(net(), tmp_path / 'none')
    with pytest.raises(ConfigError, match='fp8'):
        weights_to_bytes(net(), 'fp8')


def test_a_refused_file_changes_nothing() -> None:
    module = net(5)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(BundleError):
        load_weights(module, weights_to_bytes(net(4)))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
