"""
Weights of other makers: read without running anything, and fitted onto a module.

``torch.load(weights_only=True)`` is the one door for files that are pickles: what holds more than
tensors is refused and not run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import json
from pathlib import Path
import re
from typing import Any
import zipfile

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import nn

from kd_perception.errors import BundleError, first_line

Tensors = dict[str, torch.Tensor]

# Under these a training checkpoint keeps its weights; the first that is there is taken.
_KEYS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'module', 'params',
         'weights')
_FOLDER_FILES = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin',
                 'pytorch_model.bin.index.json')
# Counters and tables that the module makes itself.
_OWN_MAKING = ('num_batches_tracked', 'position_ids', 'relative_position_index',
               'relative_coords_table', 'attn_mask')
# Heads that only help in training, and what profilers leave behind.
_UNUSED = re.compile(r'(^|\.)(aux_classifier|aux_head|auxiliary_head|auxlayer|total_ops|'
                     r'total_params)(\.|$)')
_DEPTH = 4


@dataclass(frozen=True)
class Fitted:
    """
    Weights under the module's own names.

    :param notes: what was done to them, in words.
    """

    tensors: Tensors
    notes: tuple[str, ...]


def read_tensors(path: Path, key: str = '') -> tuple[Tensors, str]:
    """
    Return the tensors of a weights file or a Hugging Face folder, and under which key they were.

    :param path: ``.pth``/``.pt``/``.bin``/``.safetensors``, or a folder with one.
    :param key: where in a checkpoint they are; empty finds out.
    :raises BundleError: one line, for a file that is none, is damaged or holds code.
    """
    if path.is_dir():
        return _read_folder(path), ''
    if not path.is_file():
        raise BundleError(f'{path}: no such weights file')
    if path.suffix == '.safetensors':
        try:
            return load_file(path), ''
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise BundleError(f'{path}: is no safetensors file or is damaged: '
                              f'{first_line(error)}') from None
    return _choose(_unpickled(path), path, key)


def fit(module: nn.Module, given: Mapping[str, torch.Tensor], where: str,
        num_classes: int = 0) -> Fitted:
    """
    Return ``given`` under the names of ``module``; prefixes of wrappers are taken off or put on.

    :param num_classes: for the hint at what is wrong.
    :raises BundleError: when tensors are missing, unknown or of another shape.
    """
    own = module.state_dict()
    strip, add = _prefixes(own, given)
    renamed = {add + name[len(strip):]: value for name, value in given.items()
               if name.startswith(strip)}
    outside = [name for name in given if not name.startswith(strip)]
    idle = [f'{name}.' for name, m in module.named_modules() if name and isinstance(
        m, nn.Identity)]
    unknown = [n for n in renamed if n not in own]
    dropped = [n for n in [*unknown, *outside] if unused(n)
               or any(n.startswith(i) for i in idle)]
    surplus = [n for n in [*unknown, *outside] if n not in set(dropped)]
    made = [n for n in own if n not in renamed and n.endswith(_OWN_MAKING)]
    missing = [n for n in own if n not in renamed and n not in set(made)]
    other = [n for n in own if n in renamed and renamed[n].shape != own[n].shape]
    if missing or surplus or other:
        matching = len(own) - len(missing) - len(other) - len(made)
        raise BundleError(_mismatch(where, own, renamed, (missing, surplus, other), matching,
                                    num_classes))
    notes = []
    if strip or add:
        notes.append(f'names {strip or "…"} became {add or "…"}')
    if dropped:
        notes.append(f'{len(dropped)} tensors that are not used were left out '
                     f'({_first(dropped, 2)})')
    tensors = {n: renamed.get(n, own[n]).to(own[n].dtype) for n in own}
    return Fitted(tensors, tuple(notes))


def unused(name: str) -> bool:
    """Return whether a tensor only helped in training, or is made by the module itself."""
    return bool(_UNUSED.search(name)) or name.endswith(_OWN_MAKING)


def _unpickled(path: Path) -> Any:
    try:
        if _is_script(path):
            raise BundleError(f'{path}: is a TorchScript archive, which is code; export it to '
                              'ONNX and use import-onnx, or save its state_dict()')
        return torch.load(path, map_location='cpu', weights_only=True)
    except BundleError:
        raise
    except Exception as error:  # unpickling raises whatever the bytes lead to
        text = str(error)
        found = re.search(r'GLOBAL ([\w.]+)', text)
        if found or 'weights_only' in text.lower() or 'weights only' in text.lower():
            what = f'objects of {found.group(1)}' if found else 'more than tensors'
            raise BundleError(
                f'{path}: holds {what}, and code in a weights file is never run; save '
                'model.state_dict() alone, or safetensors') from None
        raise BundleError(f'{path}: is no weights file of torch or is damaged: '
                          f'{first_line(error)}') from None


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(n.endswith('/constants.pkl') for n in archive.namelist())


def _choose(data: Any, path: Path, key: str) -> tuple[Tensors, str]:
    """Return the tensors of what a file held."""
    if key:
        for part in key.split('.'):
            if not isinstance(data, Mapping) or part not in data:
                has = ', '.join(map(str, list(data)[:8])) if isinstance(data, Mapping) else 'none'
                raise BundleError(f'{path}: has no key {key!r}; there is {has}')
            data = data[part]
        found = _tensors(data)
        if not found:
            raise BundleError(f'{path}: key {key!r} holds no tensors by name')
        return found, key
    if not isinstance(data, Mapping):
        raise BundleError(f'{path}: holds {type(data).__name__}, not tensors by name; save '
                          'model.state_dict()')
    found = _tensors(data)
    if found:
        return found, ''
    nested = {str(k): t for k, v in data.items() if (t := _tensors(v))
              and str(k) not in ('optimizer', 'optimizer_state_dict', 'scheduler', 'ema')}
    named = [k for k in _KEYS if k in nested]
    if not named and len(nested) == 1:
        named = list(nested)
    if not named:
        raise BundleError(f'{path}: holds no tensors by name'
                          + (f'; choose one of {", ".join(nested)} with --key' if nested else
                             f' but {", ".join(map(str, list(data)[:6])) or "nothing"}'))
    return nested[named[0]], named[0]


def _tensors(data: Any) -> Tensors:
    """Return the dense tensors of a mapping; {} where it is none, or holds other things mostly."""
    if not isinstance(data, Mapping):
        return {}
    found = {str(k): v for k, v in data.items() if isinstance(v, torch.Tensor)
             and v.layout == torch.strided and not v.is_quantized}
    return found if 2 * len(found) >= len(data) else {}


def _read_folder(folder: Path) -> Tensors:
    name = next((n for n in _FOLDER_FILES if (folder / n).is_file()), '')
    if not name:
        raise BundleError(f'{folder}: holds none of {", ".join(_FOLDER_FILES)}')
    if not name.endswith('.index.json'):
        return read_tensors(folder / name)[0]
    try:
        files = set(json.loads((folder / name).read_text())['weight_map'].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f'{folder / name}: not readable: {first_line(error)}') from None
    tensors: Tensors = {}
    for file in sorted(map(str, files)):
        if Path(file).name != file:
            raise BundleError(f'{folder / name}: names a file outside its folder: {file}')
        tensors.update(read_tensors(folder / file)[0])
    return tensors


def _prefixes(own: Mapping[str, torch.Tensor],
              given: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """Return the prefix to take off the given names and the one to put on, that fit most."""
    best, most = ('', ''), -1
    for strip in _common(given):
        for add in _common(own):
            count = sum(1 for name, value in given.items() if name.startswith(strip)
                        and (mine := own.get(add + name[len(strip):])) is not None
                        and mine.shape == value.shape)
            if count > most:
                best, most = (strip, add), count
    return best


def _common(names: Iterable[str]) -> list[str]:
    """Return the prefixes that at least half of the names have, shortest first."""
    names = list(names)
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split('.')
        for depth in range(1, min(len(parts), _DEPTH + 1)):
            counts['.'.join(parts[:depth]) + '.'] += 1
    return ['', *(p for p, n in counts.items() if 2 * n >= len(names))]


def _mismatch(where: str, own: Tensors, given: Tensors,
              problems: tuple[list[str], list[str], list[str]], matching: int,
              num_classes: int) -> str:
    missing, surplus, other = problems
    parts = []
    if missing:
        parts.append(f'{len(missing)} of {len(own)} tensors are missing ({_first(missing)})')
    if surplus:
        parts.append(f'{len(surplus)} are unknown ({_first(surplus)})')
    if other:
        first = other[0]
        parts.append(f'{len(other)} have another shape ({first} {list(given[first].shape)}, the '
                     f'network needs {list(own[first].shape)})')
    heads = [n for n in other if own[n].ndim and own[n].shape[0] == num_classes
             and given[n].ndim and given[n].shape[0] != num_classes]
    if heads == other and heads and not missing:
        hint = (f'the weights are for {given[heads[0]].shape[0]} classes, --classes names '
                f'{num_classes}')
    elif matching * 10 < len(own):
        hint = 'these are weights of another network'
    elif surplus and not missing and not other:
        hint = 'the network is smaller than the weights: check --arguments'
    else:
        hint = 'check --arguments (architecture, encoder, depth) against the training code'
    return f'{where}: does not fit the network: {", ".join(parts)}; likely: {hint}'


def _first(names: list[str], most: int = 3) -> str:
    return ', '.join(names[:most]) + (', …' if len(names) > most else '')
