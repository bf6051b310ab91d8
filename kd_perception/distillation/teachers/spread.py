"""
A network that is too large for one device, in parts on several.

With accelerate: parts are put onto all GPUs in order, what does not fit into the processor's
memory, and the rest onto the disk; inputs follow the parts from device to device. One part works
at a time, so this buys memory, not speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
import tempfile
from typing import Any
import weakref

from accelerate import dispatch_model, infer_auto_device_map
import torch
from torch import nn

from kd_perception.errors import first_line, TrainingError


def spread_over(module: nn.Module, device: torch.device,
                memory: Mapping[Any, Any] | None = None) -> str:
    """
    Put the parts of a module onto devices, in place, and say where they are.

    :param device: where inputs come from and outputs are wanted.
    :param memory: bytes or e.g. ``20GiB`` by device (GPUs by number, ``cpu``); None: all.
    :raises TrainingError: one line, when it cannot be divided like that.
    """
    try:
        places = infer_auto_device_map(module, max_memory=dict(memory) if memory else None,
                                       no_split_module_classes=blocks(module))
        if set(places.values()) == {'disk'}:
            raise ValueError('not one part fits into memory')
        folder = None
        if 'disk' in places.values():
            kept = tempfile.TemporaryDirectory(prefix='teacher-')
            folder = kept.name
            weakref.finalize(module, kept.cleanup)  # as long as the module lives
        dispatch_model(module, places, offload_dir=folder,
                       main_device=None if device.type == 'cpu' else _number(device))
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise TrainingError('distillation.teacher_devices auto: the teacher cannot be spread: '
                            f'{first_line(error)}; set distillation.teacher_memory, or '
                            'teacher_devices to one') from None
    counts = Counter(str(place) for place in places.values())
    return ', '.join(f'{place} ({count} parts)' for place, count in counts.items())


def blocks(module: nn.Module) -> list[str]:
    """
    Return the classes of modules that must stay in one piece.

    Inputs follow whole modules only: a block that adds its input to its output needs both on one
    device. Transformers name theirs; else these are the custom modules in sequences and lists.
    """
    named = getattr(module, '_no_split_modules', None)
    if named:
        return list(named)
    return sorted({type(child).__name__ for parent in module.modules()
                   if isinstance(parent, (nn.Sequential, nn.ModuleList))
                   for child in parent.children()
                   if not type(child).__module__.startswith('torch.nn')})


def _number(device: torch.device) -> int:
    return device.index or 0
