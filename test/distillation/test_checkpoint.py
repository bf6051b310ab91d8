from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from kd_perception.distillation.checkpoint import load_checkpoint, read_state, save_checkpoint
from kd_perception.errors import TrainingError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last)


def trained(optimizer_class: type) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = network()
    optimizer = optimizer_class(module.parameters(), lr=0.1, **(
        {'momentum': 0.9} if optimizer_class is torch.optim.SGD else {}))
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return module, optimizer


@pytest.mark.parametrize('optimizer_class', [torch.optim.AdamW, torch.optim.SGD])
def test_everything_comes_back_to_the_bit(tmp_path: Path, optimizer_class: type) -> None:
    module, optimizer = trained(optimizer_class)
    path = tmp_path / 'c.safetensors'
    save_checkpoint(path, module, optimizer=optimizer, average=module, state={'step': 3})
    other, other_optimizer = trained(optimizer_class)
    average = network()
    state = load_checkpoint(path, other, optimizer=other_optimizer, average=average)
    assert state == read_state(path) == {'step': 3}
    for one, two, three in zip(module.state_dict().values(), other.state_dict().values(),
                               average.state_dict().values(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    for one, two in zip(optimizer.state_dict()['state'].values(),
                        other_optimizer.state_dict()['state'].values(), strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert torch.equal(value, two[key]) if torch.is_tensor(value) else value == two[key]
            if torch.is_tensor(value):
                assert value.stride() == two[key].stride()


def test_holds_no_pickle(tmp_path: Path) -> None:
    module, optimizer = trained(torch.optim.AdamW)
    save_checkpoint(tmp_path / 'c', module, optimizer=optimizer, state={})
    content = (tmp_path / 'c').read_bytes()
    size = int.from_bytes(content[:8], 'little')
    assert content[8:9] == b'{'
    assert content[8:8 + size].rstrip().endswith(b'}')


def test_damage_and_foreign_files_are_told_in_one_line(tmp_path: Path) -> None:
    module, optimizer = trained(torch.optim.AdamW)
    path = tmp_path / 'c.safetensors'
    save_checkpoint(path, module, optimizer=optimizer, state={})
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(TrainingError, match='damaged'):
        load_checkpoint(path, network())
    save_file({'a': torch.zeros(1)}, path)
    with pytest.raises(TrainingError, match='is no checkpoint'):
        read_state(path)
    path.write_bytes(whole)
    with pytest.raises(TrainingError, match='is of another network'):
        load_checkpoint(path, nn.Linear(1, 1))
