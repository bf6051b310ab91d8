"""
Checkpoints without pickle: one safetensors file, tensors in the body, scalars as JSON in its head.

One file means that weights, optimiser and counters can never be of different steps.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import nn
from torch.optim import Optimizer

from kd_perception.errors import TrainingError
from kd_perception.paths import atomic_file

_SCHEMA = 1


def save_checkpoint(path: Path, network: nn.Module, *, optimizer: Optimizer | None = None,
                    average: nn.Module | None = None, adapters: nn.Module | None = None,
                    state: Mapping[str, Any]) -> None:
    """
    Write a checkpoint atomically.

    :param adapters: what losses train besides the network.
    :param state: plain JSON values: counters, scores, hashes.
    """
    tensors = {f'network.{n}': t for n, t in network.state_dict().items()}
    if average is not None:
        tensors |= {f'average.{n}': t for n, t in average.state_dict().items()}
    if adapters is not None:
        tensors |= {f'adapters.{n}': t for n, t in adapters.state_dict().items()}
    scalars: dict[str, Any] = {}
    if optimizer is not None:
        for index, values in optimizer.state_dict()['state'].items():
            for key, value in values.items():
                if torch.is_tensor(value):
                    tensors[f'optimizer.{index}.{key}'] = value
                else:
                    scalars[f'{index}.{key}'] = value
    head = {'schema': _SCHEMA, 'state': dict(state), 'optimizer': scalars}
    # safetensors wants contiguous memory that no two tensors share.
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(plain, temporary, metadata={'kd_perception': json.dumps(head)})


def read_state(path: Path) -> dict[str, Any]:
    """
    Return the ``state`` of a checkpoint without reading its tensors.

    :raises TrainingError: when the file is no checkpoint or is damaged.
    """
    return _head(path)['state']


def load_checkpoint(path: Path, network: nn.Module, *, optimizer: Optimizer | None = None,
                    average: nn.Module | None = None,
                    adapters: nn.Module | None = None) -> dict[str, Any]:
    """
    Restore what was saved and return the ``state``.

    :raises TrainingError: when the file is damaged or is of another network.
    """
    head = _head(path)
    try:
        with safe_open(path, 'pt') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TrainingError(f'{path}: damaged checkpoint: {error}') from None
    _load_module(path, network, tensors, 'network.')
    if average is not None:
        _load_module(path, average, tensors, 'average.')
    if adapters is not None:
        _load_module(path, adapters, tensors, 'adapters.')
    if optimizer is not None:
        _load_optimizer(path, optimizer, tensors, head['optimizer'])
    return head['state']


def _head(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, 'pt') as file:
            head = json.loads((file.metadata() or {})['kd_perception'])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f'{path}: is no checkpoint or is damaged ({error}); delete it to '
                            'start anew') from None
    if head.get('schema') != _SCHEMA:
        raise TrainingError(f'{path}: checkpoint schema {head.get("schema")!r} is unknown')
    return head


def _load_module(path: Path, module: nn.Module, tensors: Mapping[str, torch.Tensor],
                 prefix: str) -> None:
    state = {n[len(prefix):]: t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f'{path}: is of another network: '
                            f'{str(error).splitlines()[-1].strip()}') from None


def _load_optimizer(path: Path, optimizer: Optimizer, tensors: Mapping[str, torch.Tensor],
                    scalars: Mapping[str, Any]) -> None:
    current = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith('optimizer.'):
            place, key = name[len('optimizer.'):].split('.', 1)
            state.setdefault(int(place), {})[key] = tensor
    for name, value in scalars.items():
        place, key = name.split('.', 1)
        state.setdefault(int(place), {})[key] = value
    if any(index >= len(parameters) for index in state):
        raise TrainingError(f'{path}: the optimiser is of another network')
    for index, values in state.items():
        for key, value in values.items():
            if torch.is_tensor(value) and value.shape == parameters[index].shape:
                # Same memory layout as the parameter, or every step would be slower.
                values[key] = torch.empty_like(parameters[index], dtype=value.dtype).copy_(value)
    optimizer.load_state_dict({**current, 'state': state})
