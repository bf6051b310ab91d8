"""Which number format a training step computes in, and on which device."""

from __future__ import annotations

import torch

from kd_perception.errors import ConfigError

_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


def choose_precision(wanted: str, device: torch.device) -> str:
    """
    Return ``fp32``, ``bf16`` or ``fp16``.

    ``auto`` takes bf16 where the hardware multiplies it (CPUs with AMX or AVX512-BF16, newer
    GPUs), fp16 on older GPUs, and fp32 elsewhere: emulated bf16 is slower than fp32.

    :raises ConfigError: when the device cannot train in the wanted format.
    """
    if wanted == 'auto':
        if device.type == 'cuda':
            return 'bf16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'fp16'
        return 'bf16' if device.type == 'cpu' and cpu_has_bf16() else 'fp32'
    if wanted == 'fp16' and device.type != 'cuda':
        raise ConfigError(f'optimization.precision: fp16 trains on GPUs only, not on '
                          f'{device.type}; use auto, bf16 or fp32')
    return wanted


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware."""
    return any(getattr(torch.cpu, name, bool)() for name in
               ('_is_amx_tile_supported', '_is_avx512_bf16_supported'))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which networks run."""
    return torch.autocast(device.type, dtype=_DTYPES.get(precision, torch.bfloat16),
                          enabled=precision != 'fp32')


def in_full(device: torch.device) -> torch.autocast:
    """Return the context in which all else is computed: in the format of what comes in."""
    return torch.autocast(device.type, enabled=False)
