"""Weights of other makers: nothing in them runs, and what does not fit is told."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from kd_perception.errors import BundleError, KdPerceptionError
from kd_perception.networks.state_dict import fit, read_tensors

FUZZ = int(os.environ.get('KD_PERCEPTION_FUZZ', '300'))


class Net(nn.Module):
    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        self.head = nn.Conv2d(width, classes, 1)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()


class Evil:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def refuse(path: Path, message: str, key: str = '') -> None:
    with pytest.raises(BundleError, match=message) as told:
        read_tensors(path, key)
    assert '\n' not in str(told.value)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_weights_file_never_runs(tmp_path: Path, legacy: bool) -> None:
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'args': Evil(tmp_path / 'ran')},
               tmp_path / 'w.pth', _use_new_zipfile_serialization=not legacy)
    refuse(tmp_path / 'w.pth', 'holds objects of .*mkdir, and code in a weights file is never run')
    assert not (tmp_path / 'ran').exists()
    torch.save(Net(), tmp_path / 'w.pth')
    refuse(tmp_path / 'w.pth', r'save model.state_dict\(\) alone')
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), tmp_path / 'w.pth')
    refuse(tmp_path / 'w.pth', 'TorchScript archive, which is code')


def test_weights_are_found_in_a_checkpoint(tmp_path: Path) -> None:
    state = Net().state_dict()
    for content, key in [(state, ''), ({'epoch': 3, 'state_dict': state}, 'state_dict'),
                         ({'model': state, 'ema': state, 'optimizer': {}}, 'model'),
                         ({'best': state, 'epoch': 1}, 'best')]:
        torch.save(content, tmp_path / 'w.pth')
        tensors, found = read_tensors(tmp_path / 'w.pth')
        assert found == key
        assert set(tensors) == set(state)
    torch.save({'a': state, 'b': state}, tmp_path / 'w.pth')
    refuse(tmp_path / 'w.pth', 'choose one of a, b with --key')
    assert read_tensors(tmp_path / 'w.pth', 'b')[1] == 'b'
    refuse(tmp_path / 'w.pth', "has no key 'c'; there is a, b", 'c')
    torch.save([1, 2], tmp_path / 'w.pth')
    refuse(tmp_path / 'w.pth', 'holds list, not tensors by name')
    refuse(tmp_path / 'none.pth', 'no such weights file')


@pytest.mark.parametrize(('strip', 'module'), [
    ('', Net()), ('module.', Net()), ('model.net.', Wrapped()), ('net.', Wrapped()),
    ('', Wrapped())])
def test_prefixes_of_wrappers_do_not_matter(strip: str, module: nn.Module) -> None:
    given = {strip + name: torch.full_like(value, 2) for name, value in Net().state_dict().items()}
    given = {n: v for n, v in given.items() if not n.endswith('num_batches_tracked')}
    given[f'{strip}aux_classifier.0.weight'] = torch.zeros(1)
    fitted = fit(module, given, 'w.pth')
    module.load_state_dict(fitted.tensors)
    assert all((p == 2).all() for p in module.parameters())
    assert any('left out' in note for note in fitted.notes)


@pytest.mark.parametrize(('made', 'message'), [
    (Net(classes=7), r'head.weight \[7, 8, 1, 1\], the network needs \[5, 8, 1, 1\]\); likely: '
                     'the weights are for 7 classes, --classes names 5'),
    (nn.Sequential(nn.Linear(3, 4)), '8 of 9 tensors are missing .*another network'),
    (Net(width=16), 'check --arguments')])
def test_what_does_not_fit_is_told_with_its_cause(made: nn.Module, message: str) -> None:
    with pytest.raises(BundleError, match=message) as told:
        fit(Net(), made.state_dict(), 'w.pth', 5)
    assert len(str(told.value)) < 400


def test_mutated_weights_are_read_or_refused(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / 'a.pth')
    torch.save(Net().state_dict(), tmp_path / 'b.pth', _use_new_zipfile_serialization=False)
    save_file(Net().state_dict(), tmp_path / 'c.safetensors')
    rng = np.random.default_rng(5)
    refused: list[str] = []
    for number in range(FUZZ):
        source = tmp_path / ('a.pth', 'b.pth', 'c.safetensors')[number % 3]
        data = bytearray(source.read_bytes())
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(256)
        if rng.random() < 0.2:
            data = data[:rng.integers(len(data))]
        path = tmp_path / f'mutated{source.suffix}'
        path.write_bytes(data)
        try:
            fit(Net(), read_tensors(path)[0], 'w')
        except KdPerceptionError as error:
            refused.append(str(error))
    assert refused
    assert not any('\n' in line for line in refused)
