"""
Names of the processors here: what is fast and what was built depends on them.

Read from files alone, without a driver's tool, which may take a second.
"""

from __future__ import annotations

import os
from pathlib import Path
import platform

_NVIDIA = Path('/proc/driver/nvidia')
_BOARD = Path('/proc/device-tree/model')  # a Jetson has no driver files, but says what it is


def cpu_model() -> str:
    """Return the processor's name, with the matrix unit that decides default precisions."""
    name, flags = platform.processor() or platform.machine(), ''
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            key, _, value = line.partition(':')
            if key.strip() == 'model name':
                name = value.strip()
            elif key.strip() == 'flags':
                flags = value
    except OSError:
        pass
    units = [unit for unit, flag in (('AMX', 'amx_tile'), ('AVX-512', 'avx512f')) if flag in flags]
    return f'{name} ({", ".join(units)})' if units else name


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def nvidia() -> str:
    """Return models of NVIDIA GPUs and the driver's version, or the board's name, or ''."""
    words = []
    for path in (*sorted(_NVIDIA.glob('gpus/*/information')), _NVIDIA / 'version', _BOARD):
        try:
            text = path.read_text(errors='replace')
        except OSError:
            continue
        lines = [line.partition(':')[2].strip() for line in text.splitlines()
                 if line.startswith(('Model', 'NVRM version'))]
        words += lines or ([text.strip('\0 \n')] if path == _BOARD else [])
    return '; '.join(words)
