"""Weights to safetensors and back: no pickle anywhere."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
import torch
from torch import nn

from kd_perception.errors import BundleError, ConfigError, first_line

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


def weights_to_bytes(module: nn.Module, dtype: str | None = None) -> bytes:
    """
    Return all parameters and buffers of a module as safetensors.

    :param dtype: None keeps each tensor's type; ``fp16`` halves the file. Integer buffers keep
        theirs. Variances of batch normalisation that fp16 cannot hold stay float32.
    :raises ConfigError: for an unknown dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f'weights dtype {dtype!r}: one of {", ".join(DTYPES)}')
    tensors = {}
    for name, value in module.state_dict().items():
        value = value.detach().cpu()
        if dtype is not None and value.is_floating_point():
            smaller = value.to(DTYPES[dtype])
            if torch.isfinite(smaller).all() and not ((smaller == 0) & (value != 0)
                                                      & name.endswith('running_var')).any():
                value = smaller
        # Tied or sliced tensors share memory, which the format refuses.
        tensors[name] = value.contiguous().clone()
    return save(tensors)


def load_weights(module: nn.Module, source: Path | str | bytes, where: str = '') -> None:
    """
    Load safetensors into a module, strictly; every tensor takes the module's own type.

    :param source: a path, or the content itself.
    :param where: what to call it in messages; default the path.
    :raises BundleError: when the file is damaged or names and shapes do not fit the module.
    """
    if isinstance(source, bytes):
        content, where = source, where or 'weights'
    else:
        where = where or str(source)
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise BundleError(f'{where}: not readable: {error.strerror}') from None
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f'{where}: is no safetensors file or is damaged: '
                          f'{first_line(error)}') from None
    own = module.state_dict()
    missing, surplus = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or surplus:
        parts = [f'{label} {len(names)} tensors (first {names[0]})'
                 for label, names in (('lacks', missing), ('has unknown', surplus)) if names]
        raise BundleError(f'{where}: does not fit the network: {" and ".join(parts)}; the network '
                          'spec is not the one these weights were trained with')
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise BundleError(f'{where}: {name} has shape {tuple(value.shape)}, the network needs '
                              f'{tuple(own[name].shape)}')
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
